"""The orders about members and suspensions under /v1: each a JSON object in, one order, a JSON object out."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from controller_asg.api import orders
from controller_asg.engine.controller import Controller
from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.faults import unknown_key
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby, Move

ACTOR = "the HTTP API"
DECREMENT = "should_decrement_desired_capacity"
HOLD_KEYS: Mapping[str, tuple[type, ...]] = {"reason": (str,), "seconds": (int, float), "until": (str,)}

Handle = Callable[[Controller, Mapping[str, Any], Any], Awaitable[dict[str, Any]]]


async def enter_standby(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    told = _told(body, {DECREMENT: (bool,)})
    return await _move(controller, EnterStandby(_id(path), told.get(DECREMENT, True), ACTOR))


async def exit_standby(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    _told(body, {})
    return await _move(controller, ExitStandby(_id(path), ACTOR))


async def detach(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    told = _told(body, {DECREMENT: (bool,)})
    return await _move(controller, Detach(_id(path), told.get(DECREMENT, True), ACTOR))


async def attach(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    told = _told(body, {"instance_ids": (list,)})
    order = Attach(orders.instance_ids(_words(told, "instance_ids")), ACTOR)
    return await _move(controller, order, path["name"])


async def protect(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    told = _told(body, {"protected_from_scale_in": (bool,), **HOLD_KEYS})
    if "protected_from_scale_in" not in told:
        mend = 'write it like {"protected_from_scale_in": true, "seconds": 600}'
        raise SpecError((Fault("protected_from_scale_in", "is missing", mend),))
    changed = await controller.protect_instances(
        _id(path),
        told["protected_from_scale_in"],
        ACTOR,
        False,
        orders.reason(told.get("reason", "")),
        orders.until(told.get("seconds"), _time(told), datetime.now(UTC)),
    )
    return {"instance_id": path["instance_id"], "changed": bool(changed)}


async def suspend(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    told = _told(body, {"group": (str,), "processes": (list,), **HOLD_KEYS})
    group, now = told.get("group", ""), datetime.now(UTC)
    held = orders.hold(ACTOR, told.get("reason", ""), told.get("seconds"), _time(told), not group, now)
    changed = await controller.suspend(group, orders.processes(_words(told, "processes")), held, False)
    return {"changed_groups": list(changed)}


async def resume(controller: Controller, path: Mapping[str, Any], body: Any) -> dict[str, Any]:
    told = _told(body, {"group": (str,), "processes": (list,)})
    names = orders.processes(_words(told, "processes"))
    return {"changed_groups": list(await controller.resume(told.get("group", ""), names, False))}


ORDERS: tuple[tuple[str, str, Handle], ...] = (
    ("/v1/instances/{instance_id}/enter-standby", "POST", enter_standby),
    ("/v1/instances/{instance_id}/exit-standby", "POST", exit_standby),
    ("/v1/instances/{instance_id}/detach", "POST", detach),
    ("/v1/instances/{instance_id}/protection", "PUT", protect),
    ("/v1/groups/{name}/attach", "POST", attach),
    ("/v1/suspend-processes", "POST", suspend),
    ("/v1/resume-processes", "POST", resume),
)


async def _move(controller: Controller, order: Move, group: str = "") -> dict[str, Any]:
    name, changed, desired = await controller.move_instances(order, False, group)
    return {"group": name, "changed_instance_ids": list(changed), "desired_capacity": desired}


def _id(path: Mapping[str, Any]) -> tuple[str, ...]:
    return orders.instance_ids((path["instance_id"],))


def _told(body: Any, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The body's values, each of its kind."""
    if not isinstance(body, dict):
        raise SpecError(
            (Fault("body", "is not a JSON object", f"write one with {', '.join(known) or 'no key'}"),)
        )
    faults = [
        unknown_key("", str(key), known) if known else Fault(str(key), "is no known key", "leave it out")
        for key in body
        if key not in known
    ]
    for key, kinds in known.items():
        if key in body and type(body[key]) not in kinds:
            words = {bool: "true or false", str: "text", list: "a list", int: "a number"}
            shown = json.dumps(body[key])[:60]
            faults.append(Fault(key, f"{shown} is not {words[kinds[0]]}", f"write {words[kinds[0]]}"))
    if faults:
        raise SpecError(tuple(faults))
    return body


def _words(told: Mapping[str, Any], key: str) -> list[str]:
    words = told.get(key, [])
    if not all(isinstance(each, str) for each in words):
        raise SpecError((Fault(key, "holds more than names", "write a list of names"),))
    return list(words)


def _time(told: Mapping[str, Any]) -> datetime | None:
    return orders.time(told["until"], "until") if "until" in told else None
