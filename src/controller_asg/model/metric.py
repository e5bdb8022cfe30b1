"""The names of what agents report, and the statistics over the instances of a group."""

from typing import Literal

from controller_asg.model.faults import near_name, shown

Statistic = Literal["average", "maximum", "minimum", "p95", "sum"]

PERCENTS = (
    "cpu_percent",
    "memory_percent",
    "disk_percent",
    "pressure_cpu_percent",
    "pressure_memory_percent",
    "pressure_io_percent",
)
AMOUNTS = (
    "load1_per_cpu",
    "run_queue_per_cpu",
    "network_in_bytes_per_second",
    "network_out_bytes_per_second",
)
APPLICATION = "app."
NAME_LIMIT_CHARACTERS = (
    200  # of an application's metric, behind the prefix: a session with a longer one is ended
)


def metric_fault(metric: str) -> tuple[str, str] | None:
    """(what, mend) of a name that neither an agent nor an application could report."""
    known = (*PERCENTS, *AMOUNTS)
    if metric in known or (metric.startswith(APPLICATION) and metric != APPLICATION):
        return None
    mend = near_name(metric, known) or f"one of {', '.join(known)}"
    return f"{shown(metric)} is no metric", f"write {mend}, or app.<name> for one of the application's own"
