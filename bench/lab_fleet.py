"""The deployed system that the lab figures share: site.yml run in a lab of its own, with one group made for measuring.

What a reader would get wrong: looking costs CPU on the machines that are measured. So nothing here starts a process in
a machine while a clock runs: the lab is asked through its control socket, the controller through its admin socket as
the host sees it (/proc/PID/root), agents from a process of the host in the machine's network. Only root may do that.

One clock: machines are containers of this host, so their times of day and monotonic times are the host's.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from asg_lab import control
from asg_lab.deployment import Deployment, wait_until
from google.protobuf.json_format import MessageToDict

from asg.admin.v1 import admin_pb2, admin_pb2_grpc
from bench.sizes import Sizes

GROUP = "bench"
CREATE_ABOVE, DELETE_BELOW = 80.0, 10.0
# Neither busy nor idle: an instance that says so changes nothing.
CALM = 45.0
HOT = 95.0
MAX_SIZE = 8
ADMIN_SOCKET = "run/controller-asg/admin.sock"
HTTP_TOKEN = "var/lib/monitor-agent/http-token"
AGENT_PORT = 7480
ADMIN_SECONDS = 10.0
ACTOR = "figures"
LOOK_SECONDS = 0.05

# Waits for the moment it is given, posts, and prints the time right before it did.
_POST = """
import sys, time, urllib.request
at, url, body, token = float(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), sys.argv[4]
request = urllib.request.Request(url, data=body, method="POST")
if token:
    request.add_header("Authorization", "Bearer " + token)
