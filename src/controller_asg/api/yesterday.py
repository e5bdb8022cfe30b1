"""What a changed document would have done with the group's last day, beside what the one that is applied would have."""

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import structlog

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.engine.controller import Applied, Controller
from controller_asg.model.record import DemandMinute
from controller_asg.policy.serving import LEAD_SECONDS
from controller_asg.rehearse import METRIC

log = structlog.get_logger()

LEAST_MINUTES = 6 * 60
LIMIT_SECONDS = 2.0  # for all groups of a call; what is not ready then is not said
PROCESSES = 2  # at a time
COMMAND = ("-m", "controller_asg.rehearse.yesterday")


async def rehearse_yesterday(controller: Controller, applied: Sequence[Applied]) -> dict[str, pb.Yesterday]:
    """By group, of those that can be rehearsed in time: both documents scale by cpu_percent, and enough is recorded."""
    found: dict[str, pb.Yesterday] = {}
    room = asyncio.Semaphore(PROCESSES)

    async def rehearse(each: Applied) -> None:
        try:
            until = datetime.now(UTC)
            minutes = await controller.demand(each.name, until - timedelta(days=1), until)
            if len(minutes) >= LEAST_MINUTES:
                delay_seconds = _delay_seconds(controller, each.name)
                async with asyncio.TaskGroup() as both:
                    before, after = (
                        both.create_task(_outcome(document, minutes, delay_seconds, room), name=each.name)
                        for document in (each.before, each.after)
                    )
                found[each.name] = pb.Yesterday(
                    before=before.result(), after=after.result(), recorded_minutes=len(minutes)
                )
        except Exception:
            # The edge of a task, and an extra of the answer: its failure is told, and refuses nobody's document.
            log.exception("yesterday_failed", group=each.name)

    try:
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as tasks:
            for each in applied:
                if each.changed and _scales_by_cpu(each.before) and _scales_by_cpu(each.after):
                    tasks.create_task(rehearse(each), name=f"yesterday:{each.name}")
    except TimeoutError:
        log.info("yesterday_too_slow", limit_seconds=LIMIT_SECONDS)
    return found


async def _outcome(
    document: Any, minutes: Sequence[DemandMinute], delay_seconds: float, room: asyncio.Semaphore
) -> pb.Outcome:
    launch = document["launch"]
    image = {key: value for key, value in launch["image"].items() if key != "found_id"}
    task = {
        "group": {**document, "launch": {**launch, "image": image}},
        "minutes": [(minute.minute_at.timestamp(), minute.demand) for minute in minutes],
        "delay_seconds": delay_seconds,
        "first": max(1, round(minutes[0].in_service)),
    }
    async with room:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            told, _ = await process.communicate(json.dumps(task).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return pb.Outcome(**json.loads(told))


def _scales_by_cpu(document: dict[str, Any] | None) -> bool:
    return document is not None and all(
        policy.get("metric", METRIC) == METRIC for policy in document["policies"]
    )


def _delay_seconds(controller: Controller, group: str) -> float:
    """The median from launch to in service of those that are there."""
    took = [
        (each.instance.in_service_at - each.instance.launched_at).total_seconds()
        for each in controller.instances(group)
        if each.instance.in_service_at is not None
    ]
    return max(0.0, median(took)) if took else LEAD_SECONDS
