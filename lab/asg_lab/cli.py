"""The command `lab`: start, look at, break and end a local EC2.

What programs read goes to standard output (`env`, `--json`), what people are told goes to standard error. It needs
root, and starts itself again under sudo without it.
"""

import json
import os
import shlex
import shutil
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from asg_lab import base_image, control, host, lifecycle, machine, paths, state
from asg_lab.errors import LabError
from asg_lab.fault_cli import faults
from asg_lab.naming import NameOption
from asg_lab.state import LabInfo, Options

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
app.add_typer(faults, name="fault")
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
InstanceArgument = Annotated[str, typer.Argument(help="Instance id (or its beginning), name tag or address.")]
DEFAULTS = Options()
KEPT_FOR_SUDO = ("XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME", "PYTHONPATH", "PATH", "LAB_NAME")


def main() -> None:
    """Run the command; an expected failure is one line and exit code 1."""
    if os.geteuid() != 0 and not {"--help", "-h"} & set(sys.argv[1:]):
        _become_root()
    try:
        app()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)


def _become_root() -> None:
    if shutil.which("sudo") is None:
        print(
            "lab: needs root: the instances are system containers with a network of their own",
            file=sys.stderr,
        )
        sys.exit(1)
    kept = [f"{name}={os.environ[name]}" for name in KEPT_FOR_SUDO if name in os.environ]
    # S606: no shell is wanted; it is this very command again.
    os.execvp("sudo", ["sudo", "env", *kept, sys.executable, "-m", "asg_lab.cli", *sys.argv[1:]])  # noqa: S606  the same program, as root


@app.command()
def start(
    name: NameOption = "demo",
    cpus_after_boot: Annotated[
        float, typer.Option(help="CPUs of a machine once it has booted; the tag lab:cpus=N overrides it.")
    ] = DEFAULTS.cpus_after_boot,
    probe_seconds: Annotated[
        float, typer.Option(help="Seconds between two looks of the status checks.")
    ] = DEFAULTS.probe_seconds,
    keep_terminated_seconds: Annotated[
        float, typer.Option(help="How long Describe shows terminated instances.")
    ] = DEFAULTS.keep_terminated_seconds,
    egress: Annotated[
        bool,
        typer.Option(help="Let machines reach the world; else they are in private subnets without a NAT."),
    ] = DEFAULTS.egress,
    port: Annotated[int, typer.Option(help="The API's port; 0 takes a free one.")] = DEFAULTS.api_port,
) -> None:
    """Start a lab, or say that it runs. Prepares the host and builds the base image when needed."""
    lifecycle.start(name, Options(cpus_after_boot, probe_seconds, keep_terminated_seconds, egress, port))


@app.command()
def down(
    name: NameOption = "demo",
    everything: Annotated[bool, typer.Option("--all", help="Every lab of this host.")] = False,
    purge: Annotated[bool, typer.Option(help="Remove the base image and its cache too.")] = False,
) -> None:
    """End a lab and remove all of it; with the last one the host's settings go back."""
    for each in lifecycle.all_names() if everything else [name]:
        if lifecycle.stop(each):
            print(f"lab: {each} is removed", file=sys.stderr)
    if purge:
        base_image.purge()
    lifecycle.put_host_back()


app.command(name="stop", help="The same as down.")(down)


@app.command()
def env(name: NameOption = "demo", as_json: JsonOption = False) -> None:
    """Print the variables with which AWS's tools use the lab: eval "$(lab env)"."""
    variables = state.environment(_info(name))
    if as_json:
        print(json.dumps(variables, indent=2))
    else:
        for key, value in variables.items():
            print(f"export {key}={shlex.quote(value)}")


