"""The first design's config.json as group_vars: `asg_groups` in YAML, with a comment where something was assumed.

The keys of auth_config are never carried, shown or logged. The values are checked by the same rules as any group's
document; only the places are told in the old file's words.
"""

import dataclasses
import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.faults import near_name, shown
from controller_asg.model.group import Group, LaunchParameters
from controller_asg.model.scaling_policy import Thresholds

AGENTS_PORT = 7402  # of Settings.agents_listen

# Where each key of the old file goes; and how the new places are called in messages about the old file.
_NEW_PLACES = {
    "policy_config.min_instances": "min_size",
    "policy_config.max_instances": "max_size",
    "policy_config.create_policy": "policies[0].create_above",
    "policy_config.delete_policy": "policies[0].delete_below",
    "instance_config.ami_id": "launch.image.id",
    "instance_config.instance_type": "launch.instance_type",
    "instance_config.security_group_ids": "launch.security_groups",
    "instance_config.key_pair_name": "launch.key_pair",
}
_SECTIONS: dict[str, tuple[str, ...]] = {
    "policy_config": ("min_instances", "max_instances", "create_policy", "delete_policy"),
    "auth_config": (),
    "instance_config": ("ami_id", "instance_type", "security_group_ids", "key_pair_name"),
    "orchestrator_config": ("ip_address",),
}
_THRESHOLD_KEYS = ("threshold", "value", "cpu_percent", "cpu", "load", "percent", "above", "below", "limit")
_LOAD_WORDS = ("cpu", "cpu_percent", "cpu_load", "cpu_usage", "cpuutilization", "load")


@dataclass(frozen=True, slots=True)
class Imported:
    """`text` is the YAML; `notes` are what a person should read: what was assumed, and what was left out."""

    text: str
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Reading:
    """What is gathered while the old file is read."""

    document: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    address: str = ""


def import_config(path: Path, group: str) -> Imported:
    """Raises SpecError with everything that is wrong with the old file."""
    old = _load(path)
    reading = _Reading()
    sections = _sections(old, reading)
    _read_policy(sections.get("policy_config", {}), reading)
    _read_instance(sections.get("instance_config", {}), reading)
    _read_orchestrator(sections.get("orchestrator_config", {}), reading)
    reading.faults.extend(_rule_faults(reading, group))
    if "auth_config" in old:
        reading.notes.append(
            "auth_config was left out, with every key in it: keys never stand in a file of the project. Give the "
            "controller an instance profile, or credentials by the environment or a vault; and if the old file was "
            "ever shared, make new keys"
        )
    if reading.faults:
        raise SpecError(
            tuple(Fault(f"{path}: {fault.where}", fault.what, fault.mend) for fault in reading.faults)
        )
    return Imported(_yaml(reading, group), tuple(reading.notes))


def _load(path: Path) -> dict[str, Any]:
    try:
        old = json.loads(path.read_bytes())
    except OSError as error:
        what = f"can't be read: {error.strerror}"
        raise SpecError((Fault(str(path), what, "name the old config.json"),)) from error
    except json.JSONDecodeError as error:
        where = f"{path}: line {error.lineno}, column {error.colno}"
        raise SpecError((Fault(where, f"is not JSON: {error.msg}", "mend that place"),)) from error
    except (ValueError, RecursionError) as error:
        raise SpecError((Fault(str(path), "is not JSON", "name the old config.json"),)) from error
    if not isinstance(old, dict):
        raise SpecError((Fault(str(path), "is not a JSON object", "name the old config.json"),))
    return old


def _sections(old: Mapping[str, Any], reading: _Reading) -> dict[str, Mapping[str, Any]]:
    """The sections that are there, with unknown names told: near ones as faults, others as left out."""
    _tell_unknown("", old, tuple(_SECTIONS), reading)
    found: dict[str, Mapping[str, Any]] = {}
    for name, keys in _SECTIONS.items():
        section = old.get(name, {})
        if name == "auth_config":
            continue
        if not isinstance(section, dict):
            reading.faults.append(Fault(name, "is not a JSON object", "write its keys in braces"))
            continue
        _tell_unknown(f"{name}.", section, keys, reading)
        found[name] = section
    return found


