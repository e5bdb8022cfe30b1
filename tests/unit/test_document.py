"""A group's document: every fault once, at its own place, and none that nobody wrote."""

from typing import Any

import pytest

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError

IMAGE = {"image": {"id": "ami-0123456789abcdef0"}}
WRONG_POLICY = {"type": "thresholds", "create_above": "x"}
MORNING = {"name": "morning", "recurrence": "0 8 * * *"}
PREFIX = "asg_groups.web."


def told(**document: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": {"launch": IMAGE, **document}})
    lines = [str(fault) for fault in caught.value.faults]
    assert all(line.startswith("asg_groups.web") for line in lines)
    return [line.removeprefix(PREFIX) for line in lines]


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"launch": {**IMAGE, "tags": {"a": "\ud800"}}}, "launch.tags.a"),
        ({"launch": {**IMAGE, "tags": {"\udfff": "a"}}}, "launch.tags.?"),
        ({"launch": {**IMAGE, "user_data": "#!/bin/sh\necho \ud800"}}, "launch.user_data"),
        (
            {"lifecycle_hooks": [{"name": "a", "transition": "launch", "notification_metadata": "\ud800"}]},
            "lifecycle_hooks[0].notification_metadata",
        ),
    ],
)
def test_half_a_character_is_told_at_its_place_and_never_repeated(document, where):
    assert told(**document) == [f"{where}: holds half of a character; write whole characters"]


def test_half_a_character_hides_no_other_fault():
    half, *others = told(max_sise=3, launch={**IMAGE, "tags": {"a": "\ud800"}})
    assert half.startswith("launch.tags.a: ")
    assert others == ["max_sise: is no known key; write max_size"]


def test_what_is_nested_beyond_reading_is_told():
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert told(termination_policies=deep) == ["asg_groups.web: is nested too deeply; write it flatter"]


def test_an_entry_keeps_its_number_where_one_before_it_is_wrong():
    second = {"type": "thresholds", "name": "b", "create_above": 10, "delete_below": 20}
    assert [line.partition(":")[0] for line in told(policies=[WRONG_POLICY, second])] == [
        "policies[0].create_above",
        "policies[1].delete_below",
    ]
    actions = [{**MORNING, "min_size": "x"}, {**MORNING, "name": "evening"}]
    assert [line.partition(":")[0] for line in told(scheduled_actions=actions)] == [
        "scheduled_actions[0].min_size",
        "scheduled_actions[1]",
    ]
    hooks = [{"name": each, "transition": "launch"} for each in ("a b", "warm", "warm")]
    assert [line.partition(":")[0] for line in told(lifecycle_hooks=hooks)] == [
        "lifecycle_hooks[0].name",
        "lifecycle_hooks[2].name",
    ]


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ({"min_size": 7, "max_size": "ten"}, "max_size"),
        ({"min_size": 7, "max_sise": 10}, "max_sise"),
        ({"min_size": "none", "max_size": 1}, "min_size"),
        ({"min_size": "none", "max_size": 1, "initial_capacity": 1}, "min_size"),
        ({"max_size": "ten", "scheduled_actions": [{**MORNING, "min_size": 7}]}, "max_size"),
        ({"min_size": "none", "scheduled_actions": [{**MORNING, "desired_capacity": 1}]}, "min_size"),
    ],
)
def test_a_default_in_place_of_what_is_wrong_contradicts_nothing(document, wrong):
    assert [line.partition(":")[0] for line in told(**document)] == [wrong]


def test_what_is_right_by_itself_still_contradicts_beside_another_fault():
    assert [line.partition(":")[0] for line in told(min_size=7, max_size=6, drain="maybe")] == [
        "drain",
        "max_size",
    ]