@app.command()
def status(
    name: NameOption = "demo",
    as_json: JsonOption = False,
    everything: Annotated[bool, typer.Option("--all", help="Terminated instances too.")] = False,
) -> None:
    """List the lab's instances, with what is broken on purpose."""
    info = _info(name)
    report: dict[str, Any] = control.ask(name, "status")
    if as_json:
        print(json.dumps({"lab": {**_public(info)}, **report}, indent=2))
        return
    print(f"lab {name}: {info.endpoint_url} (from machines {info.machine_endpoint_url}), {info.vpc_cidr}")
    shown = [each for each in report["instances"] if everything or each["state"] != "terminated"]
    _print_table(
        ("instance", "name", "state", "checks", "address", "type", "zone", "image", "faults"),
        [
            (
                *(each["id"], each["name"], each["state"], each["status_checks"], each["address"]),
                *(each["type"], each["zone"], each["image"], ", ".join(each["faults"])),
            )
            for each in shown
        ],
    )
    if len(shown) < len(report["instances"]):
        print(f"and {len(report['instances']) - len(shown)} terminated (--all lists them)")
    for fault in report["faults"]:
        print(f"fault {fault['id']}: " + ", ".join(f"{k} {v}" for k, v in fault.items() if k != "id"))


@app.command()
def console(instance: InstanceArgument, name: NameOption = "demo") -> None:
    """Print what a machine wrote to its console (also by instance id after its end)."""
    try:
        container = control.ask(name, "find", instance=instance)
        instance = container.removeprefix(f"{name}-")
    except LabError:
        if not instance.startswith("i-"):
            raise
    print(machine.console(paths.state_directory(name) / "machines" / instance))


@app.command(name="exec", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def exec_command(context: typer.Context, instance: InstanceArgument, name: NameOption = "demo") -> None:
    """Run a command as root in a machine: lab exec INSTANCE -- CMD…"""
    container = control.ask(name, "find", instance=instance)
    command = context.args or ["bash", "-l"]
    sys.exit(machine.exec_in(container, command, interactive=sys.stdin.isatty() and sys.stdout.isatty()))


Since = Annotated[float, typer.Option(help="Only what came at or after this Unix time.")]


@app.command()
def calls(name: NameOption = "demo", as_json: JsonOption = False, since: Since = 0.0) -> None:
    """List the API calls that arrived."""
    _show(
        control.ask(name, "calls", unix_seconds=since),
        ("at", "action", "source", "count", "status", "error_code", "fault", "client_token"),
        as_json,
    )


@app.command()
def events(name: NameOption = "demo", as_json: JsonOption = False, since: Since = 0.0) -> None:
    """List moments of instances: run, running, imds, sshd, booted, stopped, terminated."""
    _show(control.ask(name, "events", unix_seconds=since), ("at", "instance_id", "event", "detail"), as_json)


@app.command()
def prepare() -> None:
    """Make host and base image ready without a lab, and print the image's name."""
    print(lifecycle.prepare())


@app.command(name="machine-options")
def machine_options(as_json: JsonOption = False) -> None:
    """Print podman's options and the image for a machine outside of any lab (for molecule)."""
    described = {
        "image": base_image.reference(),
        "options": host.options(),
        "containers_conf": str(paths.containers_conf()),
    }
    print(json.dumps(described, indent=2) if as_json else shlex.join(host.options()))


def _info(name: str) -> LabInfo:
    info = state.load(name)
    if info is None:
        raise LabError(f"lab {name} is not running; start it with: lab start --name {name}")
    return info


def _public(info: LabInfo) -> dict[str, Any]:
    return {field: getattr(info, field) for field in LabInfo.__dataclass_fields__}


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    _print_table(
        columns,
        [
            (
                datetime.fromtimestamp(row["at"], UTC).strftime("%H:%M:%S.%f")[:-3],
                *(row[name] for name in columns[1:]),
            )
            for row in rows
        ],
    )


def _print_table(titles: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Columns as wide as their content: ids are there to be copied, so nothing is cut or folded."""
    texts = [titles, *(tuple("" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(titles))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