def _tell_unknown(prefix: str, given: Mapping[str, Any], known: tuple[str, ...], reading: _Reading) -> None:
    for key in given:
        if key in known:
            continue
        near = near_name(key, [name for name in known if name not in given])
        if near:
            # Left out, it would silently become a default.
            reading.faults.append(Fault(prefix + key, "is no known key", f"write {near}"))
        else:
            reading.notes.append(f"{prefix}{key} was left out: nothing here is called so")


def _read_policy(section: Mapping[str, Any], reading: _Reading) -> None:
    for key, new, default in (
        ("min_instances", "min_size", _default(Group, "min_size")),
        ("max_instances", "max_size", _default(Group, "max_size")),
    ):
        if key in section:
            reading.document[new] = section[key]
        else:
            reading.document[new] = default
            reading.notes.append(f"policy_config.{key} is missing: {new} became {default}, the default")
    policy: dict[str, Any] = {"type": "thresholds"}
    for key, new, first in (
        ("create_policy", "create_above", _default(Thresholds, "create_above")),
        ("delete_policy", "delete_below", _default(Thresholds, "delete_below")),
    ):
        threshold = _threshold(key, section[key], reading) if key in section else None
        if key not in section:
            reading.notes.append(f"policy_config.{key} is missing: {new} became {first:g}, the default")
        policy[new] = first if threshold is None else threshold
    reading.document["policies"] = [policy]


def _threshold(key: str, value: Any, reading: _Reading) -> float | None:
    """The number that an old policy compares the load with; None, and a fault, where none is found."""
    where = f"policy_config.{key}"
    if isinstance(value, dict):
        return _threshold_of_object(key, value, reading)
    number = value
    if isinstance(value, str) and (
        found := re.fullmatch(r"\s*[<>]?=?\s*([0-9]+(?:\.[0-9]+)?)\s*%?\s*", value)
    ):
        number = float(found[1])
        reading.notes.append(f"{where} {value!r} was read as {number:g} percent of CPU")
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        reading.faults.append(Fault(where, f"{shown(value)} is no threshold", "write a number from 0 to 100"))
        return None
    if not 0 <= number <= 100:
        reading.faults.append(Fault(where, f"{number:g} is outside of 0 to 100", "write a load in percent"))
        return None
    if 0 < number < 1:
        reading.notes.append(f"{where} {number:g} was taken for percent, not for a share of 1")
    return float(number)


def _threshold_of_object(key: str, value: Mapping[str, Any], reading: _Reading) -> float | None:
    where = f"policy_config.{key}"
    names = [name for name in _THRESHOLD_KEYS if name in value]
    if not names:
        numbers = [n for n, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)]
        names = numbers if len(numbers) == 1 else []
    if len(names) != 1:
        what = "has no threshold" if not names else f"has more than one: {', '.join(names)}"
        reading.faults.append(Fault(where, what, 'write one, like {"threshold": 80}'))
        return None
    reading.notes.append(f"{where}.{names[0]} was taken for its threshold, in percent of CPU")
    metric = value.get("metric")
    if metric is not None and str(metric).lower() not in _LOAD_WORDS:
        reading.notes.append(
            f"{where}.metric was left out: the policy watches cpu_percent; write its `metric` to change that"
        )
    for other in value:
        if other not in (names[0], "metric"):
            reading.notes.append(
                f"{where}.{other} was left out: look at window_seconds and the cooldowns of the policy"
            )
    return _threshold(key, value[names[0]], reading)


def _read_instance(section: Mapping[str, Any], reading: _Reading) -> None:
    launch: dict[str, Any] = {}
    first = _default(LaunchParameters, "instance_type")
    if section.get("ami_id") in (None, ""):
        fault = Fault(
            "instance_config.ami_id", "is missing", "write the id of the AMI, like ami-0123456789abcdef0"
        )
        reading.faults.append(fault)
    else:
        launch["image"] = {"id": section["ami_id"]}
    if "instance_type" in section:
        launch["instance_type"] = section["instance_type"]
    else:
        launch["instance_type"] = first
        reading.notes.append(f"instance_config.instance_type is missing: it became {first}, the default")
    groups = section.get("security_group_ids", [])
    if isinstance(groups, str):
        groups = [each.strip() for each in groups.split(",") if each.strip()]
        reading.notes.append("instance_config.security_group_ids was text and became a list")
    launch["security_groups"] = groups
    if section.get("key_pair_name") not in (None, ""):
        launch["key_pair"] = section["key_pair_name"]
    reading.document["launch"] = launch