time.sleep(max(0.0, at - time.time()))
print(f"{time.time():.6f}", flush=True)
urllib.request.urlopen(request, timeout=10).read()
"""


class LabFleet:
    """The lab, its controller and the group `bench`."""

    def __init__(self, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.sizes = sizes
        self.say = say
        self.lab = Deployment(sizes.lab)
        self._pids: dict[str, int] = {}
        self._changed_at = 0.0

    def start(self, use_running: bool) -> None:
        """From nothing to one calm instance. Raises RuntimeError where a lab of that name belongs to someone else."""
        if os.geteuid() != 0:
            raise RuntimeError(
                "figures of a deployed system look into machines, and want root: sudo make figures"
            )
        if self._runs() and not use_running:
            raise RuntimeError(f"a lab {self.lab.name} runs already; end it, or name another by --lab")
        try:
            self.lab.start()
            self.lab.play("site.yml", on_line=self._tell_play, extra_vars={"asg_groups": self.documents()})
            self.rest(1)
        except BaseException:
            if not use_running:
                self.lab.down()
            raise

    def documents(self) -> dict[str, Any]:
        thresholds = {
            "type": "thresholds",
            "create_above": CREATE_ABOVE,
            "delete_below": DELETE_BELOW,
            "scale_out_cooldown_seconds": self.sizes.cooldown_seconds,
            "scale_in_cooldown_seconds": self.sizes.cooldown_seconds,
        }
        return {
            GROUP: {
                "min_size": 1,
                "max_size": MAX_SIZE,
                "growth_limit_percentage": 100_000,  # one launch after another is what is measured
                "default_instance_warmup_seconds": self.sizes.warmup_seconds,
                "policies": [thresholds],
            }
        }

    # The lab's side

    def calls(self, action: str, since: float) -> list[dict[str, Any]]:
        """Calls that arrived at the endpoint since then and were meant: dry runs are not."""
        found = control.ask(self.lab.name, "calls", unix_seconds=since)
        return [c for c in found if c["action"] == action and c["error_code"] != "DryRunOperation"]

    def launch_call(self, since: float) -> dict[str, Any]:
        """The first RunInstances since then, once it is there."""
        found: dict[str, Any] = wait_until(
            "a RunInstances call",
            lambda: next(iter(self.calls("RunInstances", since)), None),
            self.sizes.wait_seconds,
            LOOK_SECONDS,
            self.say,
        )
        self._changed_at = found["at"]
        return found

    def fault(self, kind: str, instance_id: str) -> float:
        """Kill or freeze a machine; returns the time right before that was asked for."""
        at = time.time()
        control.ask(self.lab.name, "fault_add", kind=kind, instance=instance_id)
        return at

    def alive(self) -> set[str]:
        """EC2's view: what of the group is pending or running."""
        return {
            each["InstanceId"]
            for each in self.lab.instances({"tag:controller-asg:group": GROUP})
            if each["State"]["Name"] in ("pending", "running")
        }

    # The controller's side

    def ask(self, call: str, request: Any) -> dict[str, Any]:
        """One call of the admin service, answered as a dict. Raises grpc.RpcError."""
        socket = f"unix:/proc/{self.pid(self.lab.controller_id)}/root/{ADMIN_SOCKET}"
        with grpc.insecure_channel(socket) as channel:
            method = getattr(admin_pb2_grpc.AdminServiceStub(channel), call)
            answer = method(request, timeout=ADMIN_SECONDS)
        return MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    def group(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("ListGroups", admin_pb2.ListGroupsRequest(name=GROUP))["groups"][0]
        return found

    def members(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("ListInstances", admin_pb2.ListInstancesRequest(group=GROUP))[
            "instances"
        ]
        return found

    def serving(self) -> set[str]:
        return {each["instance_id"] for each in self.members() if each["lifecycle_state"] == "InService"}

    def set_desired(self, capacity: int) -> None:
        self.ask(
            "SetDesiredCapacity",
            admin_pb2.SetDesiredCapacityRequest(group=GROUP, desired_capacity=capacity, actor=ACTOR),
        )

    def terminate(self, instance_id: str) -> None:
        """Out of the group, which shrinks by one."""
        self.ask(
            "TerminateInstance",
            admin_pb2.TerminateInstanceRequest(
                instance_id=instance_id, should_decrement_desired_capacity=True, actor=ACTOR
            ),
        )

    def new_member(self, before: set[str]) -> str:
        """The id of the instance that was not there before, once the controller knows it."""
        found: str = wait_until(
            "the new instance's id",
            lambda: next((m["instance_id"] for m in self.members() if m["instance_id"] not in before), ""),
            self.sizes.wait_seconds,
            LOOK_SECONDS,
            self.say,
        )
        return found

    def rest(self, size: int) -> list[str]:
        """`size` instances in service, past their warmup and calm, no cooldown running; their ids."""
        found: list[str] = wait_until(
            f"{size} calm in service", lambda: self._at_rest(size), self.sizes.wait_seconds, 0.2, self.say
        )
        # A cooldown is time itself: no state tells its end earlier.
        time.sleep(max(0.0, self._changed_at + self.sizes.cooldown_seconds + 0.5 - time.time()))
        return found

    def _at_rest(self, size: int) -> list[str]:
        try:
            group, members = self.group(), self.members()
        except grpc.RpcError:
            return []  # the controller is being started again
        for member in members:
            calm = member["metrics"].get("cpu_percent") == CALM
            if member["lifecycle_state"] == "InService" and member["health"] == "Healthy" and not calm:
                self.set_metric(member["instance_id"], CALM)
        if group["desired_capacity"] != size:
            self._changed_at = time.time()
            self.set_desired(size)
            return []
        ids = {member["instance_id"] for member in members}
        quiet = all(
            m["lifecycle_state"] == "InService"
            and m["metrics"].get("cpu_percent") == CALM
            and time.time() - unix_seconds(m["in_service_at"]) > self.sizes.warmup_seconds
            for m in members
        )
        return sorted(ids) if len(ids) == size and quiet and self.alive() == ids else []

    # The machines' side

    def pid(self, instance_id: str) -> int:
        """The process that is the machine's init, as the host numbers it."""
        if instance_id not in self._pids:
            done = subprocess.run(
                ["podman", "inspect", "-f", "{{.State.Pid}}", self.lab.container(instance_id)],
                capture_output=True,
                text=True,
                check=True,
            )
            self._pids[instance_id] = int(done.stdout)
        return self._pids[instance_id]

    def posting(self, instance_id: str, metric: float | None, at: float = 0.0) -> "subprocess.Popen[str]":
        """A process that will post /set-metric at that time, and print when it did."""
        pid = self.pid(instance_id)
        token_file = Path(f"/proc/{pid}/root/{HTTP_TOKEN}")
        token = token_file.read_text().strip() if token_file.exists() else ""
        body = f'{{"metric": {"null" if metric is None else metric}}}'
        url = f"http://127.0.0.1:{AGENT_PORT}/set-metric"
        command = [
            "nsenter",
            "-t",
            str(pid),
            "-n",
            sys.executable,
            "-c",
            _POST,
            f"{at:.6f}",
            url,
            body,
            token,
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def set_metric(self, instance_id: str, metric: float | None, at: float = 0.0) -> float:
        """Override the instance's load; returns the time right before the request was sent."""
        process = self.posting(instance_id, metric, at)
        out, error = process.communicate(timeout=self.sizes.wait_seconds)
        if process.returncode:
            raise RuntimeError(f"/set-metric on {instance_id}: {error.strip().splitlines()[-1]}")
        return float(out)

    def run_in(self, instance_id: str, *command: str) -> str:
        """What a command in a machine printed. Raises CalledProcessError."""
        done = self.lab.execute(instance_id, *command)
        done.check_returncode()
        return done.stdout

    def unit_property(self, instance_id: str, unit: str, name: str) -> str:
        return self.run_in(instance_id, "systemctl", "show", unit, "-p", name, "--value").strip()

    # Inside

    def _runs(self) -> bool:
        try:
            self.lab.lab("status", "--json")
        except subprocess.CalledProcessError:
            return False
        return True

    def _tell_play(self, text: str) -> None:
        if text.startswith("PLAY ["):
            self.say(text.partition("[")[2].partition("]")[0])


def unix_seconds(timestamp: str) -> float:
    """Of a protobuf Timestamp in its JSON form."""
    return datetime.fromisoformat(timestamp).timestamp()


def unix_of_monotonic(microseconds: int) -> float:
    """The time of day of a moment that systemd tells by CLOCK_MONOTONIC."""
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + microseconds / 1e6
