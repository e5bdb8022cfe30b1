"""`controller-asg rehearse`: what a group's policy would have done with a load, before it is live."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asg.admin.v1 import admin_pb2 as pb
from controller_asg.cli.app import Address, app
from controller_asg.cli.calls import DEFAULT_ADDRESS, EXIT_BAD_INPUT, TIMEOUT_SECONDS, controller, end
from controller_asg.model.errors import Fault, SpecError

if TYPE_CHECKING:
    from controller_asg.model.group import Group
    from controller_asg.model.scaling_policy import DemandTracking
    from controller_asg.rehearse.figures import Figures
    from controller_asg.rehearse.load import Trace
    from controller_asg.rehearse.picture import Replay
    from controller_asg.rehearse.world import Follower
    from controller_asg.simulate.described import Surroundings

OURS = "demand_tracking"

# `--load`: what the controller has recorded of a group.
RECORDED = "recorded"
RECORDED_SPAN = timedelta(days=7)
LEAST_MINUTES = 60


# Where a group is looked for by its name alone.
GROUP_VARS = Path("group_vars/all/groups.yml")

# What `--against` may name beside a group, and the baseline behind it.
BASELINE_NAMES = {
    "ec2": "tt60",
    "ec2-hires": "tt60-hires",
    "ec2-predictive": "tt60-hires+floor",
    "hpa": "hpa60",
    "naive": "naive70",
    "seed": "threshold80/10",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is rehearsed: its name, and how a fresh one is made that tells each of its changes."""

    name: str
    follower: "Callable[[float, Callable[[int, str], None]], Follower]"
    largest: float | None = None  # inf: a group has bounds of its own
    of: "Group | DemandTracking | None" = None  # None: a baseline


