"""The commands that people and programs run beside the daemon. Each is one or two calls and their answer.

What needs the settings or the model imports it itself: pydantic would double the time a command takes to start.
"""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg import __version__
from controller_asg.api.message_json import to_json
from controller_asg.cli.calls import (
    DEFAULT_ADDRESS,
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    TIMEOUT_SECONDS,
    actor,
    controller,
    end,
)
from controller_asg.cli.sentences import why as sentences
from controller_asg.cli.serve import DEFAULT_CONFIG
from controller_asg.cli.tables import (
    activities_table,
    cost_line,
    groups_table,
    instances_table,
    moment,
    schedule_table,
)
from controller_asg.model.errors import AsgError, Fault, SpecError

app = typer.Typer(
    help="An EC2 auto scaling group that its operator runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Address = Annotated[
    str,
    typer.Option(envvar="CONTROLLER_ASG_ADDRESS", help="Where the controller's admin service listens."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs, by the names of admin.proto.")]
Config = Annotated[Path, typer.Option(help="The daemon's settings.")]
GroupArgument = Annotated[str, typer.Argument(metavar="[GROUP]", help="All groups without it.")]
LeftOut = Annotated[
    str, typer.Argument(metavar="[GROUP]", help="May be left out where there is only one group.")
]


class Health(StrEnum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command(name="serve")
def _serve(config: Config = DEFAULT_CONFIG) -> None:
    """Run the controller until SIGTERM."""
    raise AssertionError("main() runs serve before this is imported")


@app.command()
def migrate(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Bring the store to this release's schema. Stop the controller first."""
    from controller_asg.config import load_settings
    from controller_asg.store.migrate import migrate as migrate_store

    try:
        migrated = migrate_store(load_settings(config).store_url)
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    except AsgError as error:
        end([Fault(error.where, error.what, error.mend)], EXIT_FAILED)
    if as_json:
        print_json({"changed": migrated.changed, "before": migrated.before, "after": migrated.after})
    elif migrated.changed:
        typer.echo(f"the store went from {migrated.before or 'nothing'} to {migrated.after}")
    else:
        typer.echo(f"the store is at {migrated.after} already")


@app.command(name="check-config")
def check_config(file: Path, as_json: AsJson = False) -> None:
    """Say everything that is wrong with a settings file; exit code 2 if anything is."""
    from controller_asg.config import load_settings

    faults: list[Fault] = []
    try:
        load_settings(file)
    except SpecError as error:
        faults = list(error.faults)
    if as_json:
        print_json({"errors": [{"where": f.where, "what": f.what, "mend": f.mend} for f in faults]})
        raise typer.Exit(EXIT_BAD_INPUT if faults else 0)
    if faults:
        end(faults, EXIT_BAD_INPUT)
    typer.echo(f"{file}: ok")


@app.command()
def reload(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Let the controller reread its settings; exit code 1 where it refuses them and keeps the old."""
    try:
        with controller(address) as stub:
            answer = stub.Reload(pb.ReloadRequest(), timeout=TIMEOUT_SECONDS)
    except typer.Exit:
        # Bad input, but not of this command: systemd is to see a reload that failed.
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        print_json(to_json(answer))
        return
    typer.echo(f"in force now: {', '.join(answer.changed)}" if answer.changed else "nothing to take over")
    if answer.needs_restart:
        typer.echo(f"wants a restart: {', '.join(answer.needs_restart)}")


@app.command()
def status(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """The controller and its groups at a glance."""
    with controller(address) as stub:
        answer = stub.GetStatus(pb.GetStatusRequest(), timeout=TIMEOUT_SECONDS)
        found = stub.ListGroups(pb.ListGroupsRequest(), timeout=TIMEOUT_SECONDS).groups
    if as_json:
        print_json({**to_json(answer), "groups": [to_json(group) for group in found]})
        return
    typer.echo(
        f"{answer.summary}  (version {answer.version}, since {moment(answer.started_at)}, epoch {answer.epoch})"
    )
    if answer.settings_fault:
        typer.echo(f"! the last reload was refused, the old settings are in force: {answer.settings_fault}")
    if answer.cloud_fault:
        typer.echo(f"! the last call to EC2 failed: {answer.cloud_fault}")
    if answer.store_fault:
        typer.echo(f"! nothing is done until the store takes what is decided: {answer.store_fault}")
    for group in found:
        for condition in group.conditions:
            typer.echo(f"! {group.name}: {condition.message} ({condition.kind})")
    typer.echo("")
    groups_table(found).show("no groups; apply one by the playbook apply_groups")


@app.command()
def groups(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """The groups, their sizes and what they cost."""
    with controller(address) as stub:
        answer = stub.ListGroups(pb.ListGroupsRequest(), timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json(to_json(answer))
    else:
        groups_table(answer.groups).show("no groups; apply one by the playbook apply_groups")
        if answer.groups:
            typer.echo(cost_line(answer))


@app.command()
def instances(group: GroupArgument = "", address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """The instances: state, health, load, and when their agents were heard."""
    with controller(address) as stub:
        answer = stub.ListInstances(pb.ListInstancesRequest(group=group), timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json(to_json(answer))
    else:
        instances_table(answer.instances, datetime.now(UTC)).show("no instances")


@app.command()
def activities(
    group: GroupArgument = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """What was launched and terminated, why, and how it ended; the newest first."""
    request = pb.ListActivitiesRequest(group=group, limit=limit, open_only=open_only)
    with controller(address) as stub:
        answer = stub.ListActivities(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json(to_json(answer))
    else:
        activities_table(answer.activities).show("no activities")


@app.command()
def why(
    group: LeftOut = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many decisions.")] = 10,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Why a group has the size it has: its decisions, what was voted, and what held something back."""
    with controller(address) as stub:
        (found,) = stub.ListGroups(
            pb.ListGroupsRequest(name=_meant(stub, group)), timeout=TIMEOUT_SECONDS
        ).groups
        request = pb.ListDecisionsRequest(group=found.name, limit=limit)
        answer = stub.ListDecisions(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        conditions = [to_json(each) for each in found.conditions]
        print_json({"group": found.name, "conditions": conditions, **to_json(answer)})
    else:
        typer.echo(sentences(found, answer.decisions))


@app.command()
def schedule(group: LeftOut = "", address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """A group's scheduled actions: whose bounds hold, and the next five times."""
    with controller(address) as stub:
        (found,) = stub.ListGroups(
            pb.ListGroupsRequest(name=_meant(stub, group)), timeout=TIMEOUT_SECONDS
        ).groups
    if as_json:
        whole = to_json(found)
        keys = ("scheduled_in_force", "next_scheduled")
        print_json({"group": found.name, **{key: whole[key] for key in keys}})
    else:
        schedule_table(found).show(f"{found.name} has no scheduled action to come")


@app.command()
def create(
    group: LeftOut = "",
    count: Annotated[int, typer.Option(min=1, max=10_000)] = 1,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Launch an instance more: raises the group's desired capacity."""
    with controller(address) as stub:
        name = _meant(stub, group)
        request = pb.LaunchInstancesRequest(group=name, count=count, actor=actor())
        answer = stub.LaunchInstances(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json({"group": name, **to_json(answer)})
    else:
        typer.echo(f"{name} grows to {answer.desired_capacity}")


@app.command()
def kill(
    instance_id: Annotated[str, typer.Argument(metavar="ID")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Keep the group's size: launch another.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Terminate an instance. Its group shrinks with it, or replaces it where it is at min_size."""
    request = pb.TerminateInstanceRequest(
        instance_id=instance_id, should_decrement_desired_capacity=not replace, actor=actor()
    )
    with controller(address) as stub:
        sizes = {g.name: g.desired_capacity for g in _all_groups(stub)}
        answer = stub.TerminateInstance(request, timeout=TIMEOUT_SECONDS)
    shrinks = answer.desired_capacity < sizes.get(answer.group, 0)
    if as_json:
        print_json(
            {"instance_id": instance_id, **to_json(answer), "replaced": answer.changed and not shrinks}
        )
    elif not answer.changed:
        typer.echo(f"{instance_id} was already on its way out")
    elif shrinks:
        typer.echo(f"{instance_id} is terminated; {answer.group} shrinks to {answer.desired_capacity}")
    else:
        reason = "" if replace else f", as {answer.group} stays at its min_size"
        typer.echo(f"{instance_id} is terminated and replaced{reason}")


@app.command(name="set-desired")
def set_desired(
    group: str,
    desired_capacity: Annotated[int, typer.Argument(metavar="N", min=0, max=10_000)],
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Set a group's desired capacity, between its min_size and max_size."""
    request = pb.SetDesiredCapacityRequest(group=group, desired_capacity=desired_capacity, actor=actor())
    with controller(address) as stub:
        answer = stub.SetDesiredCapacity(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json({"group": group, **to_json(answer)})
    else:
        typer.echo(f"{group}: {answer.before} → {answer.after}")


@app.command()
def doctor(address: Address = DEFAULT_ADDRESS, as_json: AsJson = False) -> None:
    """Say what is not as it should be, and what to do about it; exit code 1 when anything is."""
    with controller(address) as stub:
        findings = stub.Diagnose(pb.DiagnoseRequest(), timeout=TIMEOUT_SECONDS).findings
    if as_json:
        print_json({"findings": [{"where": f.where, "what": f.what, "mend": f.mend} for f in findings]})
    elif findings:
        for finding in findings:
            typer.echo(str(Fault(finding.where, finding.what, finding.mend)))
    else:
        typer.echo("all is well")
    if findings:
        raise typer.Exit(EXIT_FAILED)


@app.command(name="set-health")
def set_health(
    instance_id: Annotated[str, typer.Argument(metavar="ID")],
    health: Annotated[Health, typer.Argument(help="An unhealthy one is replaced after its grace period.")],
    address: Address = DEFAULT_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Say what you know of an instance that the controller can't see; `healthy` takes it back."""
    request = pb.SetInstanceHealthRequest(
        instance_id=instance_id, healthy=health is Health.HEALTHY, actor=actor()
    )
    with controller(address) as stub:
        answer = stub.SetInstanceHealth(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        print_json(to_json(answer))
    else:
        typer.echo(f"{instance_id}: {'now' if answer.changed else 'already'} marked {health.value}")


@app.command(name="import-config")
def import_config(
    file: Annotated[Path, typer.Argument(metavar="config.json")],
    out: Annotated[Path | None, typer.Option(help="Write here, not to standard output.")] = None,
    group: Annotated[str, typer.Option(help="The new group's name.")] = "main",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn the first design's config.json into group_vars. Its keys are not carried."""
    from controller_asg.import_config import import_config as import_file

    try:
        imported = import_file(file, group)
        if out is not None:
            _write(out, imported.text, force)
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    if as_json:
        print_json({"group_vars": imported.text, "notes": list(imported.notes)})
        return
    for note in imported.notes:
        typer.echo(f"note: {note}", err=True)
    if out is None:
        typer.echo(imported.text, nl=False)
    else:
        typer.echo(f"{out}: written; `ansible-playbook site.yml --check --diff` shows what it would do")


def _protect(ids: list[str], protected: bool, address: str, as_json: bool) -> None:
    request = pb.SetInstanceProtectionRequest(
        instance_ids=ids, protected_from_scale_in=protected, actor=actor()
    )
    with controller(address) as stub:
        answer = stub.SetInstanceProtection(request, timeout=TIMEOUT_SECONDS)
    word = "protected" if protected else "no longer protected"
    if as_json:
        print_json(to_json(answer))
        return
    for instance_id in dict.fromkeys(ids):
        was = "" if instance_id in answer.changed_instance_ids else "already "
        typer.echo(f"{instance_id} is {was}{word}")


def _meant(stub: admin_pb2_grpc.AdminServiceStub, group: str) -> str:
    """The group that is named, or the only one."""
    if group:
        return group
    names = [each.name for each in _all_groups(stub)]
    if len(names) != 1:
        what = f"is missing, and there are {len(names)}: {', '.join(names)}" if names else "there is none"
        end([Fault("GROUP", what, "name one" if names else "apply one first")], EXIT_BAD_INPUT)
    return names[0]


def _all_groups(stub: admin_pb2_grpc.AdminServiceStub) -> list[pb.Group]:
    return list(stub.ListGroups(pb.ListGroupsRequest(), timeout=TIMEOUT_SECONDS).groups)


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x") as file:
            file.write(text)
    except FileExistsError as error:
        fault = Fault(str(path), "is there already", "name another file, or overwrite it by --force")
        raise SpecError((fault,)) from error
    except OSError as error:
        fault = Fault(str(path), f"can't be written: {error.strerror}", "name another file")
        raise SpecError((fault,)) from error


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not _is_utf8()))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
