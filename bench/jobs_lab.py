"""Do jobs on real machines live through scaling in? Each holds a lease of its agent while it runs.

A job asks the agent of an instance in service for a lease, over HTTP as a program on it would. An agent that drains
refuses, and the job is asked elsewhere; from the answer on it must come to its end. Meanwhile the desired capacity
jumps at random. A job whose machine goes before it has ended is interrupted.
"""

import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
from asg_lab.deployment import wait_until

from bench.figure import Measured, Measurement, Run
from bench.lab_fleet import AGENT_PORT, GROUP, HTTP_TOKEN, LabFleet

AT_ONCE = 4
SHORTEST_SECONDS = 2.0
JUMP_SECONDS = (4.0, 15.0)
LARGEST = 5
REFUSED = 75  # the exit code of a job that began nowhere (EX_TEMPFAIL)
LOOK_SECONDS = 0.2

_JOB = f"""
import json, sys, time, urllib.error, urllib.request
owner, seconds = sys.argv[1], float(sys.argv[2])
token = open("/{HTTP_TOKEN}").read().strip()
def lease(method, **keys):
    body = json.dumps(dict(owner=owner, **keys)).encode()
    request = urllib.request.Request("http://127.0.0.1:{AGENT_PORT}/busy", data=body, method=method)
    request.add_header("Authorization", "Bearer " + token)
    urllib.request.urlopen(request, timeout=10).read()
try:
    lease("POST", reason="a job", seconds=seconds + 60)
except urllib.error.HTTPError as error:
    sys.exit({REFUSED} if error.code == 409 else 1)
print("begun", flush=True)
time.sleep(seconds)
lease("DELETE")
print("ended", flush=True)
"""


@dataclass(slots=True)
class _Tally:
    ended: int = 0
    refused: int = 0
    interrupted: int = 0


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    chance = random.Random(sizes.seed)
    drains = fleet.documents()
    drains[GROUP] |= {"drain": True, "drain_timeout_seconds": 4 * sizes.lab_job_longest_seconds}
    fleet.lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": drains})
    began = time.time()
    try:
        tally = _work(fleet, chance, run)
    finally:
        fleet.lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": fleet.documents()})
    yield Measured(
        "jobs_interrupted_lab",
        tally.interrupted,
        "jobs",
        0,
        tally.interrupted == 0,
        ("lab_jobs", "lab_job_longest_seconds"),
        extra={
            "ended": tally.ended,
            "refused": tally.refused,
            "terminations": len(fleet.calls("TerminateInstances", began)),
        },
    )


def _work(fleet: LabFleet, chance: random.Random, run: Run) -> _Tally:
    tally, running, sizes = _Tally(), list["subprocess.Popen[str]"](), run.sizes
    left, jump_at = sizes.lab_jobs, 0.0
    while left or running:
        if time.time() >= jump_at:
            _jump(fleet, chance.randint(1, LARGEST))
            jump_at = time.time() + chance.uniform(*JUMP_SECONDS)
        for job in [each for each in running if each.poll() is not None]:
            running.remove(job)
            left += _end(job, tally)
            run.say(f"{tally.ended} jobs ended, {tally.refused} refused, {tally.interrupted} interrupted")
        serving = sorted(fleet.serving())
        if left and len(running) < AT_ONCE and serving:
            left -= 1
            seconds = chance.uniform(SHORTEST_SECONDS, sizes.lab_job_longest_seconds)
            running.append(_begin(fleet, chance.choice(serving), f"job-{left}", seconds))
        time.sleep(LOOK_SECONDS)
    return tally


def _jump(fleet: LabFleet, size: int) -> None:
    def asked() -> bool:
        try:
            fleet.set_desired(size)
        except grpc.RpcError:
            return False
        return True

    wait_until(f"the controller takes a size of {size}", asked, fleet.sizes.wait_seconds)


def _begin(fleet: LabFleet, instance_id: str, owner: str, seconds: float) -> "subprocess.Popen[str]":
    command = ["podman", "exec", fleet.lab.container(instance_id), "python3", "-c", _JOB, owner, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _end(job: "subprocess.Popen[str]", tally: _Tally) -> int:
    """Whether it has to be begun again: it was refused, or its machine went before it had begun."""
    assert job.stdout is not None
    said = job.stdout.read().split()
    if "ended" in said:
        tally.ended += 1
        return 0
    if "begun" in said:
        tally.interrupted += 1
        return 0
    tally.refused += 1
    return 1


MEASUREMENT = Measurement(("jobs_interrupted_lab",), measure)
