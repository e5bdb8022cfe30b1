"""Groups' documents before the controller sees them: the defaults laid beneath what the operator wrote."""

from __future__ import annotations

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
