"""The files an operator edits: where a variable may stand, and that the groups as shipped are right."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller_asg.model.document import parse_groups

PROJECT = Path(__file__).resolve().parents[3]


def variables(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted((folder / "group_vars/all").glob("*.yml")):
        found |= yaml.safe_load(file.read_text())
    return found


@pytest.mark.parametrize("name", ["lab", "aws"])
def test_no_variable_stands_in_an_inventory_and_beside_the_playbooks(name: str) -> None:
    # Ansible would take the one beside the playbooks without a word.
    assert variables(PROJECT / "inventories" / name).keys() & variables(PROJECT).keys() == set()


def test_both_inventories_define_the_same_variables() -> None:
    lab, aws = (variables(PROJECT / "inventories" / name).keys() for name in ("lab", "aws"))
    assert {*lab} - {"ansible_ssh_common_args"} == {*aws}


def test_only_the_lab_leaves_host_keys_unchecked() -> None:
    assert "StrictHostKeyChecking" not in (PROJECT / "ansible.cfg").read_text()
    assert "ansible_ssh_common_args" not in variables(PROJECT / "inventories/aws")


def test_the_groups_as_shipped_are_right() -> None:
    groups = variables(PROJECT)["asg_groups"]
    for group in groups.values():
        group["launch"].setdefault("image", {"name": "controller-asg-agent"})
    (web,) = parse_groups(groups, "group_vars/all/groups.yml")
    assert (web.min_size, web.max_size) == (2, 5)
    assert (web.policies[0].create_above, web.policies[0].delete_below) == (80, 10)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["controller", "operator"])
def test_the_policies_allow_no_change_of_everything_by_any_action(name: str) -> None:
    document = json.loads((PROJECT / f"inventories/aws/{name}-iam-policy.json").read_text())
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert "*" not in actions
        assert all(":" in action for action in actions)
        for action in actions:
            verb = action.split(":")[1]
            assert not verb.startswith("*")
            if verb.startswith(("Terminate", "Deregister")):
                assert "Condition" in statement, action


def test_the_playbooks_say_what_they_do_need_and_undo() -> None:
    for file in [PROJECT / "site.yml", *(PROJECT / "playbooks").glob("*.yml")]:
        lines = file.read_text().splitlines()
        assert [line.split(":")[0] for line in lines[1:4]] == ["# What", "# Needs", "# Undo"], file.name
