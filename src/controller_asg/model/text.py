"""What text may not hold that people are shown, or that is sent on."""

import unicodedata

# Control characters steer a terminal, and half of a surrogate pair has no bytes in UTF-8.
_REFUSED = ("Cc", "Cs")


def unprintable(text: str, but: str = "") -> str:
    """The first character that people should not be shown, as U+0007; empty when there is none. `but` is let pass."""
    found = (each for each in text if unicodedata.category(each) in _REFUSED and each not in but)
    return next((f"U+{ord(each):04X}" for each in found), "")
