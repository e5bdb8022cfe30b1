"""A clock that only the test moves, and agents that answer pings as the test says."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from controller_asg.monitor.agent import Member
from controller_asg.monitor.fleet import Fleet, WatchSettings

SETTINGS = WatchSettings(
    silence_seconds=2.5, ping_timeout_seconds=1.0, sample_interval_seconds=1.0, window_seconds=10.0
)
STEP_SECONDS = 0.05


class HandClock:
    """`run(seconds)` lets time pass in small steps; `jump(seconds)` is a machine that stood still."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._now)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, woken))
        await woken

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        waiting = asyncio.ensure_future(event.wait())
        timer = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait((waiting, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            timer.cancel()

    def advance(self, seconds: float) -> None:
        """Without waking anybody: for tests in which nothing sleeps."""
        self._now += seconds

    async def jump(self, seconds: float) -> None:
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now + 1e-9:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)
        for _ in range(10):  # lets whoever woke come to rest
            await asyncio.sleep(0)

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_SECONDS)):
            await self.jump(STEP_SECONDS)


class ScriptedPinger:
    """Refuses at once unless the instance is in `answering`; one in `hanging` takes the whole timeout to fail."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self.answering: set[str] = set()
        self.hanging: set[str] = set()
        self.crashing = False
        self.asked: list[tuple[float, str, str, int]] = []
        self.under_way = 0
        self.most_under_way = 0

    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        self.asked.append((self._clock.monotonic(), instance_id, address, port))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.crashing:
                raise RuntimeError("a bug in the pinger")
            if instance_id in self.hanging:
                await self._clock.sleep(timeout_seconds)
                return "DEADLINE_EXCEEDED"
            return None if instance_id in self.answering else "UNAVAILABLE"
        finally:
            self.under_way -= 1


class World:
    """A fleet with its clock, its pinger and what it woke."""

    def __init__(self, settings: WatchSettings = SETTINGS) -> None:
        self.clock = HandClock()
        self.pinger = ScriptedPinger(self.clock)
        self.wakes: list[tuple[str, str]] = []
        self.fleet = Fleet(
            self.clock, self.pinger, settings, lambda group, why: self.wakes.append((group, why))
        )

    def woke(self, why: str, group: str = "web") -> bool:
        return (group, why) in self.wakes

    def join(self, *instance_ids: str, group: str = "web"):  # type: ignore[no-untyped-def]
        """Expects exactly these; registers them and opens a session of each. Returns the sessions, or the only one."""
        self.fleet.expect([member(instance_id, group) for instance_id in instance_ids])
        sessions = []
        for instance_id in instance_ids:
            self.fleet.register(instance_id, 7401, "0.1.0", "boot-1")
            sessions.append(self.fleet.open(instance_id, 7401, "0.1.0", "boot-1"))
        return sessions[0] if len(sessions) == 1 else sessions

    def of(self, instance_id: str, group: str = "web"):  # type: ignore[no-untyped-def]
        return self.fleet.view(group)[instance_id]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["World"]:
        task = asyncio.create_task(self.fleet.run(), name="watch")
        try:
            await self.clock.jump(0.0)
            yield self
        finally:
            assert not task.done(), task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def member(instance_id: str, group: str = "web", private_ip: str = "10.0.0.1", watch: bool = False) -> Member:
    return Member(instance_id, group, private_ip, watch)