@app.command()
def rehearse(
    load: Annotated[
        Path,
        typer.Option(
            help="A trace: CSV of seconds,load, or .gz of it; a folder of them; a made-up shape, as sine-day; or"
            " `recorded`: the last week of the running controller's group --group NAME, at its own size."
        ),
    ],
    group: Annotated[
        str | None,
        typer.Option(
            help="FILE, FILE:GROUP, or the NAME of a group of group_vars/all/groups.yml; a file may hold a group alone,"
            " or a demand_tracking policy alone. Left out: the default demand_tracking."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Whom to compare with: {', '.join(BASELINE_NAMES)}, or a group as in --group. May be repeated."
        ),
    ] = None,
    mean: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=10_000,
            help="Instances that the load needs on average; only its shape counts. Left out: 10, and of a recorded"
            " load as many as it needed.",
        ),
    ] = None,
    delay: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds from a launch to in service.")
    ] = 120.0,
    world: Annotated[
        Path | None,
        typer.Option(
            help="YAML that describes a world (docs/guides/describe-a-world.md): launch delays, zones, prices, deaths,"
            " outages. The daemon's own engine then lives through it."
        ),
    ] = None,
    capacity: Annotated[
        Path | None, typer.Option(help="Write seconds,desired,in_service there; a folder for several traces.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page of HTML there, with plots to zoom into.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the plots there as PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Replay a load through a group in virtual time, and say how well its capacity followed."""
    from controller_asg.rehearse.figures import over_traces
    from controller_asg.rehearse.load import MEAN_INSTANCES
    from controller_asg.rehearse.picture import terminal, write_html, write_png
    from controller_asg.rehearse.whole_group import BEGIN, whole_group
    from controller_asg.rehearse.world import write_capacity

    try:
        begin = BEGIN
        traces: tuple[Trace, ...]
        if str(load) == RECORDED and not load.exists():
            applied, begin, trace = recorded(group, address, RECORDED_SPAN)
            traces = (trace,)
            follower = partial(whole_group, applied, begin=begin)
            first = Subject(f"{group} (applied)", follower, math.inf, applied)
        else:
            first, traces, mean = _subject(group, begin), named_traces(load), mean or MEAN_INSTANCES
        surroundings = None if world is None else _surroundings(world)
        others = against or (["ec2"] if surroundings is None else [])
        subjects = [first, *(_compared(each, begin) for each in others)]
        if surroundings is not None and any(each.of is None for each in subjects):
            mend = "compare with a group, or leave out --world"
            raise SpecError((Fault("--against", "names a baseline, which knows no such world", mend),))
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    replays: list[Replay] = []
    for trace in traces:
        if surroundings is None:
            replay = _replay(trace, mean, subjects, delay)
        else:
            replay = _live(trace, mean, subjects, surroundings, begin, quiet=as_json)
            delay = median(surroundings.launch_delay_seconds)
        replays.append(replay)
        if not as_json:
            _show(trace.name, replay.figures)
        if capacity is not None:
            path = capacity / f"{trace.name}.csv" if load.is_dir() else capacity
            _write(path, partial(write_capacity, replay.schedules[subjects[0].name]))
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


def named_traces(load: Path) -> "tuple[Trace, ...]":
    """What `--load` names. Raises SpecError."""
    from controller_asg.rehearse.generate import SHAPES, generate
    from controller_asg.rehearse.load import read_traces

    if load.exists():
        return read_traces(load)
    if str(load) in SHAPES:
        return (generate(str(load)),)
    mend = f"name a file, a folder, or one of the shapes {', '.join(SHAPES)}"
    raise SpecError((Fault(str(load), "is not there", mend),))


def recorded(name: str | None, address: str, span: timedelta) -> "tuple[Group, datetime, Trace]":
    """A group as it is applied, and its recorded demand with the first minute's begin. Raises SpecError."""
    from google.protobuf.timestamp_pb2 import Timestamp

    from controller_asg.rehearse.load import Trace

    if name is None:
        mend = "name a group of the controller, as `controller-asg groups` shows them"
        raise SpecError((Fault("--group", f"is missing, and --load {RECORDED} wants it", mend),))
    since = Timestamp()
    since.FromDatetime(datetime.now(UTC) - span)
    with controller(address) as admin:
        request = pb.ListGroupsRequest(name=name)
        (found,) = admin.ListGroups(request, timeout=TIMEOUT_SECONDS).groups
        wanted = pb.GetDemandRequest(group=name, since=since)
        minutes = admin.GetDemand(wanted, timeout=TIMEOUT_SECONDS).minutes
    if len(minutes) < LEAST_MINUTES:
        what = f"only {len(minutes)} minutes of demand are recorded, and a rehearsal wants {LEAST_MINUTES}"
        raise SpecError(
            (Fault(f"groups.{name}", what, "wait, and see that its instances report cpu_percent"),)
        )
    if not any(minute.demand for minute in minutes):
        raise SpecError((Fault(f"groups.{name}", "had no load at all", "rehearse it at a trace"),))
    group = _group(name, json.loads(found.document_json), "the controller")
    begin = minutes[0].minute.ToDatetime(UTC)
    seconds = tuple(float(minute.minute.seconds) for minute in minutes)
    return group, begin, Trace(name, seconds, tuple(minute.demand for minute in minutes))


def _replay(
    trace: "Trace", mean: float | None, subjects: Sequence[Subject], delay_seconds: float
) -> "Replay":
    from controller_asg.rehearse.figures import figures
    from controller_asg.rehearse.load import demand
    from controller_asg.rehearse.picture import Mark, Replay
    from controller_asg.rehearse.world import needs, rehearse

    needed = demand(trace, mean)
    need = needs(needed)
    told: list[tuple[int, str]] = []
    first, schedules = subjects[0].name, {}
    for each in subjects:
        told_before = len(told)
        follower = each.follower(delay_seconds, lambda tick, line: told.append((tick, line)))
        schedules[each.name] = rehearse(needed, follower, delay_seconds, each.largest)
        if each.name != first:
            del told[told_before:]
    return Replay(
        trace.name,
        needed,
        schedules,
        {name: figures(need, schedule, delay_seconds) for name, schedule in schedules.items()},
        [Mark(tick, schedules[first].desired[tick], line) for tick, line in told],
    )


def _live(
    trace: "Trace",
    mean: float | None,
    subjects: Sequence[Subject],
    surroundings: "Surroundings",
    begin: datetime,
    quiet: bool,
) -> "Replay":
    """As `_replay`, in a described world; what it cost there is told at once."""
    from controller_asg.model.group import Group, Image, LaunchParameters
    from controller_asg.rehearse.figures import figures
    from controller_asg.rehearse.load import demand
    from controller_asg.rehearse.picture import Mark, Replay
    from controller_asg.rehearse.world import needs, whole
    from controller_asg.simulate.described import live

    needed, marks, schedules, found = demand(trace, mean), list[Mark](), {}, {}
    need, usual = needs(needed), median(surroundings.launch_delay_seconds)
    for each in subjects:
        assert each.of is not None
        group = each.of
        if not isinstance(group, Group):
            launch = LaunchParameters(Image("ami-00000000"))
            group = Group(OURS, launch, min_size=1, max_size=whole(2 * max(needed)), policies=(group,))
        told: list[tuple[int, str]] = []
        lived = live(needed, group, surroundings, begin, lambda *one, told=told: told.append(one))
        schedules[each.name] = lived.schedule
        found[each.name] = figures(need, lived.schedule, usual)
        marks = marks or [Mark(tick, lived.schedule.desired[tick], line) for tick, line in told]
        if not quiet:
            cost = f"{lived.instance_hours:.1f} instance-hours"
            if surroundings.price_per_hour is not None:
                cost += f", which cost {lived.instance_hours * surroundings.price_per_hour:.2f}"
            typer.echo(f"{each.name}: {cost}; {lived.launches} launched, {lived.deaths} died")
    return Replay(trace.name, needed, schedules, found, marks)


def _surroundings(file: Path) -> "Surroundings":
    from pydantic import TypeAdapter, ValidationError

    from controller_asg.model.faults import faults_of
    from controller_asg.simulate.described import Surroundings

    try:
        return TypeAdapter(Surroundings).validate_json(json.dumps(_read(file)))
    except ValidationError as error:
        raise SpecError(tuple(faults_of(error, str(file), Surroundings))) from error


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


def _compared(name: str, begin: datetime) -> Subject:
    """Raises SpecError."""
    from controller_asg.rehearse.baselines import BASELINES

    if name not in BASELINE_NAMES:
        return replace(
            _subject(name, begin), name=name
        )  # a changed group has the same name as the present one
    baseline = BASELINE_NAMES[name]
    return Subject(baseline, lambda delay_seconds, tell: BASELINES[baseline]())


def _subject(where: str | None, begin: datetime) -> Subject:
    """Of a load that begins then. Raises SpecError."""
    from controller_asg.model.scaling_policy import DemandTracking
    from controller_asg.rehearse.follow import demand_tracking
    from controller_asg.rehearse.whole_group import whole_group

    name, found = policy_or_group(where)
    if isinstance(found, DemandTracking):
        return Subject(name, partial(demand_tracking, found), of=found)
    return Subject(name, partial(whole_group, found, begin=begin), math.inf, found)


def policy_or_group(where: str | None) -> "tuple[str, DemandTracking | Group]":
    """What `--group` says, and its name. Raises SpecError."""
    from controller_asg.model.scaling_policy import DemandTracking

    if where is None:
        return OURS, DemandTracking()
    file, name = _place(where)
    document = _read(file)
    if document.get("type") == OURS:
        return OURS, _policy(document, file)
    groups = document.get("asg_groups")
    if not isinstance(groups, dict):
        groups = {name or file.stem: document}
    if not groups:
        raise SpecError((Fault(f"{file}: asg_groups", "holds no group", "write one below it"),))
    name = name or (next(iter(groups)) if len(groups) == 1 else "")
    if name not in groups:
        known = ", ".join(map(str, groups))
        raise SpecError(
            (Fault(str(file), f"holds the groups {known}", f"write {file}:{known.split(',')[0]}"),)
        )
    group = _group(name, groups[name], str(file))
    return where if where != str(file) else name, group


def _place(where: str) -> tuple[Path, str]:
    if Path(where).exists():
        return Path(where), ""
    file, colon, name = where.rpartition(":")
    if colon:
        return Path(file), name
    return (GROUP_VARS, where) if GROUP_VARS.exists() else (Path(where), "")


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        fault = Fault(str(file), f"can't be read: {error.strerror}", "name a file of YAML or JSON")
        raise SpecError((fault,)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError((Fault(str(file), "is no YAML", f"mend it: {error}"),)) from error
    if not isinstance(document, dict):
        raise SpecError((Fault(str(file), "holds no mapping", "write a group, or a policy"),))
    try:
        # As Ansible would send it: a date is its text.
        plain: dict[str, Any] = json.loads(json.dumps(document, default=str))
    except (TypeError, ValueError) as error:
        raise SpecError((Fault(str(file), f"can't be JSON: {error}", "write texts as keys"),)) from error
    return plain


def _policy(document: dict[str, Any], file: Path) -> "DemandTracking":
    from pydantic import TypeAdapter, ValidationError

    from controller_asg.model.faults import faults_of
    from controller_asg.model.scaling_policy import DemandTracking

    try:
        return TypeAdapter(DemandTracking).validate_json(json.dumps(document))
    except ValidationError as error:
        raise SpecError(tuple(faults_of(error, str(file), DemandTracking))) from error


def _group(name: str, document: Any, source: str) -> "Group":
    """A group whose image stands elsewhere (in asg_group_defaults) is as good here as any."""
    from controller_asg.model.document import parse_groups, place
    from controller_asg.model.scaling_policy import metrics_of
    from controller_asg.rehearse import METRIC

    if isinstance(document, dict) and isinstance(launch := document.get("launch", {}), dict):
        document = {**document, "launch": {"image": {"id": "ami-00000000"}, **launch}}
    (group,) = parse_groups({name: document}, source)
    faults = tuple(
        Fault(
            place(name, f"policies[{number}]", source),
            f"looks at {metric}, and a rehearsal knows {METRIC} alone",
            "leave the policy out, or give it that metric for the rehearsal",
        )
        for number, policy in enumerate(group.policies)
        for metric in metrics_of(policy)
        if metric != METRIC
    )
    if faults:
        raise SpecError(faults)
    return group


def _show(title: str, by_policy: "Mapping[str, Figures]") -> None:
    from controller_asg.rehearse.picture import EXPLAINED

    typer.echo(title)
    typer.echo(f"  {'':<18}" + "".join(f"{word:>15}" for word, _ in EXPLAINED))
    for name, found in by_policy.items():
        typer.echo(f"  {name:<18}" + "".join(f"{value:>15.3f}" for value in asdict(found).values()))
