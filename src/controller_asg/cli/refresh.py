"""The commands of instance refreshes. They only start, follow and steer it: interrupting one harms nothing."""

import json
import time
from typing import Annotated, Any

import typer

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg.api.message_json import to_json
from controller_asg.cli.app import Address, AsJson, app
from controller_asg.cli.calls import DEFAULT_ADDRESS, EXIT_FAILED, TIMEOUT_SECONDS, actor, controller
from controller_asg.cli.tables import Table, moment

ENDED = ("Successful", "Failed", "Cancelled", "RollbackSuccessful", "RollbackFailed")
LOOK_SECONDS = 2.0

Percent = Annotated[int | None, typer.Option(metavar="PERCENT")]
Seconds = Annotated[int | None, typer.Option(metavar="SECONDS")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Follow it to its end; exit code 1 unless it is successful.")
]


@app.command(name="start-instance-refresh")
def start(
    group: str,
    min_healthy_percentage: Percent = None,
    max_healthy_percentage: Percent = None,
    instance_warmup_seconds: Seconds = None,
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
        stub.StartInstanceRefresh(request, timeout=TIMEOUT_SECONDS)
        _show(stub, group, wait, as_json)


@app.command(name="instance-refresh")
def describe(
    group: str, wait: Wait = False, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """How far a group's last instance refresh is, and each instance in it."""
    with controller(address) as stub:
        _show(stub, group, wait, as_json)


@app.command(name="cancel-instance-refresh")
def cancel(group: str, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """End a group's instance refresh where it stands; what is replaced stays so."""
    with controller(address) as stub:
        request = pb.CancelInstanceRefreshRequest(group=group, actor=actor())
        changed = stub.CancelInstanceRefresh(request, timeout=TIMEOUT_SECONDS).changed
    _changed(group, changed, "is cancelled", "is not under way", as_json)


@app.command(name="rollback-instance-refresh")
def rollback(
    group: str, wait: Wait = False, address: Address = DEFAULT_ADDRESS, as_json: AsJson = False
) -> None:
    """Give a group the launch parameters of before its last instance refresh again, and its instances too."""
    with controller(address) as stub:
        request = pb.RollbackInstanceRefreshRequest(group=group, actor=actor())
        stub.RollbackInstanceRefresh(request, timeout=TIMEOUT_SECONDS)
        _show(stub, group, wait, as_json)


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


def _show(stub: admin_pb2_grpc.AdminServiceStub, group: str, wait: bool, as_json: bool) -> None:
    """Where it stands; with `wait` a line for each change until it has ended, and the exit code of its end."""
    request, said = pb.DescribeInstanceRefreshRequest(group=group), ""
    while True:
        answer = stub.DescribeInstanceRefresh(request, timeout=TIMEOUT_SECONDS)
        refresh = answer.instance_refresh
        if not wait or refresh.status in ENDED:
            break
        line = _line(refresh)
        if line != said and not as_json:
            typer.echo(line)
        said = line
        time.sleep(LOOK_SECONDS)
    if as_json:
        _print_json(to_json(refresh))
    else:
        typer.echo(_line(refresh))
        if not wait:
            rows = tuple(
                (i.instance_id, i.lifecycle_state, i.launch_version, i.progress) for i in refresh.instances
            )
            Table(("INSTANCE", "STATE", "LAUNCH VERSION", "PROGRESS"), rows).show("no instances")
    if wait and refresh.status not in ("Successful", "RollbackSuccessful"):
        raise typer.Exit(EXIT_FAILED)


def _line(refresh: pb.InstanceRefresh) -> str:
    line = f"{refresh.group}: {refresh.status}, {refresh.percentage_complete} %"
    if refresh.status not in ENDED:
        line += f", {refresh.instances_to_update} to update" + (", paused" if refresh.paused else "")
    line += f", to image {refresh.image_id}, since {moment(refresh.started_at)}"
    return line + (f": {refresh.status_reason}" if refresh.status_reason else "")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
