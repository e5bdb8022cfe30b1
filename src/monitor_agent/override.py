"""The rehearsed load: a cpu_percent that stands in for the measured one until it is reset or its time is over."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from monitor_agent.faults import Fault, FaultsError

MAX_OVERRIDE_SECONDS = (
    7 * 86400.0
)  # longer than any rehearsal; a forgotten override with a time ends within a week


@dataclass(frozen=True, slots=True)
class OverrideRequest:
    """`cpu_percent` None ends the override; `seconds` None holds it until it is reset."""

    cpu_percent: float | None
    seconds: float | None = None


class Override:
    """Holds the value and ends it in time; `changed` is called at each change, also at the end."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self.cpu_percent: float | None = None

    def apply(self, request: OverrideRequest) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.cpu_percent = request.cpu_percent
        if request.cpu_percent is not None and request.seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(
                request.seconds, self.apply, OverrideRequest(cpu_percent=None)
            )
        self._changed()


def check_override(percent: object, seconds: object, percent_key: str = "metric") -> OverrideRequest:
    """A valid request of two values from outside; None is "not given". Raises FaultsError."""
    faults = []
    if percent is not None and not _within(percent, 0, 100):
        faults.append(
            Fault(percent_key, f"{_shown(percent)} is not a number from 0 to 100", "send a load in percent")
        )
    if seconds is not None:
        if not _within(seconds, 0, MAX_OVERRIDE_SECONDS) or seconds == 0:
            what = f"{_shown(seconds)} is not a number above 0, at most {MAX_OVERRIDE_SECONDS:g}"
            faults.append(Fault("seconds", what, "send how long the override holds, or leave it out"))
        elif percent is None:
            faults.append(
                Fault("seconds", f"means nothing without {percent_key}", "leave it out to end the override")
            )
    if faults:
        raise FaultsError(faults)
    return OverrideRequest(_float(percent), _float(seconds))


def parse_override(body: bytes) -> OverrideRequest:
    """The request in a body of /set-metric: `{"metric": 0 to 100 or null, "seconds": above 0}`. Raises FaultsError."""
    example = 'send {"metric": 85} or {"metric": 85, "seconds": 60}; {"metric": null} resets'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FaultsError([Fault("body", f"not valid JSON: {error}", example)]) from error
    if not isinstance(document, dict):
        raise FaultsError([Fault("body", "not a JSON object", example)])
    faults = [
        Fault(str(key)[:64], "unknown key", example) for key in document if key not in ("metric", "seconds")
    ]
    if "metric" not in document:
        faults.append(Fault("metric", "missing", example))
    try:
        request = check_override(document.get("metric"), document.get("seconds"))
    except FaultsError as error:
        faults.extend(error.faults)
    if document.get("seconds", 0) is None:
        faults.append(
            Fault("seconds", "null is not a number", "leave it out to hold the override until it is reset")
        )
    if faults:
        raise FaultsError(faults)
    return request


def _within(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high  # false for NaN


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _shown(value: object) -> str:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits has no decimal text
        return "the value"
    return text if len(text) <= 64 else text[:61] + "..."
