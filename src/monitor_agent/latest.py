"""What the instance is like now: the last reading of the machine, the application's metrics and the override, as one.

The sampler, the application's collectors and the override write here; the session, GetMetrics and /metrics read.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice

from monitor_agent.override import Override
from monitor_agent.reading import MAX_METRICS, MachineReading, Reading


class Latest:
    """The current Reading, and a wake-up for the one session that sends it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._machine: MachineReading | None = None
        self._application: dict[str, Mapping[str, float]] = {}  # by source
        self.override = Override(self._override_changed)
        self.ticks = 0  # readings taken
        self.urgent = 0  # changes that must not wait for the next reading
        self.ticked_at: float | None = None  # on the monotonic clock
        self.wake = asyncio.Event()  # set at each of both, cleared by the session

    def tick(self, machine: MachineReading) -> None:
        """Take over a new reading of the machine."""
        self._machine = machine
        self.ticks += 1
        self.ticked_at = self._monotonic()
        self.wake.set()

    def set_application(self, source: str, metrics: Mapping[str, float]) -> None:
        """Replace what one source says; empty when it failed, for an old value must not look like a new one."""
        self._application[source] = metrics

    def reading(self) -> Reading | None:
        """The current reading, or None before the first."""
        if self._machine is None:
            return None
        merged = (item for metrics in self._application.values() for item in metrics.items())
        application = dict(islice(merged, MAX_METRICS))
        percent = self.override.cpu_percent
        if percent is None:
            return Reading(self._machine, application)
        return Reading(replace(self._machine, cpu_percent=percent), application, overridden=True)

    def _override_changed(self) -> None:
        self.urgent += 1
        self.wake.set()
