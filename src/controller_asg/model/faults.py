"""From pydantic's errors to faults an operator can act on: dotted keys, plain English, the near name, the mend.

pydantic names a place by a tuple in which a union's tag stands like a key; `_walk` follows the types to tell them
apart. A value is repeated to the operator, but never one of a key that may hold a secret.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from controller_asg.model.errors import Fault

SECRET_KEYS = frozenset({"user_data", "token", "password", "secret", "store_url"})  # whole keys of a place
SHOWN_CHARACTERS = 60  # of a value; more is cut
NEAR_RATIO = 0.6  # difflib's own default; below it suggestions stop making sense

_NO_BALANCER = (
    "leave it out: a launch hook and the agent's drain command register and deregister an instance, "
    "`controller-asg set-health` says what your load balancer thinks of it"
)
_LAUNCH_KEYS = (
    "image",
    "instance_type",
    "instance_types",
    "subnets",
    "zones",
    "security_groups",
    "key_pair",
    "instance_profile",
    "disks",
    "tags",
    "user_data",
    "spot",
)
# What other tools call it, or have as a key of a group, and we don't.
_ELSEWHERE = {
    "desired_capacity": "leave it out: it belongs to the controller (`controller-asg set-desired`); "
    "initial_capacity is where a new group starts",
    "default_cooldown": "write scale_out_cooldown_seconds and scale_in_cooldown_seconds of each policy",
    "health_check_type": _NO_BALANCER,
    "target_group_arns": _NO_BALANCER,
    "load_balancers": _NO_BALANCER,
    "launch_template": "write launch",
    "launch_config_name": "write launch",
    "availability_zones": "write launch.zones",
    "vpc_zone_identifier": "write launch.subnets",
    "mixed_instances_policy": "write launch.instance_types, launch.on_demand_base_capacity and "
    "launch.on_demand_percentage_above_base_capacity",
    "suspended_processes": "leave it out: `controller-asg suspend`, or the module asg_processes",
    "suspend_processes": "leave it out: `controller-asg suspend`, or the module asg_processes",
    "instance_refresh": "leave it out: `controller-asg start-instance-refresh`, or the module asg_instance_refresh",
    "warm_pool": "leave it out: there is none; a launch hook keeps an instance out of service until it is warm",
    "capacity_rebalance": "leave it out: Spot instances are replaced once EC2 has ended them",
    **{key: f"write launch.{key}" for key in _LAUNCH_KEYS},
}
_LOOKALIKES = str.maketrans("oOlI", "0011")
_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_GIB = {"gib": 1, "gb": 1, "g": 1, "tib": 1024, "tb": 1024, "t": 1024}
_PATTERNS = {
    r"^[a-zA-Z][a-zA-Z0-9_-]{0,62}$": "begin with a letter; then letters, digits, - and _, 63 in all at the most",
    r"^[a-z0-9-]+\.[a-z0-9-]+$": "write a type such as t2.micro",
    r"^/dev/[a-z0-9]+$": "write a device such as /dev/xvda",
    r"^[A-Za-z0-9_/-]{1,255}$": "write letters, digits, -, _ and /, 255 at the most",
    r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$": "name a file of the agent's hooks directory: begin with a letter or digit;"
    " then letters, digits, ., _ and -, 64 in all at the most",
}


def faults_of(error: ValidationError, where: str, known: Any) -> tuple[Fault, ...]:
    """Every fault of a document that was to become a `known` (a dataclass); `where` is the document's own place."""
    faults = []
    named: set[tuple[str, str]] = set()  # (place, key) that another fault already tells to write
    details = error.errors(include_url=False, include_context=True)
    for detail in sorted(details, key=lambda detail: detail["type"] == "missing"):
        if detail["type"] == "too_short" and any(_is_below(each["loc"], detail["loc"]) for each in details):
            continue  # its entries are wrong, not too few
        key, owner = _walk(detail["loc"], known)
        parent = key.rpartition(".")[0]
        if detail["type"] == "missing" and (parent, str(detail["loc"][-1])) in named:
            continue
        key, what, mend, near = _explain(detail, key, owner)
        if near:
            named.add((parent, near))
        faults.append(Fault(_join(where, key), what, mend))
    return tuple(faults)


