"""Everything that can be set of a measurement: an option of the command, or FIGURES_<NAME> in the environment."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

ENVIRONMENT_PREFIX = "FIGURES_"


def size(default: Any, meaning: str, choices: Sequence[str] | None = None) -> Any:
    """A setting of the measurements: an option of the command, or FIGURES_<NAME> in the environment."""
    return field(default=default, metadata={"meaning": meaning, "choices": choices})


@dataclass(frozen=True, slots=True)
class Sizes:
    """Everything that can be set. Goals are not here: they are what the figures are held against."""

    seed: int = size(1, "every source of chance hangs on it")
    lab: str = size("figures", "name of the lab that all figures of a deployed system share")
    cooldown_seconds: float = size(5.0, "cooldowns of the lab's group; each step waits them out")
    warmup_seconds: float = size(5.0, "warmup of the lab's group: a boot's own load is no step")
    wait_seconds: float = size(120.0, "the longest wait for a state of the lab")
    steps: int = size(20, "step_to_launch: steps by /set-metric")
    load_steps: int = size(5, "step_to_launch: further steps by real CPU load, shown beside the value")
    launches: int = size(5, "ready_over_boot: launches")
    deaths: int = size(5, "dead_to_verdict: machines killed, and as many frozen")
    cost_seconds: float = size(60.0, "agent_*: how long the agent is watched")
    controller_agents: int = size(3, "controller_rss: agents in session")
    controller_seconds: float = size(180.0, "controller_rss: age of the process at least")
    controller_changes: int = size(4, "controller_rss: changes of the group's size before it is read")
    imports: int = size(3, "controller_rss: starts of the baseline; their median counts")
    kills: int = size(10, "kill9: rounds")
    kill_within_seconds: float = size(
        1.5, "kill9: the kill comes at a random moment within so long of the step"
    )
    settle_seconds: float = size(90.0, "kill9: a round that takes longer is unsettled")
    lab_jobs: int = size(40, "jobs_interrupted_lab: jobs in all")
    lab_job_longest_seconds: float = size(20.0, "jobs_interrupted_lab: each takes up to so long")
    lab_refresh_instances: int = size(4, "refresh_below_healthy_lab: instances of the group")
    cut_seconds: float = size(120.0, "silence_replacements: how long a network is cut")
    cut_instances: int = size(6, "silence_replacements: instances of the group")
    cut_partition: int = size(2, "silence_replacements: of them cut off alone, before the controller is")
    simulated_worlds: int = size(2_000, "simulate_*: worlds, from the seed on")
    refresh_worlds: int = size(200, "refresh_below_healthy: worlds, from the seed on")
    ceiling_worlds: int = size(2_000, "cost_ceiling_broken: worlds with ceilings, every tenth seed")
    instances: int = size(10_000, "plan_10000: instances of the group")
    plans: int = size(300, "plan_10000: passes of each scene")
    traces: str = size("", "rehearsals: a folder of load traces; else that of ASG_TRACES, else made-up ones")
    launch_delay_seconds: float = size(120.0, "rehearsals: from a launch to in service")
    virtual_minutes: float = size(60.0, "simulate_speed: virtual time")
    virtual_instances: int = size(20, "simulate_speed: instances of the group")
    jobs: int = size(500, "jobs_*: jobs in all")
    jobs_hours: float = size(8.0, "jobs_*: virtual time in which they begin")
    job_longest_seconds: float = size(300.0, "jobs_*: each takes up to so long")
    jobs_instances: int = size(20, "jobs_*: the group's max_size")
    rest_minutes: float = size(6.0, "ec2_calls_at_rest: virtual time at rest")
    rest_groups: int = size(20, "ec2_calls_at_rest: groups of the large world")
    rest_instances: int = size(500, "ec2_calls_at_rest: instances of each of them")


def add_options(parser: argparse.ArgumentParser) -> None:
    for each in fields(Sizes):
        text = os.environ.get(ENVIRONMENT_PREFIX + each.name.upper())
        kind = type(_default(each))
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=kind,
            default=_default(each) if text is None else kind(text),
            choices=each.metadata["choices"],
            help=f"{each.metadata['meaning']} (default: %(default)s)",
        )


def sizes_of(options: argparse.Namespace) -> Sizes:
    return Sizes(**{each.name: getattr(options, each.name) for each in fields(Sizes)})


def _default(each: "Field[Any]") -> Any:
    assert each.default is not MISSING
    return each.default
