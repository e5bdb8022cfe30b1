"""What the doors ask of a group's instance refresh: what the state forbids is refused here, with the mend."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from controller_asg.model.errors import ConflictError, NotFoundError
from controller_asg.model.instance import LEAVING_STATES, AgentView, Instance
from controller_asg.model.record import GroupRecord
from controller_asg.model.refresh import InstanceRefresh, RefreshStatus
from controller_asg.planner import leases
from controller_asg.planner.refresh import earlier, progress_of
from controller_asg.planner.snapshot import RefreshAction


@dataclass(frozen=True, slots=True)
class RefreshProgress:
    """A group's last refresh, and how far each instance is: (instance, `planner.refresh.progress_of`)."""

    group: str
    refresh: InstanceRefresh
    image_id: str  # of the launch parameters it goes to
    instances: tuple[tuple[Instance, str], ...]


def progress(
    record: GroupRecord, instances: Iterable[Instance], agents: Mapping[str, AgentView], now: datetime
) -> RefreshProgress:
    """Raises NotFoundError where no refresh was ever started."""
    refresh = record.refresh
    if refresh is None:
        mend = f"start one: controller-asg start-instance-refresh {record.group.name}"
        raise NotFoundError("has had no instance refresh", f"groups.{record.group.name}", mend)
    templates = {template.version: template for template in (*record.templates, record.template)}
    template = templates.get(refresh.version)
    matching = frozenset(refresh.matching)
    shown = tuple(
        (i, progress_of(refresh, i, leases.protected(i, agents.get(i.instance_id)), matching, now))
        for i in instances
        if i.state not in LEAVING_STATES
    )
    return RefreshProgress(record.group.name, refresh, template.image_id if template else "", shown)


def check_start(record: GroupRecord) -> None:
    """Raises ConflictError where one is under way."""
    refresh = record.refresh
    if refresh is not None and refresh.active:
        name = record.group.name
        what = f"refresh {refresh.refresh_id} is {refresh.status}, {refresh.percentage_complete} % complete"
        raise ConflictError(
            what, f"groups.{name}", f"wait for it, or controller-asg cancel-instance-refresh {name}"
        )


def changes(record: GroupRecord, action: RefreshAction) -> bool:
    """Whether it would change anything. Raises ConflictError where the state does not allow it."""
    refresh, where = record.refresh, f"groups.{record.group.name}"
    if action == "rollback":
        if refresh is not None and refresh.status in (
            RefreshStatus.ROLLBACK_IN_PROGRESS,
            RefreshStatus.ROLLBACK_SUCCESSFUL,
        ):
            return False
        if earlier(record) is None:
            what = (
                "has no refresh to roll back" if refresh is None else "knows no launch parameters of before"
            )
            raise ConflictError(what, where, "apply the earlier document, then start a refresh")
        return True
    if refresh is None or not refresh.active:
        if action == "cancel":
            return False
        raise ConflictError("has no instance refresh under way", where, "start one first")
    if action == "cancel":
        return refresh.status is not RefreshStatus.CANCELLING
    return refresh.paused != (action == "pause")
