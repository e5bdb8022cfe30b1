"""pydantic's errors in an operator's words: the key, what is wrong, and the mend."""

import json
import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from controller_asg.model.faults import faults_of
from controller_asg.model.group import Group

IMAGE = {"image": {"id": "ami-0123456789abcdef0"}}
TRACKING = {"type": "target_tracking", "metric": "app.queue", "target": 5}


def told(**document: Any) -> list[str]:
    document = {"name": "web", "launch": IMAGE, **document}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Group).validate_json(json.dumps(document))
    prefix = "groups.web."
    lines = [str(fault) for fault in faults_of(caught.value, "groups.web", Group)]
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"min_size": "9o"}, "min_size: '9o' is not a whole number; write 90"),
        ({"min_size": "3"}, "min_size: '3' is not a whole number; write 3"),
        ({"min_size": 2.5}, "min_size: 2.5 is not a whole number; write 2 or 3"),
        ({"min_size": math.inf}, "min_size: inf is not a whole number; write a whole number"),
        ({"min_size": -math.inf}, "min_size: -inf is not a whole number; write a whole number"),
        ({"min_size": math.nan}, "min_size: nan is not a whole number; write a whole number"),
        ({"min_size": 1e300}, "min_size: 1e+300 is not a whole number; write a whole number"),
        (
            {"min_size": "9" * 400},
            f"min_size: '{'9' * 58}… is not a whole number; write a whole number",
        ),
        ({"min_size": -1}, "min_size: -1 is below 0; write 0 or more"),
        ({"min_size": True}, "min_size: true is not a whole number; write a whole number"),
        ({"min_size": None}, "min_size: has no value; write one, or leave the key out"),
        ({"max_sise": 3}, "max_sise: is no known key; write max_size"),
        ({"Max-Size": 3}, "Max-Size: is no known key; write max_size"),
        (
            {"registration_timeout_seconds": "5m"},
            "registration_timeout_seconds: '5m' is not a number; write 300",
        ),
        (
            {"min_healthy_percentage": "90%"},
            "min_healthy_percentage: '90%' is not a whole number; write 90",
        ),
        (
            {"min_healthy_percentage": 0.9},
            "min_healthy_percentage: 0.9 is not a whole number; write 90: the key counts in percent",
        ),
        (
            {"launch": {**IMAGE, "metadata_tokens": "maybe"}},
            "launch.metadata_tokens: 'maybe' is not known; write required or optional",
        ),
        (
            {"lifecycle_hooks": [{"name": "a b", "transition": "launch"}]},
            "lifecycle_hooks[0].name: 'a b' is not well formed; write letters, digits, -, _ and /, 255 at the most",
        ),
        (
            {"lifecycle_hooks": [{"name": "a", "transition": "launch", "command": "./x"}]},
            "lifecycle_hooks[0].command: './x' is not well formed; name a file of the agent's hooks directory: "
            "begin with a letter or digit; then letters, digits, ., _ and -, 64 in all at the most",
        ),
        (
            {"lifecycle_hooks": [{"name": "a", "transition": "launch", "notification_metadata": "x" * 4001}]},
            "lifecycle_hooks[0].notification_metadata: has 4001 characters; write 4000 at the most",
        ),
        ({"bootstrap": "rolle"}, "bootstrap: 'rolle' is not known; write role"),
        (
            {"new_instances_protected_from_scale_in": "yes"},
            "new_instances_protected_from_scale_in: 'yes' is neither true nor false; write true",
        ),
        ({"launch": {**IMAGE, "key_pair": 7}}, 'launch.key_pair: 7 is not text; write it in quotes: "7"'),
        (
            {"launch": {**IMAGE, "subnets": ["sn-1"]}},
            "launch.subnets[0]: 'sn-1' is not such an id; write one like subnet-0123456789abcdef0",
        ),
        (
            {"launch": {**IMAGE, "disks": [{"device": "/dev/xvda", "size_gib": "8GB"}]}},
            "launch.disks[0].size_gib: '8GB' is not a whole number; write 8",
        ),
        ({"launch": {**IMAGE, "tags": {"cost": 3}}}, 'launch.tags[cost]: 3 is not text; write it in quotes: "3"'),
        ({"policies": [{"type": "treshold"}]}, "policies[0].type: 'treshold' is not known; write thresholds"),
        (
            {"policies": [{"metric": "x"}]},
            "policies[0].type: is missing; "
            "write thresholds, target_tracking, step, simple, demand_tracking or predictive",
        ),
        (
            {"policies": [{"type": "thresholds"}, {**TRACKING, "scale_in_tolerance_ratio": "10%"}]},
            "policies[1].scale_in_tolerance_ratio: '10%' is not a number; write 0.1",
        ),
        (
            {"policies": "thresholds"},
            "policies: 'thresholds' is not a list; write a list, each entry on a line of its own after `- `",
        ),
    ],
)  # fmt: skip
def test_a_fault_names_its_key_and_the_mend(document, line):
    assert told(**document) == [line]


def test_a_misspelt_key_is_told_once_and_not_as_missing_too():
    policy = {"type": "target_tracking", "metrik": "app.queue", "target": 5}
    assert told(policies=[policy]) == ["policies[0].metrik: is no known key; write metric"]


def test_desired_capacity_is_said_to_belong_to_the_controller():
    (line,) = told(desired_capacity=3)
    assert "it belongs to the controller" in line


def test_user_data_is_never_repeated():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Group).validate_json(
            json.dumps({"name": "web", "launch": {**IMAGE, "user_data": ["hunter2"]}})
        )
    assert "hunter2" not in str(faults_of(caught.value, "groups.web", Group))


def test_a_document_without_anything_says_what_is_missing():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Group).validate_json("{}")
    assert [fault.where for fault in faults_of(caught.value, "", Group)] == ["name", "launch"]
