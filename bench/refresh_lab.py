"""Moments of a refresh on real machines, all of them at work, with fewer healthy instances than it promised."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

from asg_lab.deployment import wait_until

from asg.admin.v1 import admin_pb2
from bench.figure import Measured, Measurement, Run
from bench.lab_fleet import ACTOR, GROUP, LabFleet

HEALTHY_PERCENT = 75
LOOK_SECONDS = 0.2
LIMIT_SECONDS = 900.0
BURN_SECONDS = 300


def measure(run: Run) -> Iterator[Measured]:
    fleet, size = run.fleet(), run.sizes.lab_refresh_instances
    _apply(fleet, _document(fleet, size))
    try:
        before = wait_until(
            f"{size} in service",
            lambda: len(ids := fleet.serving()) == size and ids,
            run.sizes.wait_seconds,
            1.0,
            run.say,
        )
        for instance_id in before:
            fleet.lab.burn(instance_id, BURN_SECONDS)
        _apply(fleet, _document(fleet, size, tags={"release": "2"}))
        moments, status = _refreshed(fleet, run)
        replaced = len(before - fleet.serving())
    finally:
        _apply(fleet, fleet.documents()[GROUP])
    floor = math.ceil(size * HEALTHY_PERCENT / 100)
    below = sum(healthy < floor for healthy in moments)
    yield Measured(
        "refresh_below_healthy_lab",
        below,
        "moments",
        0,
        not below and status == "Successful" and replaced == size,
        ("lab_refresh_instances",),
        extra={
            "moments": len(moments),
            "fewest_healthy": min(moments),
            "min_healthy_percentage": HEALTHY_PERCENT,
            "replaced": replaced,
            "end": status,
        },
    )


def _refreshed(fleet: LabFleet, run: Run) -> tuple[list[int], str]:
    """How many were healthy at each moment, and how the refresh ended."""
    preferences = json.dumps({"min_healthy_percentage": HEALTHY_PERCENT})
    request = admin_pb2.StartInstanceRefreshRequest(group=GROUP, preferences_json=preferences, actor=ACTOR)
    fleet.ask("StartInstanceRefresh", request)
    moments, said, ends = list[int](), "", time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < ends:
        moments.append(
            sum(m["lifecycle_state"] == "InService" and m["health"] == "Healthy" for m in fleet.members())
        )
        found = fleet.ask("DescribeInstanceRefresh", admin_pb2.DescribeInstanceRefreshRequest(group=GROUP))
        refresh = found["instance_refresh"]
        if (progress := f"{refresh['status']}, {refresh['percentage_complete']} %") != said:
            run.say(said := progress)
        if "ended_at" in refresh:
            return moments, refresh["status"]
        time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"the refresh has not ended within {LIMIT_SECONDS:g} s")


def _document(fleet: LabFleet, size: int, **launch: Any) -> dict[str, Any]:
    own = {"min_size": size, "max_size": size, "policies": [], "launch": launch}
    return {**fleet.documents()[GROUP], **own}


def _apply(fleet: LabFleet, document: dict[str, Any]) -> None:
    fleet.lab.play("playbooks/apply_groups.yml", extra_vars={"asg_groups": {GROUP: document}})


MEASUREMENT = Measurement(("refresh_below_healthy_lab",), measure)
