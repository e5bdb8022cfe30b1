"""From what an operator wrote to groups that hold together; or to every fault of it, each with its place.

What is refused here only, and not by the types, may stand in a store: an earlier release took it.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from pydantic import TypeAdapter, ValidationError

from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.expression import ExpressionError, parse
from controller_asg.model.faults import faults_of, near_name, pattern_fault, shown
from controller_asg.model.group import Group, healthy_range
from controller_asg.model.metric import APPLICATION, NAME_LIMIT_CHARACTERS, metric_fault
from controller_asg.model.scaling_policy import (
    NAME_PATTERN,
    AlarmScaling,
    Policy,
    Predictive,
    SimpleScaling,
    StepScaling,
    TargetTracking,
    Thresholds,
    metrics_of,
)
from controller_asg.model.scheduled_action import FIRST_YEAR, LAST_YEAR, ScheduledAction, cron_fault
from controller_asg.model.text import broken, unprintable

_GROUP: TypeAdapter[Group] = TypeAdapter(Group)

USER_DATA_LIMIT_BYTES = (
    16_384  # EC2's limit on user data before base64 (EC2 User Guide, "instance user data")
)
RESERVED_TAG_PREFIXES = ("aws:", "controller-asg:")
POLICIES_LIMIT = 50  # of a group (EC2 Auto Scaling User Guide, "Quotas")
TAGS_LIMIT = 40  # of EC2's 50 a resource; the rest is ours
# No group is larger than 10,000, and 100,000 % makes one of ten instances that large.
ADJUSTMENT_LIMITS = {
    "ExactCapacity": (10_000, "instances"),
    "ChangeInCapacity": (10_000, "instances"),
    "PercentChangeInCapacity": (100_000, "percent"),
}
_NAMES = tuple(field.name for field in dataclasses.fields(Group))
# Lists of a group in which each entry is judged by itself.
_ENTRIES = ("policies", "scheduled_actions", "lifecycle_hooks")
# In place of a bound that is wrong: nothing contradicts these.
_BOUNDLESS = {"min_size": 0, "max_size": 10_000}


def place(group: str, key: str = "", source: str = "") -> str:
    """How every message names a place in an operator's document."""
    where = f"asg_groups.{group}" + (f".{key}" if key else "")
    return f"{source}: {where}" if source else where


def parse_groups(documents: Mapping[str, Mapping[str, Any]], source: str = "") -> tuple[Group, ...]:
    """Every group of the documents, in their order. Raises SpecError with the faults of all of them."""
    groups: list[Group] = []
    faults: list[Fault] = []
    for name, document in documents.items():
        if not isinstance(document, Mapping):
            faults.append(
                Fault(place(name, "", source), "is not a mapping of settings", "write keys below it")
            )
            continue
        if document.get("name", name) != name:
            faults.append(
                Fault(place(name, "name", source), f"differs from the group's key {name}", "leave it out")
            )
            continue
        faults.extend(
            Fault(place(name, key, source), "holds half of a character", "write whole characters")
            for key in broken(document)
        )
        try:
            group = _validated(name, document)
        except ValidationError as error:
            faults.extend(faults_of(error, place(name, "", source), Group))
            faults.extend(_contradictions_of_the_rest(name, document, error, source))
            continue
        faults.extend(_contradictions(group, source))
        groups.append(group)
    if faults:
        raise SpecError(tuple(faults))
    return tuple(groups)


def _validated(name: str, document: Mapping[str, Any]) -> Group:
    """Raises pydantic's ValidationError. What has no bytes in UTF-8 becomes a question mark."""
    text = json.dumps({**document, "name": name}, default=str, ensure_ascii=False)
    return _GROUP.validate_json(text.encode(errors="replace"))


def _contradictions_of_the_rest(
    name: str, document: Mapping[str, Any], error: ValidationError, source: str
) -> Iterator[Fault]:
    """Contradictions between the keys that are right by themselves, so that one report tells all there is to mend."""
    wrong = [each["loc"] for each in error.errors() if each["loc"]]
    keys = {str(loc[0]) for loc in wrong}
    rest = {key: value for key, value in document.items() if key not in keys}
    kept: dict[str, list[int]] = {}
    for key in _ENTRIES:
        if isinstance(document.get(key), list):
            spoilt = {loc[1] for loc in wrong if loc[0] == key and len(loc) > 1}
            whole = (key,) not in wrong
            kept[key] = [i for i in range(len(document[key])) if whole and i not in spoilt]
            rest[key] = [document[key][i] for i in kept[key]]
    meant = {near_name(key, _NAMES) for key in keys}
    rest = {key: value for key, value in _BOUNDLESS.items() if key in meant} | rest
    rest.setdefault("launch", {"image": {"id": "ami-00000000"}})
    try:
        group = _validated(name, rest)
    except ValidationError:
        return
    known = "launch" in document and rest["launch"] is document["launch"]
    for fault in _contradictions(group, source, kept):
        if known or ".launch." not in fault.where:
            yield fault


