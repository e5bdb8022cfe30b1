"""`controller-asg simulate`: the controller's own engine in made-up worlds where everything goes wrong."""

import json
import os
import time
from collections import Counter
from typing import Annotated

import typer

from controller_asg.cli.app import AsJson, app
from controller_asg.cli.calls import EXIT_FAILED


@app.command()
def simulate(
    seed: Annotated[int | None, typer.Option(help="Only this one.")] = None,
    trace: Annotated[bool, typer.Option(help="Tell its story, a line an event.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="So many worlds.")] = 200,
    first: Annotated[int, typer.Option(min=0, help="The first one's seed.")] = 0,
    size: Annotated[int, typer.Option(min=0, help="min_size of the groups; 0: each seed's own, 1 to 4.")] = 0,
    until_broken: Annotated[bool, typer.Option(help="Stop at the first broken invariant.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    as_json: AsJson = False,
) -> None:
    """Run the engine in made-up worlds full of faults; exit code 1 when an invariant broke."""
    from controller_asg.simulate.faults import FaultKind
    from controller_asg.simulate.invariants import transition_names
    from controller_asg.simulate.run import run_many

    wanted = [seed] if seed is not None else list(range(first, first + seeds))
    began, done, virtual_seconds = time.perf_counter(), 0, 0.0
    broken: list[tuple[int, str]] = []
    faults: Counter[str] = Counter()
    transitions: set[str] = set()
    for result in run_many(wanted, min(jobs, len(wanted)), trace, size):
        done += 1
        faults.update(result.faults)
        transitions |= result.transitions
        virtual_seconds += result.virtual_seconds
        broken.extend((result.seed, what) for what in result.broken)
        for line in result.story:
            typer.echo(line)
        if not as_json:
            for what in result.broken:
                typer.echo(
                    f"seed {result.seed}: {what}\n    controller-asg simulate --seed {result.seed}"
                    f"{f' --size {size}' if size else ''} --trace"
                )
        if until_broken and result.broken:
            break
    missed_faults = sorted({kind.value for kind in FaultKind} - faults.keys())
    missed_transitions = sorted(transition_names() - transitions)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "seeds": done,
                    "broken": [{"seed": number, "what": what} for number, what in broken],
                    "faults": dict(faults.most_common()),
                    "transitions": sorted(transitions),
                    "faults_not_reached": missed_faults,
                    "transitions_not_reached": missed_transitions,
                    "virtual_seconds": virtual_seconds,
                    "seconds": time.perf_counter() - began,
                }
            )
        )
    else:
        typer.echo(
            f"{done} worlds, {virtual_seconds / 3600:.1f} virtual hours in {time.perf_counter() - began:.0f} s:"
            f" {len(broken)} broken invariants; {faults.total()} faults of {len(faults)} kinds,"
            f" {len(transitions)} transitions"
        )
        for name, missed in (("faults", missed_faults), ("transitions", missed_transitions)):
            if missed and seed is None:
                typer.echo(f"{name} not reached: {', '.join(missed)}")
    if broken:
        raise typer.Exit(EXIT_FAILED)
