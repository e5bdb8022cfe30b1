"""Applying documents: what EC2 would refuse is found first, then what differs, then all of it is one transaction."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from controller_asg.cloud.port import Cloud
from controller_asg.engine.controller import Applied
from controller_asg.engine.memory import Memory
from controller_asg.engine.view import CloudView
from controller_asg.model.activity import Activity, ActivityStatus
from controller_asg.model.document import parse_groups, place
from controller_asg.model.errors import ConflictError, Fault, NotFoundError, RejectedError, SpecError
from controller_asg.model.group import Group, group_to_dict, launch_version
from controller_asg.model.instance import LEAVING_STATES, Ec2State
from controller_asg.model.record import Change, GroupRecord
from controller_asg.planner.launches import remembered
from controller_asg.planner.schedule import carried
from controller_asg.planner.snapshot import Outcome
from controller_asg.planner.suspension import inherited

ALIVE = frozenset({Ec2State.PENDING, Ec2State.RUNNING})


async def check(
    cloud: Cloud,
    documents: Mapping[str, Mapping[str, Any]],
    source: str,
    user_data: Callable[[Group], str],
    cost_faults: Callable[[list[Group], str], Iterable[Fault]],
) -> tuple[list[tuple[Group, str]], tuple[Fault, ...]]:
    """Each group with its image's id, and warnings. Raises SpecError with all faults of all documents."""
    wanted: list[tuple[Group, str]] = []
    faults: list[Fault] = []
    warnings: list[Fault] = []
    for group in parse_groups(documents, source):
        try:
            user_data(group)
        except SpecError as error:
            faults.extend(error.faults)
        try:
            image_id = await cloud.find_image(group.launch.image)
        except (RejectedError, NotFoundError) as error:
            faults.append(Fault(place(group.name, "launch.image", source), error.what, error.mend))
            image_id = ""  # the rest is checked all the same, so that every fault is in one report
        for fault in await cloud.check_launch(group, image_id):
            faults.append(replace(fault, where=f"{source}: {fault.where}" if source else fault.where))
        wanted.append((group, image_id))
        if not group.policies:
            what = "has no policy, so its size changes only by hand"
            warnings.append(Fault(place(group.name, "policies", source), what, "add one, or leave it so"))
    faults.extend(cost_faults([group for group, _ in wanted], source))
    if faults:
        raise SpecError(tuple(faults))
    return wanted, tuple(warnings)


def differences(
    memory: Memory, view: CloudView, wanted: list[tuple[Group, str]], now: datetime
) -> tuple[tuple[Applied, ...], Change]:
    """What applying changes. A group that is there keeps its desired capacity; the bounds are the planner's matter."""
    applied, records = [], []
    for group, image_id in wanted:
        old = memory.groups.get(group.name)
        before = shown(old.group, old.image_id) if old else None
        after = shown(group, image_id)
        version = launch_version(group.launch, image_id, group.bootstrap)
        if old is None:
            suspended = inherited(memory.groups.values(), now)
            first = _first_capacity(group, view)
            record = GroupRecord(group, 1, image_id, version, first, now, suspended=suspended)
        else:
            record = replace(
                old,
                group=group,
                version=old.version + 1,
                image_id=image_id,
                launch_version=version,
                applied_at=now,
                scheduled=carried(old, group),
                templates=old.templates if version == old.launch_version else remembered(old),
            )
        if before == after and old is not None:
            record = old
        else:
            records.append(record)
        applied.append(Applied(group.name, before, after, record.version, outdated(memory, record)))
    return tuple(applied), Change(groups=tuple(records))


def check_deletable(group: Group, force: bool) -> None:
    """Raises ConflictError where the group's deletion protection forbids it."""
    protection = group.deletion_protection
    if protection == "prevent-all-deletion" or (protection == "prevent-force-deletion" and force):
        what = f"has deletion_protection: {protection}"
        mend = "apply it with deletion_protection: none first"
        if protection == "prevent-force-deletion":
            mend = f"set its sizes to 0 and ask without force, or {mend}"
        raise ConflictError(what, f"groups.{group.name}", mend)


def _first_capacity(group: Group, view: CloudView) -> int:
    """As many as carry the group's tag and live (the store may have been lost), else what the document begins with."""
    alive = sum(instance.state in ALIVE for instance in view.group(group.name).values())
    first = group.initial_capacity if group.initial_capacity is not None else group.min_size
    return min(max(alive or first, group.min_size), group.max_size)


def shown(group: Group, image_id: str) -> dict[str, Any]:
    document = group_to_dict(group)
    document["launch"]["image"]["found_id"] = image_id
    return document


def outdated(memory: Memory, record: GroupRecord) -> tuple[str, ...]:
    """Live instances that were launched from other parameters than the record's."""
    return tuple(
        instance.instance_id
        for instance in memory.by_group.get(record.group.name, {}).values()
        if instance.launch_version != record.launch_version and instance.state not in LEAVING_STATES
    )


def ended(activity: Activity, outcome: Outcome, now: datetime) -> Activity:
    """An activity that ends with its call's answer."""
    status = ActivityStatus.FAILED if outcome.error is not None else ActivityStatus.SUCCESSFUL
    message = str(outcome.error) if outcome.error is not None else ""
    return replace(activity, status=status, ended_at=now, status_message=message)