def _contradictions(
    group: Group, source: str, kept: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Fault]:
    """What each key alone allows, and the keys together do not.

    `kept` holds the document's own indices of the entries, where some were left out.
    """

    def fault(key: str, what: str, mend: str) -> Fault:
        name, _, rest = key.partition("[")
        if kept and name in kept:
            index, _, below = rest.partition("]")
            key = f"{name}[{kept[name][int(index)]}]{below}"
        return Fault(place(group.name, key, source), what, mend)

    low, high = group.min_size, group.max_size
    if high < low:
        yield fault(
            "max_size", f"{high} is below min_size {low}", f"raise it to {low} or more, or lower min_size"
        )
    elif group.initial_capacity is not None and not low <= group.initial_capacity <= high:
        yield fault(
            "initial_capacity",
            f"{group.initial_capacity} is outside of {low} to {high}",
            "write a size between min_size and max_size, or leave it out",
        )
    for key, text in _names(group):
        if text == "":
            yield fault(key, "is empty", "write one, or leave the key out")
    image = group.launch.image
    if [image.id, image.name, image.ssm_parameter].count(None) != 2:
        yield fault(
            "launch.image", "names no image or more than one", "write exactly one of id, name, ssm_parameter"
        )
    if len(group.policies) > POLICIES_LIMIT:
        yield fault("policies", f"{len(group.policies)} entries", f"write {POLICIES_LIMIT} at the most")
    for index, policy in enumerate(group.policies):
        if not re.fullmatch(NAME_PATTERN, policy.name):
            yield fault(f"policies[{index}].name", *pattern_fault(policy.name, NAME_PATTERN))
        for key, what, mend in _of_metrics(policy):
            yield fault(f"policies[{index}]{key}", what, mend)
        if isinstance(policy, Thresholds) and policy.delete_below >= policy.create_above:
            yield fault(
                f"policies[{index}].delete_below",
                f"{policy.delete_below:g} is not below create_above {policy.create_above:g}",
                f"write less than {policy.create_above:g}: an instance can't be both too busy and too idle",
            )
        if isinstance(policy, StepScaling):
            for what, mend in _unlike_steps(policy):
                yield fault(f"policies[{index}].steps", what, mend)
        for key, what, mend in _of_adjustments(policy):
            yield fault(f"policies[{index}]{key}", what, mend)
        if policy.name in [other.name for other in group.policies[:index]]:
            yield fault(
                f"policies[{index}].name", f"{policy.name} stands twice", "give each policy a name of its own"
            )
    for key, what, mend in _of_replacing(group):
        yield fault(key, what, mend)
    for way in ("scale_out", "scale_in"):
        for index, rate in enumerate(getattr(group.behavior, way).rates):
            if (rate.count is None) == (rate.percent is None):
                what, mend = "has not one amount", "write either count or percent"
                yield fault(f"behavior.{way}.rates[{index}]", what, mend)
    for index, action in enumerate(group.scheduled_actions):
        for key, what, mend in _of_action(action, index, group):
            yield fault(f"scheduled_actions[{index}]{key}", what, mend)
    for index, hook in enumerate(group.lifecycle_hooks):
        if hook.name in [other.name for other in group.lifecycle_hooks[:index]]:
            yield fault(
                f"lifecycle_hooks[{index}].name",
                f"{hook.name} stands twice",
                "give each hook a name of its own",
            )
        if character := unprintable(hook.notification_metadata, but="\n\t"):
            yield fault(
                f"lifecycle_hooks[{index}].notification_metadata",
                f"holds the control character {character}",
                "write plain text; what is binary, in base64",
            )
    for tag in group.launch.tags:
        if tag.startswith(RESERVED_TAG_PREFIXES):
            yield fault(f"launch.tags[{tag}]", "is a reserved tag", "choose a name without that prefix")
    if len(group.launch.tags) > TAGS_LIMIT:
        yield fault("launch.tags", f"{len(group.launch.tags)} tags", f"write {TAGS_LIMIT} at the most")
    size = len(group.launch.user_data.encode())
    if size > USER_DATA_LIMIT_BYTES:
        yield fault(
            "launch.user_data",
            f"{size} bytes are over EC2's {USER_DATA_LIMIT_BYTES}",
            "fetch the rest from a place of yours",
        )
    if group.bootstrap == "role" and group.launch.key_pair is None:
        yield fault(
            "launch.key_pair",
            "is missing, and bootstrap is role",
            "name the key pair the controller logs in with",
        )
    launch = group.launch
    if launch.spot and launch.on_demand_percentage:
        yield fault(
            "launch.on_demand_percentage_above_base_capacity",
            f"{launch.on_demand_percentage} contradicts spot: true, which is 0",
            "leave one of the two out",
        )
    for index, name in enumerate(launch.instance_types):
        if name in launch.types[: index + 1]:
            yield fault(
                f"launch.instance_types[{index}]",
                f"{name} stands twice",
                "name each type once, instance_type first",
            )
    devices = [disk.device for disk in group.launch.disks]
    for index, device in enumerate(devices):
        if device in devices[:index]:
            yield fault(
                f"launch.disks[{index}].device", f"{device} stands twice", "give each disk its own device"
            )


