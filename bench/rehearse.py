"""How well `demand_tracking` follows loads that it has never seen, against EC2's target tracking on the same ones.

Traces: those of `--traces` or $ASG_TRACES, otherwise the made-up ones. One configuration, the default, for all of them.
"""

import os
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from bench.figure import Measured, Measurement, Run
from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.scaling_policy import DemandTracking, TargetTracking, Thresholds
from controller_asg.policy.demand import DemandMemory
from controller_asg.policy.season import Season
from controller_asg.policy.serving import Fleet
from controller_asg.policy.voting import combine
from controller_asg.rehearse.baselines import BASELINES
from controller_asg.rehearse.figures import GEOMETRIC_FLOORS, Figures, churn, figures, geometric_mean
from controller_asg.rehearse.follow import demand_tracking as follower
from controller_asg.rehearse.generate import SHAPES, generate
from controller_asg.rehearse.load import TICK_SECONDS, Trace, demand, read_traces
from controller_asg.rehearse.world import Follower, needs, rehearse

TAU_GOAL, TAU_COUNTED_PERCENT = 0.25, 0.05  # where tt60 is short of capacity at all
COST_GOAL, CALM_GOAL, CHANGES_GOAL = 0.85, 1.25, 4.0
CALM = ("sine-day", "ramp", "random-walk", "flat", "aws-ec2-cpu")
STEADY = ("step", "ramp", "flat", "sine-day", "random-walk")
SEASONAL = ("sine-day", "nasa", "worldcup", "aws-asg", "tweets")
HARM = ("random-walk", "on-off")
MASE_GOAL, MASE_MINUTES = 0.8, 15
HARM_COST_GOAL, HARM_TAU_GOAL = 1.03, 1.05
STEP_BASES, STEP_QUIET_TICKS, STEP_TICKS = (3.0, 12.0, 60.0), (6, 60, 360), 180
WEEK_GOAL_SECONDS, WEEK_RUNS = 2.0, 3
VOTE_GOAL_MICROSECONDS, VOTE_INSTANCES, VOTES = 300.0, 100, 2000


@cache
def traces(folder: str) -> tuple[Trace, ...]:
    return read_traces(Path(folder)) if folder else tuple(map(generate, SHAPES))


def _folder(run: Run) -> str:
    return run.sizes.traces or os.environ.get("ASG_TRACES", "")


def _named(run: Run, names: tuple[str, ...]) -> list[Trace]:
    return [each for each in traces(_folder(run)) if any(name in each.name for name in names)]


def _judge(run: Run, needed: list[float], follow: Follower) -> tuple[Figures, int]:
    """The figures, and the number of reversals."""
    delay = run.sizes.launch_delay_seconds
    schedule = rehearse(needed, follow, delay)
    return figures(needs(needed), schedule, delay), churn(schedule.desired)[1]


def measure_following(run: Run) -> Iterator[Measured]:
    delay = run.sizes.launch_delay_seconds
    ours: dict[str, Figures] = {}
    ec2: dict[str, Figures] = {}
    reversals: dict[str, int] = {}
    for trace in traces(_folder(run)):
        run.say(trace.name)
        needed = demand(trace)
        ours[trace.name], reversals[trace.name] = _judge(run, needed, follower(DemandTracking(), delay))
        ec2[trace.name], _ = _judge(run, needed, BASELINES["tt60"]())
    sizes = ("launch_delay_seconds",)
    tau = {
        name: ours[name].tau_u / each.tau_u for name, each in ec2.items() if each.tau_u >= TAU_COUNTED_PERCENT
    }
    value, worst = statistics.fmean(tau.values()), max(tau.values())
    met = value <= TAU_GOAL and worst <= 1
    yield Measured(
        "tau_u_over_tt60", value, "ratio", TAU_GOAL, met, sizes, extra={"worst": worst, "traces": tau}
    )
    cost = {name: ours[name].cost / each.cost for name, each in ec2.items()}
    value = geometric_mean(list(cost.values()))
    yield Measured(
        "cost_over_tt60", value, "ratio", COST_GOAL, value <= COST_GOAL, sizes, extra={"traces": cost}
    )
    calm = {name: each.cost for name, each in ours.items() if any(part in name for part in CALM)}
    value = max(calm.values())
    yield Measured(
        "cost_calm",
        value,
        "ratio",
        CALM_GOAL,
        value <= CALM_GOAL,
        sizes,
        baseline=max(ec2[name].cost for name in calm),
        extra={"traces": calm},
    )
    value = geometric_mean(
        [max(each.changes_per_hour, GEOMETRIC_FLOORS["changes_per_hour"]) for each in ours.values()]
    )
    yield Measured(
        "changes_per_hour",
        value,
        "changes/h",
        CHANGES_GOAL,
        value <= CHANGES_GOAL,
        sizes,
        baseline=geometric_mean(
            [max(each.changes_per_hour, GEOMETRIC_FLOORS["changes_per_hour"]) for each in ec2.values()]
        ),
    )
    steady = {name: count for name, count in reversals.items() if any(part in name for part in STEADY)}
    count = sum(steady.values())
    yield Measured("reversals", count, "changes", 0, count == 0, sizes, extra={"traces": steady})


