"""`lab fault …`: what can be broken, a command each."""

import json
from typing import Annotated, Any

import typer

from asg_lab import control
from asg_lab.faults import ANY_ACTION, Kind
from asg_lab.naming import NameOption

faults = typer.Typer(no_args_is_help=True, help="Break things on purpose, and mend them.")

Instance = Annotated[str, typer.Argument(help="Instance id (or its beginning), name tag or address.")]
Action = Annotated[str, typer.Argument(help=f"An API action such as RunInstances; {ANY_ACTION} for all.")]
Count = Annotated[int | None, typer.Option(min=1, help="End after this many calls.")]
ForSeconds = Annotated[float | None, typer.Option("--seconds", help="End after this time.")]
Seconds = Annotated[float, typer.Argument(min=0.0, help="How long.")]


def _show(answer: Any) -> None:
    typer.echo(json.dumps(answer))


@faults.command()
def kill(instance: Instance, name: NameOption = "demo") -> None:
    """Pull a machine's plug; EC2 shows it as stopped."""
    _show(control.ask(name, "fault_add", kind=Kind.KILL, instance=instance))


@faults.command()
def freeze(instance: Instance, name: NameOption = "demo") -> None:
    """Stop every process of a machine; EC2 shows it as running, then impaired."""
    _show(control.ask(name, "fault_add", kind=Kind.FREEZE, instance=instance))


@faults.command()
def thaw(instance: Instance, name: NameOption = "demo") -> None:
    """Let a frozen machine go on."""
    _show(control.ask(name, "fault_undo", kind=Kind.FREEZE, instance=instance))


@faults.command()
def cut(instance: Instance, name: NameOption = "demo") -> None:
    """Cut a machine off the network."""
    _show(control.ask(name, "fault_add", kind=Kind.CUT, instance=instance))


@faults.command()
def mend(instance: Instance, name: NameOption = "demo") -> None:
    """Let a machine back to the network."""
    _show(control.ask(name, "fault_undo", kind=Kind.CUT, instance=instance))


@faults.command(name="status-check")
def status_check(instance: Instance, name: NameOption = "demo") -> None:
    """Fail an instance's status checks although it is well; end it with `fault clear`."""
    _show(control.ask(name, "fault_add", kind=Kind.STATUS_CHECK, instance=instance))


@faults.command()
def throttle(
    action: Action, name: NameOption = "demo", count: Count = None, for_seconds: ForSeconds = None
) -> None:
    """Answer calls with RequestLimitExceeded (503)."""
    _api(name, Kind.THROTTLE, action, count, for_seconds)


@faults.command()
def delay(
    action: Action,
    seconds: Seconds,
    name: NameOption = "demo",
    count: Count = None,
) -> None:
    """Let calls wait before they are done."""
    _api(name, Kind.DELAY, action, count, None, seconds=seconds)


@faults.command(name="lost-answer")
def lost_answer(action: Action, name: NameOption = "demo", count: Count = None) -> None:
    """Do what calls ask for, and close the connection without an answer."""
    _api(name, Kind.LOST_ANSWER, action, count, None)


@faults.command()
def error(
    action: Action,
    code: Annotated[str, typer.Argument(help="An EC2 error code.")],
    name: NameOption = "demo",
    count: Count = None,
    for_seconds: ForSeconds = None,
) -> None:
    """Answer calls with an error."""
    _api(name, Kind.ERROR, action, count, for_seconds, error_code=code)


@faults.command()
def lag(seconds: Seconds, name: NameOption = "demo") -> None:
    """Answer Describe calls with what was true so long ago (from now on)."""
    _show(control.ask(name, "fault_add", kind=Kind.LAG, seconds=seconds))


@faults.command()
def capacity(
    name: NameOption = "demo",
    zone: Annotated[str | None, typer.Option(help="A zone; without it all.")] = None,
    instance_type: Annotated[str | None, typer.Option("--type", help="A type; without it all.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many instances of a type may live in a zone.")] = 0,
) -> None:
    """Refuse launches with InsufficientInstanceCapacity beyond a limit."""
    _show(
        control.ask(
            name, "fault_add", kind=Kind.CAPACITY, zone=zone, instance_type=instance_type, limit=limit
        )
    )


@faults.command(name="list")
def list_faults(name: NameOption = "demo") -> None:
    """List what is broken, one JSON object a line."""
    for fault in control.ask(name, "fault_list"):
        _show(fault)


@faults.command()
def clear(
    fault_id: Annotated[str | None, typer.Argument(help="A fault's id; without it all.")] = None,
    name: NameOption = "demo",
) -> None:
    """Mend what is broken: thaw, let back, answer again. (A killed machine is started by StartInstances.)"""
    for fault in control.ask(name, "fault_clear", fault_id=fault_id):
        _show(fault)


def _api(
    name: str, kind: Kind, action: str, count: int | None, for_seconds: float | None, **more: Any
) -> None:
    _show(
        control.ask(
            name, "fault_add", kind=kind, action=action, calls_left=count, for_seconds=for_seconds, **more
        )
    )
