"""What the roles promise in their argument specs is what their defaults, and the programs' own settings, say."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

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
