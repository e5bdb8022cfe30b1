"""Describe answers of some seconds ago: what EC2's eventual consistency looks like, made long enough to see.

While a lag is asked for, each change leaves a copy of all reservations behind; a Describe call is answered from the
newest one that is old enough, or from the first, which was taken when the lag began.
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from asg_lab.pool import Check

COPIES_KEPT = 500


class History:
    """Copies of moto's reservations, oldest first; used under the world's lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._copies: deque[tuple[float, list[Any]]] = deque(maxlen=COPIES_KEPT)

    def take(self, reservations: Iterable[Any], lag_seconds: float, check_of: Callable[[str], Check]) -> None:
        """Keep the present."""
        now = self._clock()
        self._copies.append((now, [_copy_reservation(each, check_of) for each in reservations]))
        while len(self._copies) > 1 and self._copies[1][0] <= now - lag_seconds:
            self._copies.popleft()

    def view(self, lag_seconds: float) -> list[Any] | None:
        """The reservations of `lag_seconds` ago; None when nothing was kept."""
        if not self._copies:
            return None
        then = self._clock() - lag_seconds
        seen = self._copies[0][1]
        for taken_at, reservations in self._copies:
            if taken_at <= then:
                seen = reservations
        return [copy.copy(each) for each in seen]

    def clear(self) -> None:
        """Forget all; the lag has ended."""
        self._copies.clear()


def _copy_reservation(reservation: Any, check_of: Callable[[str], Check]) -> Any:
    kept = copy.copy(reservation)
    kept.instances = [_copy_instance(each, check_of) for each in reservation.instances]
    return kept


def _copy_instance(instance: Any, check_of: Callable[[str], Check]) -> Any:
    kept = copy.copy(instance)
    kept._state = copy.copy(instance._state)
    kept.state_reason = copy.copy(instance.state_reason)
    kept.nics = dict(instance.nics)
    tags = instance.get_tags()
    kept.get_tags = lambda: tags  # moto keeps tags beside the instance, by its id
    kept.lab_check = check_of(instance.id)
    return kept