def near_name(word: str, known: Iterable[str]) -> str:
    """The known name that the word was most likely meant to be; empty when none is near."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), by_lower, 1, NEAR_RATIO)
    return by_lower[found[0]] if found else ""


def unknown_key(where: str, key: str, known: Iterable[str]) -> Fault:
    """The fault of a key that is not known: it names the near one, or else all."""
    names = tuple(known)
    elsewhere = _ELSEWHERE if "initial_capacity" in names else {}
    near = near_name(key, (*names, *elsewhere))
    if near in elsewhere:
        mend = elsewhere[near]
    else:
        mend = f"write {near}" if near else f"leave it out; the keys are {', '.join(names)}"
    return Fault(_join(where, key), "is no known key", mend)


def shown(value: object, key: str = "") -> str:
    """A value as an operator wrote it, shortened; never one that may be a secret."""
    if isinstance(value, str) and not SECRET_KEYS.isdisjoint(re.split(r"[.\[\]]", key)):
        return "the value"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _join(where: str, key: str) -> str:
    return where + key if key.startswith("[") or not (where and key) else f"{where}.{key}"


# Places


def _is_below(loc: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(loc) > len(other) and loc[: len(other)] == other


def _walk(loc: tuple[int | str, ...], known: Any) -> tuple[str, Any]:
    """The dotted key of a place, and the type that holds its last part."""
    key, current, owner = "", known, known
    for part in loc:
        step = _step(current, part)
        if step is None:
            continue  # the tag of a union, or the name of a branch
        text, holder, narrowed = step
        if text:
            owner = holder
            key = _join(key, text)
        current = narrowed
    return key, owner


def _step(current: Any, part: int | str) -> tuple[str, Any, Any] | None:
    """(what is added to the key, the type that holds it, the type below); None for a part that is no key."""
    options = _options(current)
    if isinstance(part, int):
        for option in options:
            if get_origin(option) in (tuple, list):
                return f"[{part}]", option, get_args(option)[0]
        return f"[{part}]", current, Any
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if len(classes) > 1:
        tagged = [option for option in classes if part in _tags(option)]
        return ("", current, tagged[0]) if tagged else None
    if classes:
        return part, classes[0], get_type_hints(classes[0], include_extras=True).get(part, Any)
    for option in options:
        if get_origin(option) is dict:
            return f"[{part}]", option, get_args(option)[1]
    return None if len(options) > 1 else (part, current, Any)


def _options(hint: Any) -> list[Any]:
    """The types a value may have, without None and without annotations."""
    if get_origin(hint) is Annotated:
        return _options(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [each for arg in get_args(hint) if arg is not types.NoneType for each in _options(arg)]
    return [hint]


def _tags(option: Any) -> tuple[str, ...]:
    """The values of the fields that are literals of one word: what a discriminator may say of this class."""
    hints = get_type_hints(option)
    return tuple(get_args(h)[0] for h in hints.values() if get_origin(h) is Literal and len(get_args(h)) == 1)


def _known_keys(owner: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(owner)) if dataclasses.is_dataclass(owner) else ()


# Words


def _explain(detail: ErrorDetails, key: str, owner: Any) -> tuple[str, str, str, str]:
    """(key, what, mend, the near key that is named in it)."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        fault = unknown_key("", name, _known_keys(owner))
        return key, fault.what, fault.mend, near_name(name, _known_keys(owner))
    if kind == "missing":
        return key, "is missing", "add it", ""
    if kind == "json_invalid":  # we wrote the JSON ourselves
        return key, "is nested too deeply", "write it flatter", ""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        choices = re.findall(r"'([^']+)'", str(context.get("expected_tags", ""))) or _choices(detail, owner)
        tag = str(context.get("discriminator", "'type'")).strip("'")
        if kind == "union_tag_not_found":
            return _join(key, tag), "is missing", f"write {_either(choices)}" if choices else "add it", ""
        near = near_name(str(context["tag"]), choices)
        return _join(key, tag), f"{context['tag']!r} is not known", f"write {near or _either(choices)}", ""
    if value is None:
        return key, "has no value", "write one, or leave the key out", ""
    what, mend = _of_value(kind, value, context, key)
    return key, what, mend or detail["msg"].lower(), ""


