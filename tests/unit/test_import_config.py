"""The first design's config.json as group_vars."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller_asg.import_config import Imported, import_config
from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.scaling_policy import Thresholds

WHOLE: dict[str, Any] = {
    "policy_config": {"max_instances": 7, "min_instances": 1, "delete_policy": 15, "create_policy": 75},
    "auth_config": {"aws_access_key_id": "hunter1", "aws_secret_access_key": "hunter2"},
    "instance_config": {
        "ami_id": "ami-0123456789abcdef0",
        "security_group_ids": ["sg-0123456789abcdef0", "sg-0123456789abcdef1"],
        "instance_type": "t3.small",
        "key_pair_name": "ops key",
    },
    "orchestrator_config": {"ip_address": "10.0.0.5"},
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def imported(old: Path, document: Any) -> Imported:
    old.write_text(document if isinstance(document, str) else json.dumps(document))
    return import_config(old, "main")


def faults(old: Path, document: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        imported(old, document)
    return [str(fault).removeprefix(f"{old}: ") for fault in caught.value.faults]


def with_policy(**keys: Any) -> dict[str, Any]:
    return {**WHOLE, "policy_config": {**WHOLE["policy_config"], **keys}}


def policy_of(result: Imported) -> Thresholds:
    (group,) = parse_groups(yaml.safe_load(result.text)["asg_groups"])
    (policy,) = group.policies
    assert isinstance(policy, Thresholds)
    return policy


def test_every_section_has_its_place_and_the_document_is_valid(old):
    variables = yaml.safe_load(imported(old, WHOLE).text)
    assert variables["controller_advertised_address"] == "10.0.0.5:7402"
    (group,) = parse_groups(variables["asg_groups"])
    assert (group.name, group.min_size, group.max_size) == ("main", 1, 7)
    assert group.launch.image.id == "ami-0123456789abcdef0"
    assert (group.launch.instance_type, group.launch.key_pair) == ("t3.small", "ops key")
    assert group.launch.security_groups == ("sg-0123456789abcdef0", "sg-0123456789abcdef1")
    assert (group.policies[0].create_above, group.policies[0].delete_below) == (75, 15)


def test_the_keys_of_auth_config_are_neither_carried_nor_shown(old):
    result = imported(old, WHOLE)
    everything = result.text + "".join(result.notes)
    assert "hunter" not in everything
    assert "aws_secret" not in everything
    assert "auth_config was left out" in everything


def test_what_the_old_file_left_out_becomes_the_default_and_is_said(old):
    result = imported(old, {"instance_config": {"ami_id": "ami-0123456789abcdef0"}})
    (group,) = parse_groups(yaml.safe_load(result.text)["asg_groups"])
    assert (group.min_size, group.max_size, group.launch.instance_type) == (2, 5, "t2.micro")
    assert policy_of(result) == Thresholds()
    assert "policy_config.max_instances is missing: max_size became 5, the default" in result.notes


@pytest.mark.parametrize(
    "old_policy",
    [
        90,
        90.0,
        "90",
        "90%",
        "> 90 %",
        {"threshold": 90},
        {"metric": "cpu", "threshold": 90},
        {"load": "90%"},
        {"anything": 90},
    ],
)
def test_a_policy_may_be_a_number_or_an_object_that_holds_one(old, old_policy):
    assert policy_of(imported(old, with_policy(create_policy=old_policy))).create_above == 90


def test_what_was_assumed_of_a_policy_is_said(old):
    policy = {"threshold": 90, "metric": "requests", "period": 60}
    notes = imported(old, with_policy(create_policy=policy)).notes
    assert any("create_policy.threshold was taken for its threshold" in note for note in notes)
    assert any("create_policy.metric was left out" in note for note in notes)
    assert any("create_policy.period was left out" in note for note in notes)


@pytest.mark.parametrize(
    "old_policy", ["high", None, True, [], {}, {"a": 1, "b": 2}, {"threshold": 1, "value": 2}, -1, 101]
)
def test_a_policy_without_one_threshold_is_a_fault(old, old_policy):
    (fault,) = faults(old, with_policy(create_policy=old_policy))
    assert fault.startswith("policy_config.create_policy: ")


def test_all_faults_are_told_at_once_in_the_old_files_words(old):
    document = {
        "policy_config": {"max_instances": 2, "min_instances": 3, "delete_policy": 80, "create_policy": 70},
        "instance_config": {"ami_id": "ami-x", "instance_typ": "t3.small", "security_group_ids": ["web"]},
    }
    told = faults(old, document)
    assert [line.partition(": ")[0] for line in told] == [
        "instance_config.instance_typ",
        "policy_config.max_instances",
        "policy_config.delete_policy",
        "instance_config.ami_id",
        "instance_config.security_group_ids[0]",
    ]
    assert told[0].endswith("is no known key; write instance_type")
    assert told[1].endswith("2 is below min_instances 3; raise it to 3 or more, or lower min_instances")


def test_unknown_sections_and_keys_are_listed_and_not_shown(old):
    document = {**WHOLE, "zzz": {"password": "hunter2"}, "orchestrator_config": {"zzz": "hunter3"}}
    result = imported(old, document)
    assert "zzz was left out: nothing here is called so" in result.notes
    assert "orchestrator_config.zzz was left out: nothing here is called so" in result.notes
    assert "hunter" not in result.text + "".join(result.notes)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "[" * 100_000, '{"policy_config": 3}'])
def test_what_is_no_old_configuration_is_refused(old, text):
    assert faults(old, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        import_config(tmp_path / "none.json", "main")


def test_an_ami_is_needed(old):
    told = faults(old, {"policy_config": {}})
    assert told == ["instance_config.ami_id: is missing; write the id of the AMI, like ami-0123456789abcdef0"]


@pytest.mark.parametrize(
    ("address", "carried"),
    [
        ("controller.example", "controller.example:7402"),
        ("10.0.0.5:9000", "10.0.0.5:7402"),
        ("fd00::5", "[fd00::5]:7402"),
    ],
)
def test_the_orchestrators_address_becomes_the_controllers(old, address, carried):
    result = imported(old, {**WHOLE, "orchestrator_config": {"ip_address": address}})
    assert yaml.safe_load(result.text)["controller_advertised_address"] == carried


@pytest.mark.parametrize("key", ["no", "true", "3", "a: b", "#x", "ü", "- a"])
def test_a_name_that_yaml_would_read_otherwise_stays_what_it_is(old, key):
    document = {**WHOLE, "instance_config": {**WHOLE["instance_config"], "key_pair_name": key}}
    (group,) = parse_groups(yaml.safe_load(imported(old, document).text)["asg_groups"])
    assert group.launch.key_pair == key