def _read_orchestrator(section: Mapping[str, Any], reading: _Reading) -> None:
    address = section.get("ip_address")
    if address in (None, ""):
        return
    where = "orchestrator_config.ip_address"
    if not isinstance(address, str) or not re.fullmatch(r"[0-9A-Za-z.:-]+", address):
        reading.faults.append(
            Fault(where, f"{shown(address)} is no address", "write an IP address or a name")
        )
        return
    port = ""
    if address.count(":") == 1:
        address, _, port = address.partition(":")
        reading.notes.append(f"the port {port} of {where} was left out: agents use {AGENTS_PORT}")
    host = f"[{address}]" if ":" in address else address
    reading.address = f"{host}:{AGENTS_PORT}"
    reading.notes.append(
        f"controller_advertised_address became {reading.address}: change it if the controller gets another machine"
    )


def _rule_faults(reading: _Reading, group: str) -> list[Fault]:
    """What the rules of a group's document say of it, told in the old file's words.

    They are asked twice, with stand-ins for one part each time: a wrong type in one part keeps the rules that look
    at several keys from being asked, and every fault is to be in one report.
    """
    document, launch = reading.document, reading.document["launch"]
    stand_in = {"image": {"id": "ami-00000000"}}
    faults = []
    for asked in ({**document, "launch": stand_in}, {"launch": {**stand_in, **launch}}):
        try:
            parse_groups({group: asked})
        except SpecError as error:
            faults += [_in_old_words(fault, f"asg_groups.{group}.") for fault in error.faults]
    return list(dict.fromkeys(faults))


def _default(kind: type[Any], name: str) -> Any:
    """The default of a model's field: it stands there and nowhere else."""
    return next(field.default for field in dataclasses.fields(kind) if field.name == name)


def _in_old_words(fault: Fault, prefix: str) -> Fault:
    where, what, mend = fault.where.removeprefix(prefix), fault.what, fault.mend
    if where == "name":
        return Fault("--group", what, mend)
    for old, new in _NEW_PLACES.items():
        if where == new or where.startswith(f"{new}["):
            where = old + where[len(new) :]
        name, old_name = new.rpartition(".")[2], old.rpartition(".")[2]
        if name != "id":
            what, mend = what.replace(name, old_name), mend.replace(name, old_name)
    return Fault(where, what, mend)


def _yaml(reading: _Reading, group: str) -> str:
    document, launch = reading.document, reading.document["launch"]
    policy = document["policies"][0]
    lines = ["---", "# Made from the first design's config.json by `controller-asg import-config`."]
    for note in reading.notes:
        lines += textwrap.wrap(f"{note}.", 100, initial_indent="# - ", subsequent_indent="#   ")
    if "auth_config" not in " ".join(reading.notes):
        lines.append("# - The controller's credentials: an instance profile, the environment, or a vault.")
    lines += [""]
    if reading.address:
        lines += [
            "# What new instances are told: the controller's host:port as they reach it.",
            f"controller_advertised_address: {_scalar(reading.address)}",
            "",
        ]
    lines += [
        "asg_groups:",
        f"  {_scalar(group)}:",
        "    # Never fewer instances than min_size, never more than max_size.",
        f"    min_size: {_scalar(document['min_size'])}",
        f"    max_size: {_scalar(document['max_size'])}",
        "    policies:",
        "      # An instance above create_above % of CPU adds one; one below delete_below % goes itself.",
        "      - type: thresholds",
        f"        create_above: {_scalar(policy['create_above'])}",
        f"        delete_below: {_scalar(policy['delete_below'])}",
        "    launch:",
        "      # It must hold the agent: build it (playbooks/build_ami.yml); for a stock AMI write `bootstrap: role`.",
        "      image:",
        f"        id: {_scalar(launch['image']['id'])}",
        f"      instance_type: {_scalar(launch['instance_type'])}",
    ]
    if launch["security_groups"]:
        lines += [
            "      security_groups:",
            *(f"        - {_scalar(each)}" for each in launch["security_groups"]),
        ]
    if "key_pair" in launch:
        lines.append(f"      key_pair: {_scalar(launch['key_pair'])}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A value as YAML; JSON's own spelling where a plain word could be read as something else."""
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value)
    if plain and value.lower() not in ("yes", "no", "on", "off", "true", "false", "null", "y", "n"):
        return str(value)
    return json.dumps(value)