def _of_value(kind: str, value: Any, context: Mapping[str, Any], key: str) -> tuple[str, str]:
    """(what, mend) of a value that is there and wrong."""
    seen = shown(value, key)
    match kind:
        case "int_type" | "int_from_float" | "int_parsing" | "float_type" | "float_parsing":
            whole = kind.startswith("int")
            return f"{seen} is not a {'whole ' if whole else ''}number", _number_mend(value, key, whole)
        case "string_type":
            quoted = isinstance(value, int | float)
            return f"{seen} is not text", f'write it in quotes: "{seen}"' if quoted else "write text"
        case "bool_type" | "bool_parsing":
            meant = {
                "yes": "true",
                "on": "true",
                "true": "true",
                "no": "false",
                "off": "false",
                "false": "false",
            }
            return (
                f"{seen} is neither true nor false",
                f"write {meant.get(str(value).lower(), 'true or false')}",
            )
        case "tuple_type" | "list_type":
            return f"{seen} is not a list", "write a list, each entry on a line of its own after `- `"
        case "dict_type" | "dataclass_type" | "dataclass_exact_type" | "mapping_type":
            return f"{seen} is not a mapping", "write keys with values below it"
        case "datetime_type" | "datetime_parsing" | "datetime_from_date_parsing":
            return f"{seen} is not a time", "write one as 2030-11-29T08:00:00+01:00 (ISO 8601)"
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']+)'", str(context["expected"]))
            near = near_name(value, choices) if isinstance(value, str) else ""
            return f"{seen} is not known", f"write {near or _either(choices)}"
        case "greater_than_equal":
            return f"{seen} is below {context['ge']:g}", f"write {context['ge']:g} or more"
        case "less_than_equal":
            return f"{seen} is above {context['le']:g}", f"write {context['le']:g} or less"
        case "greater_than":
            return f"{seen} is too small", f"write more than {context['gt']:g}"
        case "less_than":
            return f"{seen} is too large", f"write less than {context['lt']:g}"
        case "finite_number":
            return f"{seen} is not a finite number", "write a number"
        case "string_pattern_mismatch":
            return pattern_fault(value, str(context["pattern"]))
        case "string_too_short":
            return f"{seen} is too short", f"write {context['min_length']} characters at least"
        case "string_too_long":
            return f"has {len(value)} characters", f"write {context['max_length']} at the most"
        case "too_short":
            return f"{context['actual_length']} entries", f"write {context['min_length']} at least"
        case "too_long":
            return f"{context['actual_length']} entries", f"write {context['max_length']} at the most"
    return f"{seen} is not right", ""


def _number_mend(value: Any, key: str, whole: bool) -> str:
    """The number that was most likely meant: without quotes, lookalike letters, or a unit that the key names."""
    if (
        isinstance(value, float) and whole and abs(value) < 1e15
    ):  # beyond it, and NaN, nobody meant the number
        if "percentage" in key and 0 < value < 1:
            return f"write {round(value * 100)}: the key counts in percent"
        return f"write {value:.0f}" if value == int(value) else f"write {int(value)} or {int(value) + 1}"
    number = _meant(value, key) if isinstance(value, str) else None
    if number is None or not math.isfinite(number) or (whole and number != int(number)):
        return "write a whole number" if whole else "write a number"
    return f"write {number:.10g}"


def _meant(text: str, key: str) -> float | None:
    found = re.fullmatch(r"\s*(-?[0-9oOlI]*\.?[0-9oOlI]+)\s*([a-zA-Z]*|%)\s*", text)
    if not found:
        return None
    try:
        number = float(found[1].translate(_LOOKALIKES))
    except ValueError:
        return None
    unit = found[2].lower()
    if not unit:
        return number
    if unit == "%":
        return number / 100 if key.endswith("_ratio") else number
    scale = {**_SECONDS} if key.endswith("_seconds") else _GIB if key.endswith("_gib") else {}
    return number * scale[unit] if unit in scale else None


def pattern_fault(value: Any, pattern: str) -> tuple[str, str]:
    """(what, mend) of a value that does not match."""
    seen = shown(value)
    if alternatives := re.fullmatch(r"\^\(([a-z0-9_|-]+)\)\$", pattern):
        choices = alternatives[1].split("|")
        return f"{seen} is not known", f"write {near_name(str(value), choices) or _either(choices)}"
    if prefix := re.match(r"\^([a-z]+-)\[0-9a-f\]", pattern):
        return f"{seen} is not such an id", f"write one like {prefix[1]}0123456789abcdef0"
    return f"{seen} is not well formed", _PATTERNS.get(pattern, f"write what matches {pattern}")


def _choices(detail: ErrorDetails, owner: Any) -> list[str]:
    """The tags of the union that stands at the place; pydantic tells them only when it found a wrong one."""
    elements = get_args(owner)
    return [tag for option in (_options(elements[0]) if elements else []) for tag in _tags(option)]


def _either(choices: Iterable[str]) -> str:
    names = list(choices)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
