"""`controller-asg rehearse`: what a group's policy would have done with a load, before it is live."""

import json
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller_asg.cli.app import app
from controller_asg.cli.calls import EXIT_BAD_INPUT, end
from controller_asg.model.errors import Fault, SpecError

if TYPE_CHECKING:
    from controller_asg.model.scaling_policy import DemandTracking
    from controller_asg.rehearse.figures import Figures
    from controller_asg.rehearse.world import Follower

TELLING = ("τU %", "θU %", "τO %", "θO %", "cost", "changes/h", "reversals/day", "mean N")
OURS = "demand_tracking"


class Against(StrEnum):
    EC2 = "ec2"
    EC2_HIGH_RESOLUTION = "ec2-hires"
    EC2_PREDICTIVE = "ec2-predictive"
    HPA = "hpa"
    NAIVE = "naive"
    SEED = "seed"


BASELINE_NAMES = {
    Against.EC2: "tt60",
    Against.EC2_HIGH_RESOLUTION: "tt60-hires",
    Against.EC2_PREDICTIVE: "tt60-hires+floor",
    Against.HPA: "hpa60",
    Against.NAIVE: "naive70",
    Against.SEED: "threshold80/10",
}


@app.command()
def rehearse(
    load: Annotated[
        Path, typer.Option(help="A trace: CSV of seconds,load, or .gz of it; or a folder of them.")
    ],
    group: Annotated[
        Path | None, typer.Option(help="YAML or JSON of a group, or of its demand_tracking policy.")
    ] = None,
    against: Annotated[
        list[Against] | None, typer.Option(help="Whom to compare with; may stand several times.")
    ] = None,
    delay: Annotated[float, typer.Option(min=0, help="Seconds from a launch to in service.")] = 120.0,
    capacity: Annotated[
        Path | None, typer.Option(help="Write seconds,desired,in_service there; a folder for several traces.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
) -> None:
    """Replay a load through demand_tracking in virtual time, and say how well the capacity followed."""
    from controller_asg.rehearse.baselines import BASELINES
    from controller_asg.rehearse.figures import figures, over_traces
    from controller_asg.rehearse.follow import demand_tracking
    from controller_asg.rehearse.load import demand, read_traces
    from controller_asg.rehearse.world import needs, write_capacity
    from controller_asg.rehearse.world import rehearse as replay

    try:
        policy = _policy(group)
        traces = read_traces(load)
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    fresh: dict[str, Callable[[], Follower]] = {OURS: lambda: demand_tracking(policy, delay)}
    for each in against or [Against.EC2]:
        fresh[BASELINE_NAMES[each]] = BASELINES[BASELINE_NAMES[each]]
    found: dict[str, dict[str, Figures]] = {}
    for trace in traces:
        needed = demand(trace)
        whole = needs(needed)
        found[trace.name] = {}
        for name, make in fresh.items():
            schedule = replay(needed, make(), delay)
            found[trace.name][name] = figures(whole, schedule, delay)
            if capacity is not None and name == OURS:
                path = capacity / f"{trace.name}.csv" if load.is_dir() else capacity
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_capacity(schedule, path)
                except OSError as error:
                    fault = Fault(str(path), f"can't be written: {error.strerror}", "name another place")
                    end([fault], EXIT_BAD_INPUT)
        if not as_json:
            _show(trace.name, found[trace.name])
    together = {name: over_traces([each[name] for each in found.values()]) for name in fresh}
    if as_json:
        document = {
            "delay_seconds": delay,
            "traces": {
                trace: {name: asdict(each) for name, each in by.items()} for trace, by in found.items()
            },
            "together": {name: asdict(each) for name, each in together.items()},
        }
        typer.echo(json.dumps(document, indent=2))
    elif len(found) > 1:
        _show(f"all {len(found)}: geometric means of τU, θU, cost and changes/h, means of the rest", together)


def _policy(file: Path | None) -> "DemandTracking":
    """The file's policy, or the default one. Raises SpecError."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from controller_asg.model.faults import faults_of
    from controller_asg.model.scaling_policy import DemandTracking

    if file is None:
        return DemandTracking()
    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        fault = Fault(str(file), f"can't be read: {error.strerror}", "name a file of YAML or JSON")
        raise SpecError((fault,)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError((Fault(str(file), "is no YAML", f"mend it: {error}"),)) from error
    policies = document.get("policies", [document]) if isinstance(document, dict) else []
    ours = [each for each in policies if isinstance(each, dict) and each.get("type") == OURS]
    if len(ours) != 1:
        what = f"has {len(ours)} policies of type {OURS}"
        raise SpecError((Fault(str(file), what, "write exactly one"),))
    try:
        return TypeAdapter(DemandTracking).validate_json(json.dumps(ours[0]))
    except ValidationError as error:
        raise SpecError(tuple(faults_of(error, str(file), DemandTracking))) from error


def _show(title: str, by_policy: "dict[str, Figures]") -> None:
    typer.echo(title)
    typer.echo(f"  {'':<18}" + "".join(f"{word:>15}" for word in TELLING))
    for name, found in by_policy.items():
        typer.echo(f"  {name:<18}" + "".join(f"{value:>15.3f}" for value in asdict(found).values()))
