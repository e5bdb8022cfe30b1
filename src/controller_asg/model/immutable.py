"""Dataclasses of which every pass makes many."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """As `@dataclass(frozen=True, slots=True)`, but it is the type checker alone that forbids to assign.

    To forbid it at run time makes such an object five times as dear to make: 0.87 µs instead of 0.17 of nine fields.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
