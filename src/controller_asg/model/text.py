"""What text may not hold that people are shown, or that is sent on."""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

# Control characters steer a terminal, and half of a surrogate pair has no bytes in UTF-8.
_REFUSED = ("Cc", "Cs")


def unprintable(text: str, but: str = "") -> str:
    """The first character that people should not be shown, as U+0007; empty when there is none. `but` is let pass."""
    found = (each for each in text if unicodedata.category(each) in _REFUSED and each not in but)
    return next((f"U+{ord(each):04X}" for each in found), "")


def broken(document: Any) -> Iterator[str]:
    """The dotted keys of a document at which half of a surrogate pair stands, itself left out."""
    below: list[tuple[str, Any]] = [("", document)]
    while below:
        where, value = below.pop()
        if isinstance(value, str) and whole(value) != value:
            yield where
        elif isinstance(value, Mapping):
            for key, each in reversed(list(value.items())):
                name = str(key)
                below.append((f"{where}.{whole(name)}".lstrip("."), each if whole(name) == name else name))
        elif isinstance(value, list | tuple):
            below.extend((f"{where}[{index}]", each) for index, each in reversed(list(enumerate(value))))


def whole(text: str) -> str:
    """With a question mark for what has no bytes in UTF-8."""
    return text.encode(errors="replace").decode()
