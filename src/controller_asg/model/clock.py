"""The port to time. Whatever waits or reads a clock gets one handed in, so that the simulation can run it."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, aware, UTC. It may step."""

    def monotonic(self) -> float:
        """Seconds that only grow; for intervals and deadlines."""

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set, or for so long."""


async def wait_in_loop(event: asyncio.Event, seconds: float) -> None:
    """`Clock.wait` of every clock whose seconds are the event loop's."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        await wait_in_loop(event, seconds)
