"""`controller-asg rehearse`: what a group's policy would have done with a load, before it is live."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller_asg.cli.app import app
from controller_asg.cli.calls import EXIT_BAD_INPUT, end
from controller_asg.model.errors import Fault, SpecError

if TYPE_CHECKING:
    from controller_asg.model.scaling_policy import DemandTracking
    from controller_asg.rehearse.figures import Figures
    from controller_asg.rehearse.load import Trace
    from controller_asg.rehearse.picture import Replay
    from controller_asg.rehearse.world import Follower

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
        Path,
        typer.Option(
            help="A trace: CSV of seconds,load, or .gz of it; a folder of them; or a made-up shape, as sine-day."
        ),
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
    report: Annotated[
        Path | None, typer.Option(help="Write a page of HTML there, with plots to zoom into.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the plots there as PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
) -> None:
    """Replay a load through demand_tracking in virtual time, and say how well the capacity followed."""
    from controller_asg.rehearse.figures import over_traces
    from controller_asg.rehearse.picture import terminal, write_html, write_png
    from controller_asg.rehearse.world import write_capacity

    try:
        policy = _policy(group)
        traces = _traces(load)
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    replays: list[Replay] = []
    for trace in traces:
        replay = _replay(trace, policy, against or [Against.EC2], delay)
        replays.append(replay)
        if not as_json:
            _show(trace.name, replay.figures)
        if capacity is not None:
            path = capacity / f"{trace.name}.csv" if load.is_dir() else capacity
            _write(path, partial(write_capacity, replay.schedules[OURS]))
    if report is not None:
        _write(report, partial(write_html, replays, delay))
    if picture is not None:
        _write(picture, partial(write_png, replays))
    together = {name: over_traces([each.figures[name] for each in replays]) for name in replays[0].figures}
    if as_json:
        document = {
            "delay_seconds": delay,
            "traces": {
                each.trace: {name: asdict(of) for name, of in each.figures.items()} for each in replays
            },
            "together": {name: asdict(of) for name, of in together.items()},
        }
        typer.echo(json.dumps(document, indent=2))
    elif len(replays) > 1:
        _show(
            f"all {len(replays)}: geometric means of τU, θU, cost and changes/h, means of the rest", together
        )
    else:
        with suppress(ModuleNotFoundError):  # a controller's machine has no library for pictures
            typer.echo(terminal(replays[0], colour=sys.stdout.isatty()))


def _traces(load: Path) -> "tuple[Trace, ...]":
    """Raises SpecError."""
    from controller_asg.rehearse.generate import SHAPES, generate
    from controller_asg.rehearse.load import read_traces

    if load.exists():
        return read_traces(load)
    if str(load) in SHAPES:
        return (generate(str(load)),)
    mend = f"name a file, a folder, or one of the shapes {', '.join(SHAPES)}"
    raise SpecError((Fault(str(load), "is not there", mend),))


def _replay(
    trace: "Trace", policy: "DemandTracking", against: Sequence[Against], delay_seconds: float
) -> "Replay":
    from controller_asg.rehearse.baselines import BASELINES
    from controller_asg.rehearse.figures import figures
    from controller_asg.rehearse.follow import demand_tracking
    from controller_asg.rehearse.load import demand
    from controller_asg.rehearse.picture import Mark, Replay
    from controller_asg.rehearse.world import needs, rehearse

    told: list[tuple[int, str]] = []
    followers: dict[str, Follower] = {
        OURS: demand_tracking(policy, delay_seconds, lambda tick, line: told.append((tick, line)))
    }
    for each in against:
        followers[BASELINE_NAMES[each]] = BASELINES[BASELINE_NAMES[each]]()
    needed = demand(trace)
    need = needs(needed)
    schedules = {name: rehearse(needed, follower, delay_seconds) for name, follower in followers.items()}
    return Replay(
        trace.name,
        needed,
        schedules,
        {name: figures(need, schedule, delay_seconds) for name, schedule in schedules.items()},
        [Mark(tick, schedules[OURS].desired[tick], line) for tick, line in told],
    )


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except ModuleNotFoundError as error:
        mend = "use the project's own .venv, or install controller-asg[report]"
        end([Fault(f"the library {error.name}", "is not installed here", mend)], EXIT_BAD_INPUT)
    except OSError as error:
        fault = Fault(str(path), f"can't be written: {error.strerror}", "name another place")
        end([fault], EXIT_BAD_INPUT)


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


def _show(title: str, by_policy: "Mapping[str, Figures]") -> None:
    from controller_asg.rehearse.picture import EXPLAINED

    typer.echo(title)
    typer.echo(f"  {'':<18}" + "".join(f"{word:>15}" for word, _ in EXPLAINED))
    for name, found in by_policy.items():
        typer.echo(f"  {name:<18}" + "".join(f"{value:>15.3f}" for value in asdict(found).values()))
