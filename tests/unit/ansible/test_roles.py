"""What the roles promise in their argument specs is what their defaults, and the programs' own settings, say."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from controller_asg.config import Settings
from monitor_agent.settings import SETTINGS

ROLES = Path(__file__).resolve().parents[3] / "roles"
NAMES = ("controller", "monitor_agent")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def options_of(role: str) -> dict[str, dict[str, Any]]:
    specs = load(ROLES / role / "meta/argument_specs.yml")["argument_specs"]
    return {name: option for spec in specs.values() for name, option in spec["options"].items()}


@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_described_and_every_description_has_its_default(role: str) -> None:
    described = {name: option for name, option in options_of(role).items() if not option.get("required")}
    defaults = load(ROLES / role / "defaults/main.yml")
    assert {name: option["default"] for name, option in described.items()} == defaults


@pytest.mark.parametrize("role", NAMES)
def test_every_option_has_a_type_and_a_description(role: str) -> None:
    for name, option in options_of(role).items():
        assert option["type"], name
        assert option["description"], name
        if option["type"] == "list":
            assert option["elements"], name


@pytest.mark.parametrize("role", NAMES)
def test_variables_begin_with_the_roles_name(role: str) -> None:
    assert all(name.startswith(f"{role}_") for name in options_of(role))


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ({}, ""),
        ({"key": "role", "value": "controller", "port": 7402}, ""),
        ({"key": "role", "value": "controller"}, "parameters are required together: key, value, port"),
        ({"key": "role", "value": "controller", "port": "often"}, "unable to convert to int"),
    ],
)
def test_a_controller_tag_that_lacks_something_is_refused_by_name(tag: dict[str, object], says: str) -> None:
    spec = load(ROLES / "monitor_agent/meta/argument_specs.yml")["argument_specs"]["configure"]["options"]
    errors = ArgumentSpecValidator(spec).validate({"monitor_agent_controller_tag": tag}).error_messages
    assert [says in error and "controller_tag" in error for error in errors] == ([True] if says else [])


def test_what_is_written_for_new_instances_takes_the_options_that_configure_takes() -> None:
    specs = load(ROLES / "monitor_agent/meta/argument_specs.yml")["argument_specs"]
    assert specs["configure"]["options"].items() <= specs["user_data"]["options"].items()


def test_the_controllers_defaults_are_the_daemons_own() -> None:
    own = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    differing = {}
    for variable, value in load(ROLES / "controller/defaults/main.yml").items():
        setting = variable if variable in own else variable.removeprefix("controller_")
        if setting in own and own[setting] != value:
            differing[variable] = (value, own[setting])
    assert differing == {}


def test_the_agents_template_writes_only_settings_that_the_agent_knows() -> None:
    lines = (ROLES / "monitor_agent/templates/agent.toml.j2").read_text().splitlines()
    written = {line.split(" = ")[0] for line in lines if " = " in line and not line.startswith(("#", "{"))}
    assert written
    assert written <= set(SETTINGS)


def test_the_controllers_template_writes_only_settings_that_the_daemon_knows() -> None:
    lines = (ROLES / "controller/templates/controller.toml.j2").read_text().splitlines()
    written = {line.split(" = ")[0] for line in lines if " = " in line and not line.startswith("#")}
    assert written
    assert written <= {field.name for field in fields(Settings)}
