"""A group's document: every fault once, at its own place, and none that nobody wrote."""

from typing import Any

import pytest

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.group import group_from_dict

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


def names(count: int) -> list[dict[str, Any]]:
    return [{"type": "thresholds", "name": f"p{number}"} for number in range(count)]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (
            {"policies": [{"type": "step", "name": "a/b", "webhook": True, "steps": [{"adjustment": 1}]}]},
            "policies[0].name: 'a/b' is not well formed; begin with a letter",
        ),
        (
            {"policies": [{"type": "thresholds", "name": "spikes\n"}]},
            "policies[0].name: 'spikes\\n' is not well formed",
        ),
        ({"policies": names(51)}, "policies: 51 entries; write 50 at the most"),
        (
            {"policies": [{"type": "thresholds", "metric": "app." + "x" * 201}]},
            "policies[0].metric: names a metric of 201 characters behind app.; agents send none of more than 200",
        ),
        (
            {
                "policies": [
                    {
                        "type": "target_tracking",
                        "target": 1,
                        "expression": f"sum(app.{'x' * 201}) / in_service",
                    }
                ]
            },
            "policies[0].expression: names a metric of 201 characters",
        ),
        ({"launch": {**IMAGE, "key_pair": ""}}, "launch.key_pair: is empty; write one, or leave the key out"),
        ({"launch": {**IMAGE, "instance_profile": ""}}, "launch.instance_profile: is empty"),
        ({"launch": {**IMAGE, "zones": ["us-east-1a", ""]}}, "launch.zones[1]: is empty"),
        ({"launch": {**IMAGE, "security_groups": [""]}}, "launch.security_groups[0]: '' is not such an id"),
        ({"launch": {"image": {"ssm_parameter": ""}}}, "launch.image.ssm_parameter: is empty"),
        (
            {"lifecycle_hooks": [{"name": "a", "transition": "launch", "notification_metadata": "a\0"}]},
            "lifecycle_hooks[0].notification_metadata: holds the control character U+0000; write plain text",
        ),
    ],
)
def test_what_could_never_work_is_refused(document, line):
    (fault,) = told(**document)
    assert fault.startswith(line)


def test_what_lies_just_within_the_limits_is_taken():
    longest = {"type": "thresholds", "name": "a" * 63, "metric": "app." + "x" * 200}
    hook = {"name": "a", "transition": "launch", "notification_metadata": '{"a": "Zoë"}\n\tb'}
    document = {"launch": IMAGE, "policies": [*names(49), longest], "lifecycle_hooks": [hook]}
    (group,) = parse_groups({"web": document})
    assert len(group.policies) == 50


def test_a_store_with_what_an_earlier_release_took_can_still_be_read():
    policy = {"type": "thresholds", "name": "a/b", "metric": "app." + "x" * 201}
    stored = {"name": "web", "launch": {**IMAGE, "key_pair": ""}, "policies": [policy] * 51}
    assert len(group_from_dict(stored).policies) == 51
