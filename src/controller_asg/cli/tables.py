"""Answers as tables for people: by rich on a terminal, aligned text elsewhere. Ids are never cut or wrapped."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from asg.admin.v1 import admin_pb2 as pb

WHOLE = frozenset(
    {"INSTANCE", "GROUP", "ADDRESS", "STATE", "DESIRED", "STARTED", "ACTIVITY"}
)  # columns never cut


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def show(self, empty: str) -> None:
        """Print it, or the line `empty` when there is no row."""
        if not self.rows:
            typer.echo(empty)
        elif sys.stdout.isatty():
            self._show_on_terminal()
        else:
            typer.echo(self.plain())

    def plain(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = []
        for row in (self.columns, *self.rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _show_on_terminal(self) -> None:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for index, name in enumerate(self.columns):
            whole = name in WHOLE
            width = max(len(row[index]) for row in self.rows) if whole else None
            table.add_column(name, no_wrap=whole, min_width=width, overflow="fold")
        for row in self.rows:
            # Text, not markup: a reason may hold brackets.
            table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
        Console(highlight=False).print(table)


def groups_table(groups: Iterable[pb.Group]) -> Table:
    columns = (
        "GROUP",
        "DESIRED",
        "MIN",
        "MAX",
        "IN SERVICE",
        "OTHERS",
        "OUTDATED",
        "$/H",
        "LAST DECISION",
        "CONDITIONS",
    )
    rows = []
    for group in groups:
        counts = dict(group.instance_counts)
        in_service = counts.pop("InService", 0)
        rows.append(
            (
                group.name,
                str(group.desired_capacity),
                str(group.min_size),
                str(group.max_size),
                str(in_service),
                ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "-",
                str(len(group.outdated_instance_ids) or "-"),
                _of_ceiling(group),
                group.last_decision or "-",
                ", ".join(map(_condition, group.conditions)) or "-",
            )
        )
    return Table(columns, tuple(rows))


def cost_line(answer: pb.ListGroupsResponse) -> str:
    """Of all groups together."""
    return f"in all ${_of_ceiling(answer)} an hour"


def _of_ceiling(answer: pb.Group | pb.ListGroupsResponse) -> str:
    """0.0312, or 0.0312 of 0.05 where there is a ceiling."""
    cost = f"{answer.hourly_cost:.4f}"
    return f"{cost} of {answer.max_hourly_cost:g}" if answer.HasField("max_hourly_cost") else cost


def instances_table(instances: Sequence[pb.Instance], now: datetime) -> Table:
    columns = (
        "INSTANCE",
        "GROUP",
        "STATE",
        "HEALTH",
        "CPU %",
        "HEARD",
        "ADDRESS",
        "ZONE",
        "TYPE",
        "AGE",
        *(["BUSY"] if any(each.busy for each in instances) else []),
        "NOTES",
    )
    rows = []
    for each in instances:
        cpu = each.metrics.get("cpu_percent")
        notes = [
            "spot" if each.market == "spot" else "",
            _protection(each) if each.protected_from_scale_in else "",
            "outdated" if each.outdated else "",
            *map(action_text, each.lifecycle_actions),
            each.health_reason if each.health != "Healthy" else "",
            f"EC2: {each.ec2_state}" if each.ec2_state not in ("", "running") else "",
        ]
        rows.append(
            (
                each.instance_id,
                each.group,
                each.lifecycle_state,
                each.health,
                "-" if cpu is None else f"{cpu:.1f}",
                f"{seconds_text(each.silent_seconds)} ago" if each.HasField("silent_seconds") else "never",
                each.private_ip or "-",
                each.zone or "-",
                each.instance_type or "-",
                age(each.launched_at, now) if each.HasField("launched_at") else "-",
                *(["; ".join(map(busy_text, each.busy)) or "-"] if "BUSY" in columns else []),
                "; ".join(filter(None, notes)) or "-",
            )
        )
    return Table(columns, tuple(rows))


def action_text(action: pb.LifecycleAction) -> str:
    """`waits for save-logs since 2026-03-01 04:00:00Z, until 2026-03-01 05:00:00Z`, or how it ended."""
    if action.lifecycle_action_result:
        return f"{action.lifecycle_hook_name}: {action.lifecycle_action_result} ({action.ended})"
    return f"waits for {action.lifecycle_hook_name} since {moment(action.opened_at)}, until {moment(action.until)}"


def busy_text(lease: pb.BusyLease) -> str:
    """`nightly: report, until 2026-03-01 04:00:00Z, protected`."""
    return ", ".join(
        filter(
            None,
            (
                f"{lease.owner}: {lease.reason}" if lease.reason else lease.owner,
                f"until {moment(lease.until)}" if lease.HasField("until") else "",
                "protected" if lease.protect_from_scale_in else "",
            ),
        )
    )


def activities_table(activities: Iterable[pb.Activity]) -> Table:
    columns = ("STARTED", "GROUP", "KIND", "COUNT", "STATUS", "TOOK", "INSTANCE", "CAUSE")
    rows = []
    for each in activities:
        took = "-"
        if each.HasField("ended_at"):
            seconds = (each.ended_at.ToNanoseconds() - each.started_at.ToNanoseconds()) / 1e9
            took = seconds_text(max(seconds, 0.0))
        cause = each.cause + (f" ({each.status_message})" if each.status_message else "")
        rows.append(
            (
                moment(each.started_at),
                each.group,
                each.kind,
                str(each.instance_count),
                each.status,
                took,
                ",".join(each.instance_ids) or "-",
                cause or "-",
            )
        )
    return Table(columns, tuple(rows))


def schedule_table(group: pb.Group) -> Table:
    columns = ("DUE", "LOCAL TIME", "ACTION", "MIN", "MAX", "DESIRED", "UNTIL", "NOTES")
    rows = []
    for in_force, times in ((True, group.scheduled_in_force), (False, group.next_scheduled)):
        for each in times:
            local = each.at.ToDatetime(UTC).astimezone(ZoneInfo(each.time_zone))
            rows.append(
                (
                    moment(each.at),
                    f"{local:%a %Y-%m-%d %H:%M} {each.time_zone}",
                    each.action,
                    str(each.min_size) if each.HasField("min_size") else "-",
                    str(each.max_size) if each.HasField("max_size") else "-",
                    str(each.desired_capacity) if each.HasField("desired_capacity") else "-",
                    moment(each.until) if each.HasField("until") else "-",
                    "in force" if in_force else "-",
                )
            )
    return Table(columns, tuple(rows))


def moment(stamp: Timestamp) -> str:
    """A time to the second, UTC."""
    return f"{stamp.ToDatetime(UTC):%Y-%m-%d %H:%M:%SZ}"


def age(stamp: Timestamp, now: datetime) -> str:
    return seconds_text(max((now - stamp.ToDatetime(UTC)).total_seconds(), 0.0))


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `41 s`, `3 min`, `5 h`, `12 d`: as exact as a person reads it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, size, until in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _condition(condition: pb.Condition) -> str:
    """Its kind; with the message where the kind alone doesn't say what is held."""
    held = condition.kind in ("Suspended", "Frozen")
    return f"{condition.kind}: {condition.message}" if held else condition.kind


def _protection(instance: pb.Instance) -> str:
    if not instance.HasField("protection"):
        return "protected"
    hold = instance.protection
    until = f" until {moment(hold.until)}" if hold.HasField("until") else ""
    return f"protected{until} by {hold.owner}" + (f": {hold.reason}" if hold.reason else "")


def _style(cell: str) -> str:
    styles = {
        "InService": "green",
        "Healthy": "green",
        "Successful": "green",
        "Suspect": "yellow",
        "InProgress": "yellow",
        "Unhealthy": "red",
        "Failed": "red",
    }
    return styles.get(cell, "")