def _names(group: Group) -> Iterator[tuple[str, str | None]]:
    """(key, text) of what EC2 is asked for by name."""
    launch = group.launch
    yield "launch.key_pair", launch.key_pair
    yield "launch.instance_profile", launch.instance_profile
    for key in ("name", "owner", "ssm_parameter"):
        yield f"launch.image.{key}", getattr(launch.image, key)
    for index, zone in enumerate(launch.zones):
        yield f"launch.zones[{index}]", zone


def _of_replacing(group: Group) -> Iterator[tuple[str, str, str]]:
    """(key, what, mend) of what terminates and replaces."""
    low, high = healthy_range(group)
    if high - low > 100:
        what = f"{high} is more than 100 above min_healthy_percentage {low}"
        yield "instance_maintenance_policy.max_healthy_percentage", what, f"write {low + 100} or less"
    lifetime = group.max_instance_lifetime_seconds
    if 0 < lifetime < 86_400:
        what = f"{lifetime} is less than a day"
        yield "max_instance_lifetime_seconds", what, "write 86400 or more, or 0 for no limit"
    if "Default" in group.termination_policies[:-1]:
        yield (
            "termination_policies",
            "has something behind Default",
            "write Default as the last, or not at all",
        )


def _of_metrics(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """(key, what, mend) of what a policy looks at."""
    if isinstance(policy, Predictive):
        if policy.max_capacity_buffer_percent and policy.max_capacity_breach_behavior == "honor_max_capacity":
            what = "is given, and max_size is honored"
            yield ".max_capacity_buffer_percent", what, "write increase_max_capacity, or leave it out"
        return
    if (policy.on_missing_data == "floor") != (policy.missing_data_floor is not None):
        what = "is missing" if policy.missing_data_floor is None else "is given, and on_missing_data is hold"
        yield ".missing_data_floor", what, "write it with `on_missing_data: floor`, or neither"
    if isinstance(policy, AlarmScaling):
        yield from _of_alarm(policy)
    if isinstance(policy, TargetTracking) and (policy.metric is None) == (policy.expression is None):
        what = "has neither metric nor expression" if policy.metric is None else "has metric and expression"
        yield "", what, "write exactly one of the two"
    elif isinstance(policy, TargetTracking) and policy.expression is not None:
        try:
            parse(policy.expression)
        except ExpressionError as error:
            yield ".expression", error.what, error.mend
        if policy.statistic != "average":
            yield ".statistic", "is of a metric, and there is an expression", "write it in the expression"
    elif policy.metric is not None and (wrong := metric_fault(policy.metric)):
        yield ".metric", *wrong
    yield from _of_lengths(policy)


def _of_lengths(policy: Policy) -> Iterator[tuple[str, str, str]]:
    try:
        metrics = metrics_of(policy)
    except ExpressionError:
        return
    longest = max((len(metric) - len(APPLICATION) for metric in metrics), default=0)
    if longest > NAME_LIMIT_CHARACTERS:
        key = ".expression" if isinstance(policy, TargetTracking) and policy.expression else ".metric"
        mend = f"agents send none of more than {NAME_LIMIT_CHARACTERS}: write a shorter one"
        yield key, f"names a metric of {longest} characters behind app.", mend


def _of_alarm(policy: AlarmScaling) -> Iterator[tuple[str, str, str]]:
    if policy.metric is None and policy.threshold is None and policy.webhook:
        return
    if policy.metric is None:
        yield ".metric", "is missing", "add it, or leave out threshold too and write `webhook: true`"
    elif policy.threshold is None:
        yield ".threshold", "is missing", "add it"


def _of_adjustments(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """(key, what, mend) of adjustments that no group is large enough for."""
    if isinstance(policy, StepScaling):
        found = [(f".steps[{index}].adjustment", step.adjustment) for index, step in enumerate(policy.steps)]
    elif isinstance(policy, SimpleScaling):
        found = [(".adjustment", policy.adjustment)]
    else:
        return
    limit, unit = ADJUSTMENT_LIMITS[policy.adjustment_type]
    for key, adjustment in found:
        if abs(adjustment) > limit:
            yield key, f"{shown(adjustment)} is too much", f"write {-limit} to {limit} {unit}"


def _unlike_steps(policy: StepScaling) -> Iterator[tuple[str, str]]:
    """(what, mend) of steps that don't follow one another, as EC2 asks."""
    ends = sorted(
        (-math.inf if step.lower is None else step.lower, math.inf if step.upper is None else step.upper)
        for step in policy.steps
    )
    for low, high in ends:
        if low >= high:
            yield f"lower {low:g} is not below upper {high:g}", "write the smaller bound as lower"
    for (_, high), (low, _) in itertools.pairwise(ends):
        if high != low:
            kind = "overlap" if high > low else "leave a gap"
            yield f"steps {kind} between {high:g} and {low:g}", "end each step where the next one begins"


def _of_action(action: ScheduledAction, index: int, group: Group) -> Iterator[tuple[str, str, str]]:
    """(key, what, mend) of a scheduled action."""
    if action.name in [other.name for other in group.scheduled_actions[:index]]:
        yield ".name", f"{action.name} stands twice", "give each action a name of its own"
    if not action.sizes():
        yield "", "sets nothing", "write min_size, max_size or desired_capacity"
    if action.duration_seconds is not None and action.min_size is None and action.max_size is None:
        yield (
            ".duration_seconds",
            "is given, and no bound that could end",
            "write min_size or max_size, or leave it out",
        )
    yield from _of_times(action)
    yield from _of_bounds(action, group)


def _of_times(action: ScheduledAction) -> Iterator[tuple[str, str, str]]:
    try:
        ZoneInfo(action.time_zone)
    except (KeyError, ValueError, OSError):
        near = near_name(action.time_zone, available_timezones()) or "an IANA name such as Europe/Berlin"
        yield ".time_zone", f"{shown(action.time_zone)} is no time zone", f"write {near}"
        return
    start, end = action.starts_at(), action.ends_at()
    far = [
        (key, at)
        for key, at in ((".start_time", action.start_time), (".end_time", action.end_time))
        if at is not None and not FIRST_YEAR <= at.year <= LAST_YEAR
    ]
    for key, at in far:
        mend = f"write a time of the years {FIRST_YEAR} to {LAST_YEAR}, or leave it out"
        yield key, f"{at.isoformat()} is out of range", mend
    if not far and start is not None and end is not None and end <= start:
        yield ".end_time", "is not after start_time", "write a later time, or leave it out"
    if action.recurrence is None:
        if start is None:
            yield "", "has no time", "write recurrence, start_time or both"
        elif end is not None:
            yield ".end_time", "is given, and no recurrence that could end", "see duration_seconds"
        return
    fault = cron_fault(action.recurrence)
    if fault:
        mend = "write minute, hour, day of month, month and day of week, as in 30 6 * * MON-FRI"
        yield ".recurrence", f"{shown(action.recurrence)} {fault}", mend


def _of_bounds(action: ScheduledAction, group: Group) -> Iterator[tuple[str, str, str]]:
    """Without a fault here, no order in which actions are due takes min_size above max_size."""
    low, high, desired = action.min_size, action.max_size, action.desired_capacity
    others = [(f"{other.name}'s", other) for other in group.scheduled_actions if other is not action]
    both: list[tuple[str, Group | ScheduledAction]] = [("the group's", group), *others]
    if low is not None and high is not None and high < low:
        yield ".max_size", f"{high} is below min_size {low}", f"raise it to {low} or more, or lower min_size"
        return
    if low is not None and high is None:
        for whose, other in both:
            if other.max_size is not None and other.max_size < low:
                what = f"{low} is above {whose} max_size {other.max_size}, which may hold then"
                yield ".min_size", what, "set max_size in this action too"
                break
    if high is not None and low is None:
        for whose, other in both:
            if other.min_size is not None and other.min_size > high:
                what = f"{high} is below {whose} min_size {other.min_size}, which may hold then"
                yield ".max_size", what, "set min_size in this action too"
                break
    if desired is not None:
        least = group.min_size if low is None else low
        most = group.max_size if high is None else high
        if not least <= desired <= most:
            what = f"{desired} is outside of {least} to {most}"
            yield ".desired_capacity", what, "set min_size and max_size around it in this action"
