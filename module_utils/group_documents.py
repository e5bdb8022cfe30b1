"""Groups' documents before the controller sees them: the defaults laid beneath what the operator wrote.

The controller knows nothing of defaults, so it is here that a fault of theirs gets its true place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Exactly one key of an image counts, so a group that names an image takes none of the default's keys.
TAKEN_WHOLE = (("launch", "image"),)


def with_defaults(
    defaults: Mapping[str, Any], document: Mapping[str, Any], path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The document, with each key it leaves out taken from `defaults`; mappings are merged, all else is replaced."""
    merged: dict[str, Any] = dict(defaults)
    for key, value in document.items():
        below = merged.get(key)
        here = (*path, key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and here not in TAKEN_WHOLE:
            merged[key] = with_defaults(below, value, here)
        else:
            merged[key] = value
    return merged


def complete(defaults: Mapping[str, Any], documents: Mapping[str, Any]) -> dict[str, Any]:
    """All documents with the defaults beneath; one that is no mapping stays as it is, for the controller to refuse."""
    return {
        name: with_defaults(defaults, document) if isinstance(document, Mapping) else document
        for name, document in documents.items()
    }


def true_place(where: str, defaults: Mapping[str, Any], documents: Mapping[str, Any], source: str) -> str:
    """Where the operator wrote what the controller names as a key of a group."""
    for name, document in documents.items():
        group = f"asg_groups.{name}."
        beginning = f"{source}: {group}" if source else group
        key = where.removeprefix(beginning)
        if key != where and _is_default(re.findall(r"[^.\[\]]+", key), defaults, document):
            return f"asg_group_defaults.{key} (beneath {group[:-1]})"
    return where


def _is_default(keys: list[str], defaults: Any, document: Any) -> bool:
    """Whether what stands at the place after `complete` is of the defaults."""
    for depth, key in enumerate(keys, 1):
        if not isinstance(document, Mapping) or not isinstance(defaults, Mapping):
            return False
        if key not in document:
            return key in defaults
        if tuple(keys[:depth]) in TAKEN_WHOLE:
            return False
        defaults, document = defaults.get(key), document[key]
    return False
