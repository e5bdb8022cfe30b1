"""What the agent and the controller cost their machines, as their units run there: memory and CPU.

Memory is VmRSS, files included, as ps and systemd count it. CPU is the scheduler's own account of all threads, in
nanoseconds, over a time at rest.
"""

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

from asg_lab.deployment import CONTROLLER_CLI

from asg.admin.v1 import admin_pb2
from bench.figure import Measured, Measurement, Run
from bench.lab_fleet import GROUP, LabFleet

AGENT_RSS_GOAL_MIB, AGENT_CPU_GOAL_PERCENT = 45.0, 0.5
CONTROLLER_RSS_GOAL_MIB, CONTROLLER_RSS_GOAL_RATIO = 150.0, 1.15
AGENT_UNIT, CONTROLLER_UNIT = "monitor-agent", "controller-asg"
CONTROLLER_PYTHON = CONTROLLER_CLI.rpartition("/")[0] + "/python"

_PROBE = """
import json, pathlib, sys, time
process = pathlib.Path("/proc", sys.argv[1])
status = dict(l.split(":", 1) for l in (process / "status").read_text().splitlines())
tasks = [t / "schedstat" for t in (process / "task").iterdir()]
nanoseconds = sum(int(t.read_text().split()[0]) for t in tasks)
print(json.dumps({"at": time.monotonic(), "cpu": nanoseconds / 1e9, "threads": len(tasks),
                  "rss": int(status["VmRSS"].split()[0]) / 1024}))
"""

# The controller's libraries and nothing of ours, each brought as far as any program that uses it must.
_BARE_IMPORTS = """
import asyncio, grpc, grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
import boto3, jinja2, pydantic, sqlalchemy, structlog, uvicorn
import sqlalchemy.dialects.sqlite
import starlette.applications, starlette.routing
boto3.client("ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
sqlalchemy.create_engine("sqlite://").connect().close()
for line in open("/proc/self/status"):
    if line.startswith("VmRSS"):
        print(int(line.split()[1]) / 1024)
"""


def measure_agent(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    (instance_id,) = fleet.rest(1)
    # Real readings: an override is one value that never moves, and saves the agent some sending.
    fleet.set_metric(instance_id, None)
    before = probe(fleet, instance_id, AGENT_UNIT)
    time.sleep(sizes.cost_seconds)
    after = probe(fleet, instance_id, AGENT_UNIT)
    assert before["pid"] == after["pid"], "the agent was started anew"
    settings = fleet.ask("GetStatus", admin_pb2.GetStatusRequest())["settings"]
    shared = {
        "sample_interval_seconds": float(settings["sample_interval_seconds"]),
        "threads": after["threads"],
    }
    rss = after["rss"]
    yield Measured(
        "agent_rss_mib",
        rss,
        "MiB",
        AGENT_RSS_GOAL_MIB,
        rss <= AGENT_RSS_GOAL_MIB,
        ("cost_seconds",),
        extra=shared,
    )
    percent = 100 * (after["cpu"] - before["cpu"]) / (after["at"] - before["at"])
    yield Measured(
        "agent_cpu_percent",
        percent,
        "% of one CPU",
        AGENT_CPU_GOAL_PERCENT,
        percent <= AGENT_CPU_GOAL_PERCENT,
        ("cost_seconds",),
        extra=shared,
    )


def measure_controller(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    machine = fleet.lab.controller_id
    for _ in range(sizes.controller_changes // 2):
        fleet.rest(sizes.controller_agents - 1)
        fleet.rest(sizes.controller_agents)
    fleet.rest(sizes.controller_agents)
    started_us = int(fleet.unit_property(machine, CONTROLLER_UNIT, "ExecMainStartTimestampMonotonic"))

    def age() -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC) - started_us / 1e6

    time.sleep(max(0.0, sizes.controller_seconds - age()))
    seen = probe(fleet, machine, CONTROLLER_UNIT)
    decisions = fleet.ask("ListDecisions", admin_pb2.ListDecisionsRequest(group=GROUP, limit=1))["decisions"]
    bare = [
        float(fleet.run_in(machine, CONTROLLER_PYTHON, "-c", _BARE_IMPORTS)) for _ in range(sizes.imports)
    ]
    value, baseline = seen["rss"], statistics.median(bare)
    yield Measured(
        "controller_rss_mib",
        value,
        "MiB",
        CONTROLLER_RSS_GOAL_MIB,
        value <= CONTROLLER_RSS_GOAL_MIB and value <= CONTROLLER_RSS_GOAL_RATIO * baseline,
        ("controller_agents", "controller_seconds", "controller_changes", "imports"),
        baseline=baseline,
        extra={
            "ratio": value / baseline,
            "goal_ratio": CONTROLLER_RSS_GOAL_RATIO,
            "age_seconds": age(),
            "decisions": int(decisions[0]["decision_id"]) if decisions else 0,
            "threads": seen["threads"],
        },
    )
    fleet.rest(1)


def probe(fleet: LabFleet, instance_id: str, unit: str) -> dict[str, Any]:
    """Memory, threads and CPU time of a unit's main process; one short process in the machine."""
    pid = fleet.unit_property(instance_id, unit, "MainPID")
    seen: dict[str, Any] = json.loads(fleet.run_in(instance_id, "python3", "-c", _PROBE, pid))
    return {"pid": pid, **seen}


AGENT = Measurement(("agent_rss_mib", "agent_cpu_percent"), measure_agent)
CONTROLLER = Measurement(("controller_rss_mib",), measure_controller)
