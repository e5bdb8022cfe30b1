"""The commands about members and suspensions: standby, detach, attach, protect, suspend and freeze."""

import contextlib
import json
import re
from datetime import datetime
from typing import Annotated, Any

import typer

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.api.message_json import to_json
from controller_asg.cli.app import Address, AsJson, app
from controller_asg.cli.calls import (
    DEFAULT_ADDRESS,
    EXIT_BAD_INPUT,
    TIMEOUT_SECONDS,
    actor,
    controller,
    end,
)
from controller_asg.model.errors import Fault

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Instance ids; up to 20 of one group.")]
Replace = Annotated[bool, typer.Option("--replace", help="Keep the group's size: launch replacements.")]
For = Annotated[str, typer.Option("--for", metavar="TIME", help="It ends by itself: 90s, 30m, 2h, 1d.")]
Until = Annotated[str, typer.Option(metavar="WHEN", help="It ends by itself: 2028-03-01T14:00+01:00.")]
Reason = Annotated[str, typer.Option(help="Shown wherever it holds something back.")]
Processes = Annotated[
    list[str],
    typer.Argument(
        metavar="[PROCESS...]",
        help="Launch, Terminate, HealthCheck, ReplaceUnhealthy, AZRebalance, InstanceRefresh, AlarmNotification,"
        " ScheduledActions, ScaleOut, ScaleIn; all without any.",
    ),
]
OneGroup = Annotated[str, typer.Argument(metavar="[GROUP]", help="All groups without it, and new ones too.")]


@app.command(name="enter-standby")
def enter_standby(
    ids: Ids, replace: Replace = False, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """Take instances out of service; they stay members, and are neither judged nor terminated."""
    request = pb.EnterStandbyRequest(
        instance_ids=ids, should_decrement_desired_capacity=not replace, actor=actor()
    )
    with controller(address) as stub:
        answer = stub.EnterStandby(request, timeout=TIMEOUT_SECONDS)
    _show(ids, answer, "on standby", as_json)


@app.command(name="exit-standby")
def exit_standby(ids: Ids, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Put instances back into service; the group grows by as many."""
    with controller(address) as stub:
        answer = stub.ExitStandby(
            pb.ExitStandbyRequest(instance_ids=ids, actor=actor()), timeout=TIMEOUT_SECONDS
        )
    _show(ids, answer, "on the way back into service", as_json)


@app.command()
def detach(
    ids: Ids, replace: Replace = False, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """Take instances out of their group; they run on."""
    request = pb.DetachInstancesRequest(
        instance_ids=ids, should_decrement_desired_capacity=not replace, actor=actor()
    )
    with controller(address) as stub:
        answer = stub.DetachInstances(request, timeout=TIMEOUT_SECONDS)
    _show(ids, answer, "being detached", as_json)


@app.command()
def attach(group: str, ids: Ids, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Take running instances of no group, whose agents are set up, into a group; it grows by as many."""
    request = pb.AttachInstancesRequest(group=group, instance_ids=ids, actor=actor())
    with controller(address) as stub:
        answer = stub.AttachInstances(request, timeout=TIMEOUT_SECONDS)
    _show(ids, answer, "being attached", as_json)


@app.command()
def protect(
    ids: Ids,
    lasts: For = "",
    until: Until = "",
    reason: Reason = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Keep instances from being chosen when their group shrinks."""
    _protect(ids, True, address, as_json, reason=reason, **_end(lasts, until))


@app.command()
def unprotect(ids: Ids, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Let instances be chosen again when their group shrinks."""
    _protect(ids, False, address, as_json)


@app.command()
def suspend(
    group: str,
    processes: Processes = [],  # noqa: B006 - typer reads it, and nobody changes it
    lasts: For = "",
    until: Until = "",
    reason: Reason = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Hold processes of a group back; what they would do is shown by `why`."""
    _suspend(group, processes, address, as_json, reason=reason, **_end(lasts, until))


@app.command()
def resume(
    group: str,
    processes: Processes = [],  # noqa: B006 - as above
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Let processes of a group go on."""
    _resume(group, processes, address, as_json)


@app.command()
def freeze(
    group: OneGroup = "",
    lasts: For = "",
    until: Until = "",
    reason: Reason = "",
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Suspend everything: nothing is launched or terminated, and `why` tells what would have been."""
    _suspend(group, [], address, as_json, reason=reason, **_end(lasts, until))


@app.command()
def thaw(group: OneGroup = "", address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """End every suspension."""
    _resume(group, [], address, as_json)


def _protect(ids: list[str], protected: bool, address: str, as_json: bool, **hold: Any) -> None:
    request = pb.SetInstanceProtectionRequest(
        instance_ids=ids, protected_from_scale_in=protected, actor=actor(), **hold
    )
    with controller(address) as stub:
        answer = stub.SetInstanceProtection(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        typer.echo(json.dumps(to_json(answer), indent=2))
    else:
        _say_each(ids, answer.changed_instance_ids, "protected" if protected else "no longer protected")


def _suspend(group: str, processes: list[str], address: str, as_json: bool, **hold: Any) -> None:
    request = pb.SuspendProcessesRequest(group=group, processes=processes, actor=actor(), **hold)
    with controller(address) as stub:
        answer = stub.SuspendProcesses(request, timeout=TIMEOUT_SECONDS)
    word = f"{', '.join(processes)} suspended" if processes else "frozen"
    _say_groups(answer.changed_groups, f"{word} now", f"{word} already", as_json)


def _resume(group: str, processes: list[str], address: str, as_json: bool) -> None:
    with controller(address) as stub:
        request = pb.ResumeProcessesRequest(group=group, processes=processes)
        answer = stub.ResumeProcesses(request, timeout=TIMEOUT_SECONDS)
    what = ", ".join(processes) or "everything"
    _say_groups(answer.changed_groups, f"{what} goes on", "nothing was suspended", as_json)


def _say_groups(changed: Any, now: str, already: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"changed_groups": list(changed)}, indent=2))
        return
    for name in changed:
        typer.echo(f"{name}: {now}")
    if not changed:
        typer.echo(already)


def _show(ids: list[str], answer: Any, state: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(to_json(answer), indent=2))
        return
    _say_each(ids, answer.changed_instance_ids, state)
    typer.echo(f"{answer.group} wants {answer.desired_capacity}")


def _say_each(ids: list[str], changed: Any, state: str) -> None:
    for instance_id in dict.fromkeys(ids):
        was = "" if instance_id in changed else "already "
        typer.echo(f"{instance_id} is {was}{state}")


def _end(lasts: str, until: str) -> dict[str, Any]:
    """The request's `seconds` or `until`, or neither."""
    if lasts:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", lasts.strip())
        if found is None:
            end([Fault("--for", f"{lasts!r} is no time", "write it like 90s, 30m, 2h or 1d")], EXIT_BAD_INPUT)
        seconds = float(found[1]) * UNITS[found[2]]
    if until:
        at = None
        with contextlib.suppress(ValueError):
            at = datetime.fromisoformat(until)
        if at is None or at.tzinfo is None or not 1 < at.year < 9999:
            what = f"{until!r} is no time with a zone"
            end([Fault("--until", what, "write it like 2028-03-01T14:00+01:00")], EXIT_BAD_INPUT)
    return ({"seconds": seconds} if lasts else {}) | ({"until": at} if until else {})
