"""`controller-asg tune`: which setting of a group's policy suits a load. It proposes, and changes nothing."""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller_asg.cli.app import Address, app
from controller_asg.cli.calls import DEFAULT_ADDRESS, EXIT_BAD_INPUT, end
from controller_asg.cli.rehearse import RECORDED, named_traces, policy_or_group, recorded
from controller_asg.cli.tables import Table
from controller_asg.model.errors import Fault, SpecError

if TYPE_CHECKING:
    from controller_asg.model.group import Group
    from controller_asg.model.scaling_policy import DemandTracking
    from controller_asg.rehearse.load import Trace
    from controller_asg.rehearse.tune import Tunable, Tuned

RECORDED_SPAN = timedelta(days=14)


@app.command()
def tune(
    group: Annotated[
        str | None,
        typer.Argument(
            help="The NAME of a group of the running controller; with another --load as --group of rehearse, or"
            " nothing: the default demand_tracking."
        ),
    ] = None,
    load: Annotated[
        Path,
        typer.Option(
            help="One trace of at least twelve hours, or a made-up shape, as in rehearse; or `recorded`: the last two"
            " weeks of the group."
        ),
    ] = Path(RECORDED),
    policy: Annotated[
        str | None, typer.Option(help="Which policy's settings are tried, where the group has several.")
    ] = None,
    tau_u: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="The most time under-provisioned, in percent. Left out: the present setting's.",
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
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Try other settings of a group's policy on a load, chosen by its first part and judged by the rest."""
    from controller_asg.rehearse.load import MEAN_INSTANCES, TICK_SECONDS, demand
    from controller_asg.rehearse.tune import HOUR, cheapest, frontier, settings, split, written
    from controller_asg.rehearse.tune import tune as try_settings

    try:
        if str(load) == RECORDED and not load.exists():
            applied, _, trace = recorded(group, address, RECORDED_SPAN)
            present, whole = _tunable(applied.name, applied, policy)
        else:
            present, whole = _tunable(*policy_or_group(group), policy)
            trace, mean = _one_trace(load), mean or MEAN_INSTANCES
        needed = demand(trace, mean)
        at = split(trace.name, len(needed))
    except SpecError as error:
        end(list(error.faults), EXIT_BAD_INPUT)
    if not as_json:
        typer.echo(
            f"{trace.name}: {len(settings(present))} settings of {present.name}, chosen on the first {at / HOUR:.4g} h"
            f" and judged on the {(len(needed) - at) / HOUR:.4g} h after them\n"
        )
    tuned = try_settings(needed, at, present, whole, delay)
    bound = tuned.first[present].tau_u if tau_u is None else tau_u
    on_first = frontier(tuned.first)
    able = cheapest(tuned.first, bound)
    proposed = on_first[-1] if able is None else able
    warnings = _warnings(tuned, present, proposed, tau_u)
    if as_json:
        document = {
            "trace": trace.name,
            "delay_seconds": delay,
            "split_seconds": at * TICK_SECONDS,
            "tau_u_bound": bound,
            "bound_met": able is not None,
            "present": written(present),
            "proposed": written(proposed),
            "warnings": warnings,
            "settings": [
                {
                    "policy": written(each),
                    "first": asdict(tuned.first[each]),
                    "rest": asdict(tuned.rest[each]),
                    "on_frontier": each in on_first,
                }
                for each in tuned.first
            ],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    import yaml

    _table(tuned, present, proposed, on_first).show("")
    reason = (
        f"no setting has a τU of {bound:.3f} % or less on the first part, and this one has the least"
        if able is None
        else "the least cost on the first part among those whose τU is at most "
        + (f"{bound:.3f} % there" if tau_u is not None else f"the present setting's, {bound:.3f} %")
    )
    typer.echo(f"\n{'the present setting stays' if proposed == present else 'proposed'}: {reason}")
    for each in warnings:
        typer.echo(f"! {each}")
    typer.echo("\n" + yaml.safe_dump([written(proposed)], sort_keys=False), nl=False)


def _tunable(
    name: str, found: "DemandTracking | Group", policy_name: str | None
) -> "tuple[Tunable, Group | None]":
    """The policy whose settings are tried, and the group it stands in. Raises SpecError."""
    from controller_asg.model.scaling_policy import DemandTracking
    from controller_asg.rehearse.tune import DIALS, Tunable

    if isinstance(found, DemandTracking):
        return found, None
    able = {
        each.name: each
        for each in found.policies
        if isinstance(each, Tunable) and each.enabled and each.mode == "act"
    }
    if policy_name is None and len(able) == 1:
        (policy_name,) = able
    if policy_name in able:
        return able[policy_name], found
    known = ", ".join(able)
    if not able:
        fault = Fault(name, "has no policy that acts and can be tuned", f"give it one of {', '.join(DIALS)}")
    elif policy_name is None:
        fault = Fault(name, f"has the policies {known}", f"choose by --policy {next(iter(able))}")
    else:
        fault = Fault("--policy", f"{name} has no {policy_name} to tune", f"name one of {known}")
    raise SpecError((fault,))


def _one_trace(load: Path) -> "Trace":
    """Raises SpecError."""
    found = named_traces(load)
    if len(found) > 1:
        raise SpecError((Fault(str(load), f"holds {len(found)} traces", "name one of them"),))
    return found[0]


def _warnings(tuned: "Tuned", present: "Tunable", proposed: "Tunable", tau_u: float | None) -> list[str]:
    """Where the second part disagrees with the first: it has better settings, or the bound does not hold there."""
    from controller_asg.rehearse.tune import cheapest, rank

    warnings = []
    found = tuned.rest[proposed]
    better = cheapest(tuned.rest, found.tau_u)
    assert better is not None  # the proposed one is able itself
    if rank(tuned.rest[better]) != rank(found):
        other = tuned.rest[better]
        warnings.append(
            f"the rest disagrees: {_shown(better)} has τU {other.tau_u:.3f} % at cost {other.cost:.3f} there,"
            f" the proposed setting {found.tau_u:.3f} % at {found.cost:.3f}"
        )
    bound = tuned.rest[present].tau_u if tau_u is None else tau_u
    if found.tau_u > bound:
        whose = "the present setting's " if tau_u is None else ""
        warnings.append(f"on the rest its τU is {found.tau_u:.3f} %, above {whose}{bound:.3f} %")
    return warnings


def _table(tuned: "Tuned", present: "Tunable", proposed: "Tunable", on_first: "list[Tunable]") -> Table:
    """The first part's frontier, and the present setting."""
    from controller_asg.rehearse.tune import DIALS, rank

    rows = sorted(dict.fromkeys([*on_first, present]), key=lambda each: rank(tuned.first[each]))
    dials = DIALS[present.type]
    return Table(
        ("", *(dial.upper() for dial in dials), "τU % FIRST", "COST FIRST", "τU % REST", "COST REST"),
        tuple(
            (
                " ".join(mark for mark, one in (("present", present), ("proposed", proposed)) if one == each),
                *(_value(getattr(each, dial)) for dial in dials),
                *(
                    f"{value:.3f}"
                    for of in (tuned.first[each], tuned.rest[each])
                    for value in (of.tau_u, of.cost)
                ),
            )
            for each in rows
        ),
    )


def _shown(policy: "Tunable") -> str:
    from controller_asg.rehearse.tune import DIALS

    return ", ".join(f"{dial} {_value(getattr(policy, dial))}" for dial in DIALS[policy.type])


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
