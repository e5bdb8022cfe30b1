"""From what to launch, and how much of it: a template that fails is stopped, and nothing grows without a limit.

A template is proven once an instance of it came into service. Of one that is not, no more instances are on their way
than may fail before it is stopped; the rest is launched from the last good one, so a broken image costs a few
instances and never the size of the group.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from controller_asg.model.record import GroupRecord, LaunchMemory, LaunchTemplate
from controller_asg.planner.draft import Draft

# Failures are kept of so many versions: the applied one, the good one, and what is still on its way.
VERSIONS_KEPT = 8
# What instances may still run after so many documents, and a refresh could roll back to.
TEMPLATES_KEPT = 4


def succeeded(record: GroupRecord, version: str) -> GroupRecord:
    """An instance of that version came into service."""
    memory = record.launch_memory
    template = next(
        (t for t in (record.template, memory.good) if t is not None and t.version == version), None
    )
    rest = tuple(entry for entry in memory.failures if entry[0] != version)
    if template is None or (template == memory.good and rest == memory.failures):
        return record
    return replace(record, launch_memory=replace(memory, good=template, failures=rest))


def failed(record: GroupRecord, version: str) -> GroupRecord:
    """An instance of that version did not come into service."""
    memory = record.launch_memory
    rest = tuple(entry for entry in memory.failures if entry[0] != version)
    failures = (*rest, (version, failures_of(memory, version) + 1))[-VERSIONS_KEPT:]
    return replace(record, launch_memory=replace(memory, failures=failures))


def failures_of(memory: LaunchMemory, version: str) -> int:
    return next((count for known, count in memory.failures if known == version), 0)


def fall_back(record: GroupRecord) -> LaunchTemplate | None:
    """The last good template, where it is another one than the applied.

    It stays that however often it fails later: what once worked and fails now is more likely the world's fault.
    """
    good = record.launch_memory.good
    return good if good is not None and good.version != record.launch_version else None


def forget_good(record: GroupRecord) -> GroupRecord:
    """EC2 will never launch the last good template again: its image is gone, or the like."""
    return replace(record, launch_memory=replace(record.launch_memory, good=None))


def counts_for_group(record: GroupRecord, version: str) -> bool:
    """A failure of that version holds the whole group's launches back: there is no better one to launch instead."""
    good = fall_back(record)
    return good is None or good.version == version


def stopped(record: GroupRecord) -> bool:
    """Nothing is launched from the applied document's template any more."""
    failures = failures_of(record.launch_memory, record.launch_version)
    return failures >= record.group.failed_launches_limit and fall_back(record) is not None


def share_out(draft: Draft, count: int) -> Iterator[tuple[LaunchTemplate, int]]:
    """`count` instances by template: as many of the applied one as may be risked, the rest of the last good one."""
    record = draft.record
    good = fall_back(record)
    risk = risk_left(draft) if good is not None else None
    applied = count if risk is None else min(count, risk)
    if applied:
        yield record.template, applied
    if good is not None and count > applied:
        yield good, count - applied


def risk_left(draft: Draft) -> int | None:
    """How many more of the applied template may be on their way before one of them came into service.

    None: one did, so there is no such limit.
    """
    record = draft.record
    good = record.launch_memory.good
    if good is not None and good.version == record.launch_version:
        return None
    on_their_way = sum(
        member.instance.launch_version == record.launch_version for member in draft.pending()
    ) + sum(
        launch.instance_count
        for launch in draft.open_launches()
        if not launch.acknowledged and launch.launch and launch.launch.launch_version == record.launch_version
    )
    failures = failures_of(record.launch_memory, record.launch_version)
    return max(0, record.group.failed_launches_limit - failures - on_their_way)


def earlier_templates(record: GroupRecord) -> tuple[LaunchTemplate, ...]:
    """What may be known beside the applied template, each version once, the newest last."""
    good = record.launch_memory.good
    known = {template.version: template for template in record.templates}
    if good is not None:
        known.setdefault(good.version, good)
    return tuple(template for template in known.values() if template.version != record.launch_version)


def remembered(record: GroupRecord) -> tuple[LaunchTemplate, ...]:
    """The templates to keep when another one takes the applied one's place."""
    return (*earlier_templates(record), record.template)[-TEMPLATES_KEPT:]


def room_to_grow(record: GroupRecord, now: datetime) -> int:
    """How many may be launched now without growing faster than the group's limit."""
    limit = record.max_size * record.group.growth_limit_percentage // 100
    return max(0, limit - max(0, sum(count for _, count in recent(record, now))))


def recent(record: GroupRecord, now: datetime) -> tuple[tuple[datetime, int], ...]:
    """The launches within the growth window."""
    begins = now - timedelta(seconds=record.group.growth_window_seconds)
    return tuple((at, count) for at, count in record.launch_memory.recent if begins < at <= now)


def launched(record: GroupRecord, count: int, now: datetime) -> GroupRecord:
    """So many more count within the growth window; fewer, where `count` were given up on purpose (below 0)."""
    memory = replace(record.launch_memory, recent=(*recent(record, now), (now, count)))
    return replace(record, launch_memory=memory)
