"""An event loop whose time is made up: when nothing is ready to run, it jumps to the next timer.

Everything that waits by asyncio runs unchanged, an hour in milliseconds and in the same order every time. Threads are
made up too: what is handed to an executor runs in the loop at one moment of virtual time, and its answer arrives at a
later one. Nothing may wait for a real thread or socket: the loop would see nothing to do and raise Deadlock.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from controller_asg.model.clock import wait_in_loop

T = TypeVar("T")

# Any fixed moment will do; a leap day's eve shows careless calendar arithmetic.
START = datetime(2028, 2, 28, 12, 0, tzinfo=UTC)
# From a call's handing over to the moment at which the other side has it.
HANDED_OVER_SECONDS = 0.001


class Deadlock(Exception):
    """Every task waits, and no timer will ever wake one."""


class _JumpingSelector(selectors.SelectSelector):
    """Never blocks: a wait of n seconds moves the loop's time on by n."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._answer_seconds = 0.0

    def time(self) -> float:
        return self._jumping.now

    def stall(self, seconds: float) -> None:
        """The whole process stands still: time passes, nothing runs, and all that fell due runs at once."""
        self._jumping.now += seconds

    def answer_takes(self, seconds: float) -> None:
        """Called by what runs in a made-up thread: so long until its answer is back."""
        self._answer_seconds = seconds

    def run_in_executor(  # type: ignore[override] # the base returns a future of the executor's own
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        """A thread can't be cancelled: once handed over `func` runs, whoever still waits for it."""
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            self._answer_seconds = 0.0
            try:
                result = func(*args)
            except Exception as error:
                # Whatever it raises belongs to the waiter, as an executor's own future does.
                self.call_later(self._answer_seconds, _settle, future.set_exception, future, error)
            else:
                self.call_later(self._answer_seconds, _settle, future.set_result, future, result)

        self.call_later(HANDED_OVER_SECONDS, run)
        return future


def _settle(how: Callable[[Any], None], future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        how(value)


class VirtualClock:
    """The port `Clock` on a VirtualLoop. `step` moves the wall clock alone, as an NTP correction does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: datetime = START) -> None:
        self._loop = loop
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        await wait_in_loop(event, seconds)

    def step(self, seconds: float) -> None:
        self._start += timedelta(seconds=seconds)


def run_virtual(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
