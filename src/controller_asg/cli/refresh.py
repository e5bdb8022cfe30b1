"""The commands of instance refreshes. They only start, follow and steer it: interrupting one harms nothing."""

import json
import time
from typing import Annotated, Any

import typer

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg.api.message_json import to_json
from controller_asg.cli.app import Address, AsJson, app
from controller_asg.cli.calls import DEFAULT_ADDRESS, EXIT_FAILED, TIMEOUT_SECONDS, actor, controller, end
from controller_asg.cli.tables import Table, moment
from controller_asg.model.errors import Fault

ENDED = ("Successful", "Failed", "Cancelled", "RollbackSuccessful", "RollbackFailed")
SUCCESSFUL, ROLLED_BACK = ("Successful",), ("RollbackSuccessful",)
LOOK_SECONDS = 2.0
WAIT_SECONDS = 3600.0

Percent = Annotated[int | None, typer.Option(metavar="PERCENT")]
Seconds = Annotated[int | None, typer.Option(metavar="SECONDS")]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Follow it to its end; exit code 1 where that is not what was asked for."),
]
WaitTimeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=0, help="With --wait: the longest wait."),
]


@app.command(name="start-instance-refresh")
def start(
    group: str,
    min_healthy_percentage: Percent = None,
    max_healthy_percentage: Percent = None,
    instance_warmup_seconds: Annotated[float | None, typer.Option(metavar="SECONDS")] = None,
    checkpoint_percentages: Annotated[
        list[int] | None, typer.Option(metavar="PERCENT", help="May be given again.")
    ] = None,
    checkpoint_delay_seconds: Seconds = None,
    bake_time_seconds: Seconds = None,
    skip_matching: Annotated[
        bool, typer.Option("--skip-matching", help="Leave alone what is up to date.")
    ] = False,
    auto_rollback: Annotated[
        bool, typer.Option("--auto-rollback", help="Back to the earlier parameters where it would fail.")
    ] = False,
    scale_in_protected_instances: Annotated[
        str | None, typer.Option(metavar="Refresh|Ignore|Wait", help="Wait is the default.")
    ] = None,
    standby_instances: Annotated[
        str | None, typer.Option(metavar="Terminate|Ignore|Wait", help="Wait is the default.")
    ] = None,
    wait: Wait = False,
    timeout: WaitTimeout = WAIT_SECONDS,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Replace a group's instances by new ones of its launch parameters, a few at a time."""
    given = {
        "min_healthy_percentage": min_healthy_percentage,
        "max_healthy_percentage": max_healthy_percentage,
        "instance_warmup_seconds": instance_warmup_seconds,
        "checkpoint_percentages": checkpoint_percentages,
        "checkpoint_delay_seconds": checkpoint_delay_seconds,
        "bake_time_seconds": bake_time_seconds,
        "skip_matching": skip_matching,
        "auto_rollback": auto_rollback,
        "scale_in_protected_instances": scale_in_protected_instances,
        "standby_instances": standby_instances,
    }
    preferences = {key: value for key, value in given.items() if value is not None}
    with controller(address) as stub:
        request = pb.StartInstanceRefreshRequest(
            group=group, preferences_json=json.dumps(preferences), actor=actor()
        )
        started = stub.StartInstanceRefresh(request, timeout=TIMEOUT_SECONDS).instance_refresh_id
        _show(stub, group, timeout if wait else None, as_json, SUCCESSFUL, started)


@app.command(name="instance-refresh")
def describe(
    group: str,
    wait: Wait = False,
    timeout: WaitTimeout = WAIT_SECONDS,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """How far a group's last instance refresh is, and each instance in it."""
    with controller(address) as stub:
        _show(stub, group, timeout if wait else None, as_json, SUCCESSFUL)


@app.command(name="cancel-instance-refresh")
def cancel(group: str, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """End a group's instance refresh where it stands; what is replaced stays so."""
    with controller(address) as stub:
        request = pb.CancelInstanceRefreshRequest(group=group, actor=actor())
        changed = stub.CancelInstanceRefresh(request, timeout=TIMEOUT_SECONDS).changed
    _changed(group, changed, "is cancelled", "is not under way", as_json)


@app.command(name="rollback-instance-refresh")
def rollback(
    group: str,
    wait: Wait = False,
    timeout: WaitTimeout = WAIT_SECONDS,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Give a group the launch parameters of before its last instance refresh again, and its instances too."""
    with controller(address) as stub:
        request = pb.RollbackInstanceRefreshRequest(group=group, actor=actor())
        stub.RollbackInstanceRefresh(request, timeout=TIMEOUT_SECONDS)
        _show(stub, group, timeout if wait else None, as_json, ROLLED_BACK)


@app.command(name="pause-instance-refresh")
def pause(group: str, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Begin nothing more in a group's instance refresh until it is resumed."""
    with controller(address) as stub:
        request = pb.PauseInstanceRefreshRequest(group=group, actor=actor())
        changed = stub.PauseInstanceRefresh(request, timeout=TIMEOUT_SECONDS).changed
    _changed(group, changed, "is paused", "was paused already", as_json)


@app.command(name="resume-instance-refresh")
def resume(group: str, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Go on with a paused instance refresh."""
    with controller(address) as stub:
        request = pb.ResumeInstanceRefreshRequest(group=group, actor=actor())
        changed = stub.ResumeInstanceRefresh(request, timeout=TIMEOUT_SECONDS).changed
    _changed(group, changed, "goes on", "was not paused", as_json)


def _changed(group: str, changed: bool, now: str, already: str, as_json: bool) -> None:
    if as_json:
        _print_json({"group": group, "changed": changed})
    else:
        typer.echo(f"the instance refresh of {group} {now if changed else already}")


def _show(
    stub: admin_pb2_grpc.AdminServiceStub,
    group: str,
    wait_seconds: float | None,
    as_json: bool,
    wanted: tuple[str, ...],
    refresh_id: str = "",
) -> None:
    """Where it stands; with `wait_seconds` a line for each change until it has ended, and an exit code by `wanted`.

    `refresh_id` is the one that is meant: the one seen first without it.
    """
    refresh = _look(stub, group)
    if wait_seconds is not None:
        refresh = _ended(stub, refresh, refresh_id or refresh.instance_refresh_id, wait_seconds, as_json)
    if as_json:
        _print_json(to_json(refresh))
    else:
        typer.echo(_line(refresh))
        if wait_seconds is None:
            rows = tuple(
                (i.instance_id, i.lifecycle_state, i.launch_version, i.progress) for i in refresh.instances
            )
            Table(("INSTANCE", "STATE", "LAUNCH VERSION", "PROGRESS"), rows).show("no instances")
    if wait_seconds is not None and refresh.status not in wanted:
        raise typer.Exit(EXIT_FAILED)


def _ended(
    stub: admin_pb2_grpc.AdminServiceStub,
    refresh: pb.InstanceRefresh,
    refresh_id: str,
    wait_seconds: float,
    as_json: bool,
) -> pb.InstanceRefresh:
    """The refresh once it has ended. The command ends where another one took its place, or the time is over."""
    deadline, said = time.monotonic() + wait_seconds, ""
    where = f"groups.{refresh.group}"
    while True:
        if refresh.instance_refresh_id != refresh_id:
            what = f"refresh {refresh_id[:8]} was followed by {refresh.instance_refresh_id[:8]}"
            mend = f"look at `controller-asg activities {refresh.group}` for how it ended"
            end([Fault(where, what, mend)], EXIT_FAILED)
        if refresh.status in ENDED:
            return refresh
        line = _line(refresh)
        if line != said:
            typer.echo(line, err=as_json)
        said = line
        if time.monotonic() >= deadline:
            what = f"refresh {refresh_id[:8]} goes on, and nobody waits any longer"
            go_on = f"controller-asg {'resume-' if refresh.paused else ''}instance-refresh {refresh.group}"
            end([Fault(where, what, go_on + ("" if refresh.paused else " --wait"))], EXIT_FAILED)
        time.sleep(LOOK_SECONDS)
        refresh = _look(stub, refresh.group)


def _look(stub: admin_pb2_grpc.AdminServiceStub, group: str) -> pb.InstanceRefresh:
    request = pb.DescribeInstanceRefreshRequest(group=group)
    return stub.DescribeInstanceRefresh(request, timeout=TIMEOUT_SECONDS).instance_refresh


def _line(refresh: pb.InstanceRefresh) -> str:
    line = f"{refresh.group}: {refresh.status}, {refresh.percentage_complete} %"
    if refresh.status not in ENDED:
        line += f", {refresh.instances_to_update} to update" + (
            f", paused until `controller-asg resume-instance-refresh {refresh.group}`"
            if refresh.paused
            else ""
        )
    line += f", to image {refresh.image_id}, since {moment(refresh.started_at)}"
    return line + (f": {refresh.status_reason}" if refresh.status_reason else "")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