def measure_forecast(run: Run) -> Iterator[Measured]:
    """The mean absolute error of each minute's demand foretold 15 minutes before, over that of no change at all."""
    scaled: dict[str, float] = {}
    for trace in _named(run, SEASONAL):
        season, needed = Season(), demand(trace)
        per_minute = 60 // TICK_SECONDS
        means = [
            statistics.fmean(needed[at : at + per_minute])
            for at in range(0, len(needed) - per_minute + 1, per_minute)
        ]
        foretold: list[float] = []
        for mean in means:
            season.fold(mean, MASE_MINUTES)
            assert season.forecast is not None
            foretold.append(season.forecast)
        actual = means[MASE_MINUTES:]
        error = sum(abs(each - right) for each, right in zip(foretold, actual, strict=False))
        scaled[trace.name] = error / sum(
            abs(each - right) for each, right in zip(means, actual, strict=False)
        )
    value = statistics.fmean(scaled.values())
    yield Measured(
        "forecast_mase_15min", value, "ratio", MASE_GOAL, value <= MASE_GOAL, (), extra={"traces": scaled}
    )


def measure_harm(run: Run) -> Iterator[Measured]:
    delay = run.sizes.launch_delay_seconds
    cost: dict[str, float] = {}
    tau: dict[str, float] = {}
    for trace in _named(run, HARM):
        needed = demand(trace)
        on, _ = _judge(run, needed, follower(DemandTracking(), delay))
        off, _ = _judge(run, needed, follower(DemandTracking(forecast="off"), delay))
        cost[trace.name] = on.cost / off.cost
        tau[trace.name] = max(on.tau_u, GEOMETRIC_FLOORS["tau_u"]) / max(off.tau_u, GEOMETRIC_FLOORS["tau_u"])
    sizes = ("launch_delay_seconds",)
    for name, goal, found in (
        ("forecast_harm_cost", HARM_COST_GOAL, cost),
        ("forecast_harm_tau_u", HARM_TAU_GOAL, tau),
    ):
        value = max(found.values())
        yield Measured(name, value, "ratio", goal, value <= goal, sizes, extra={"traces": found})


def measure_step(run: Run) -> Iterator[Measured]:
    """The most scale-outs that answered a demand of five times as much, from a group that was at 60 %."""
    delay = run.sizes.launch_delay_seconds
    actions = []
    for base in STEP_BASES:
        for quiet in STEP_QUIET_TICKS:
            needed = [base] * quiet + [5 * base] * STEP_TICKS
            desired = rehearse(needed, follower(DemandTracking(), delay), delay).desired
            actions.append(sum(desired[at] > desired[at - 1] for at in range(quiet, len(desired))))
    value = max(actions)
    yield Measured("step5x_actions", value, "actions", 1, value == 1, ("launch_delay_seconds",))


def measure_week(run: Run) -> Iterator[Measured]:
    needed = demand(generate("sine-day", run.sizes.seed))
    taken: dict[str, float] = {}
    for name, fresh in (("ours", lambda: follower(DemandTracking())), ("tt60", BASELINES["tt60"])):
        seconds = []
        for _ in range(WEEK_RUNS):
            started = time.perf_counter()
            rehearse(needed, fresh())
            seconds.append(time.perf_counter() - started)
        taken[name] = statistics.median(seconds)
    value = taken["ours"]
    met = value <= WEEK_GOAL_SECONDS
    yield Measured("rehearse_week_seconds", value, "s", WEEK_GOAL_SECONDS, met, (), baseline=taken["tt60"])


def measure_vote(run: Run) -> Iterator[Measured]:
    """The median vote of a group of 100 with five policies."""
    policies = (
        DemandTracking(),
        Thresholds(),
        *(TargetTracking(metric="cpu_percent", target=60.0, name=f"target{number}") for number in range(3)),
    )
    memories = {policies[0].name: DemandMemory()}
    passes: list[float] = []
    for second in range(VOTES):
        cpu = 50.0 + second % 7
        members = tuple(
            AgentView(
                f"i-{number}",
                0.0,
                samples=tuple(
                    Sample(float(second - age), {"cpu_percent": cpu + number % 5}) for age in range(9, -1, -1)
                ),
                as_of=float(second),
            )
            for number in range(VOTE_INSTANCES)
        )
        fleet = Fleet(members, VOTE_INSTANCES, 0)
        now = datetime.fromtimestamp(1_800_000_000 + second, UTC)
        started = time.perf_counter()
        combine(policies, fleet, (), now, memories)
        passes.append((time.perf_counter() - started) * 1e6)
    value = statistics.median(passes)
    yield Measured(
        "vote_microseconds",
        value,
        "µs",
        VOTE_GOAL_MICROSECONDS,
        value <= VOTE_GOAL_MICROSECONDS,
        (),
        extra={"instances": VOTE_INSTANCES},
    )


FOLLOWING = Measurement(
    ("tau_u_over_tt60", "cost_over_tt60", "cost_calm", "changes_per_hour", "reversals"), measure_following
)
FORECAST = Measurement(("forecast_mase_15min",), measure_forecast)
HARM_OF_FORECAST = Measurement(("forecast_harm_cost", "forecast_harm_tau_u"), measure_harm)
STEP = Measurement(("step5x_actions",), measure_step)
WEEK = Measurement(("rehearse_week_seconds",), measure_week)
VOTE = Measurement(("vote_microseconds",), measure_vote)
