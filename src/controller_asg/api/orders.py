"""What both doors are told of members and suspensions, checked by the limits that EC2 has. Raises SpecError."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.faults import near_name, shown
from controller_asg.model.hold import Hold, Process
from controller_asg.model.scheduled_action import FIRST_YEAR, LAST_YEAR
from controller_asg.model.text import unprintable

# EC2 Auto Scaling API Reference: AttachInstances, DetachInstances, EnterStandby; SetInstanceProtection takes more.
INSTANCES_LIMIT = 20
LONGEST_SECONDS = 366 * 86_400.0
YEARS_MEND = f"write one of the years {FIRST_YEAR} to {LAST_YEAR}"
REASON_LIMIT_CHARACTERS = ACTOR_LIMIT_CHARACTERS = 200

_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


def instance_ids(given: Sequence[str]) -> tuple[str, ...]:
    """Each once, in their order."""
    ids = tuple(dict.fromkeys(given))
    faults = [
        Fault("instance_ids", f"{each[:40]!r} is no instance id", "write ids such as i-0123456789abcdef0")
        for each in ids
        if not _INSTANCE_ID.fullmatch(each)
    ]
    if not 0 < len(ids) <= INSTANCES_LIMIT:
        faults.append(Fault("instance_ids", f"are {len(ids)}", f"name 1 to {INSTANCES_LIMIT}"))
    if faults:
        raise SpecError(tuple(faults))
    return ids


def processes(given: Sequence[str]) -> tuple[Process, ...]:
    """By EC2's names, each once; all of them for none."""
    faults = []
    for name in dict.fromkeys(given):
        if name == "AddToLoadBalancer":
            faults.append(
                Fault("processes", f"{name} is none of ours: there is no load balancer", "leave it out")
            )
        elif name not in set(Process):
            mend = f"write {near_name(name, set(Process)) or ', '.join(Process)}"
            faults.append(Fault("processes", f"{name[:40]!r} is no process", mend))
    if faults:
        raise SpecError(tuple(faults))
    return tuple(Process(name) for name in dict.fromkeys(given)) or tuple(Process)


def until(seconds: float | None, at: datetime | None, now: datetime) -> datetime | None:
    """When a hold ends; None: it does not, for neither was told."""
    if seconds is not None and at is not None:
        raise SpecError((Fault("until", "is told, and seconds too", "write one of the two"),))
    if seconds is not None:
        if not 0 < seconds <= LONGEST_SECONDS:
            mend = f"write a number above 0, {LONGEST_SECONDS:.0f} at the most"
            raise SpecError((Fault("seconds", f"{shown(seconds)} is no such time", mend),))
        return now + timedelta(seconds=seconds)
    if at is not None and at <= now:
        raise SpecError((Fault("until", f"{at:%Y-%m-%d %H:%M:%SZ} is past", "write a time to come"),))
    return at


def time(text: str, where: str) -> datetime:
    """Of ISO 8601 with a zone, in UTC: what a time without one means would depend on who reads it."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        what = f"{shown(text)} is no time"
        raise SpecError((Fault(where, what, "write it like 2028-03-01T12:00:00Z"),)) from error
    if at.tzinfo is None:
        mend = f"write it like {at.isoformat()}Z, or with an offset such as +01:00"
        raise SpecError((Fault(where, f"{shown(text)} names no time zone", mend),))
    return in_range(at, where).astimezone(UTC)


def in_range(at: datetime, where: str) -> datetime:
    """Far enough from the ends of the calendar to reckon with."""
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise SpecError((Fault(where, f"{at.isoformat()} is out of range", YEARS_MEND),))
    return at


def hold(
    actor: str, why: str, seconds: float | None, at: datetime | None, everywhere: bool, now: datetime
) -> Hold:
    return Hold(actor, reason(why), now, until(seconds, at, now), everywhere)


def reason(text: str) -> str:
    if len(text) > REASON_LIMIT_CHARACTERS:
        what = f"has {len(text)} characters"
        raise SpecError((Fault("reason", what, f"write {REASON_LIMIT_CHARACTERS} at the most"),))
    return _printable(text, "reason")


def actor(text: str) -> str:
    """Cut to what is shown; "the admin API" for none."""
    return _printable(text[:ACTOR_LIMIT_CHARACTERS], "actor") or "the admin API"


def _printable(text: str, where: str) -> str:
    """On one line."""
    line = " ".join(text.split())
    if character := unprintable(line):
        raise SpecError((Fault(where, f"holds the control character {character}", "write plain text"),))
    return line
