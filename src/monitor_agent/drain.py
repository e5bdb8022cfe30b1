"""Empties the instance before it goes, and fills it again when it stays: the operator's drain and resume commands."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path

from asg.register.v1 import register_pb2
from monitor_agent.command import run_command
from monitor_agent.log import EventLog
from monitor_agent.memory import Memory

FILE_NAME = "drain.json"  # in the state directory
OUTPUT_BYTES = 4096
MAX_DRAIN_SECONDS = 48 * 3600.0  # the longest that EC2 Auto Scaling keeps an instance in Terminating:Wait
RESUME_SECONDS = 300.0  # a resume command is killed after so long; nothing waits for its end

log = EventLog(__name__)


def check_drain_timeout(timeout_seconds: float) -> str:
    """What is wrong with a drain's time limit, or an empty text."""
    if math.isnan(timeout_seconds) or not 0 < timeout_seconds <= MAX_DRAIN_SECONDS:
        return f"timeout_seconds {timeout_seconds:g} is not above 0 and at most {MAX_DRAIN_SECONDS:g}"
    return ""


class Drain:
    """Takes requests from the session and from the Drain call; `report` is the newest, `reports` counts them.

    That the instance is to end its work is remembered over a restart of the agent, so that no work begins until the
    order is given again. The command's run is not: a new agent says nothing of it, and runs it anew.
    """

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        resume_command: Callable[[], Sequence[str]],
        directory: Callable[[], Path],
        look_again: Callable[[], Awaitable[None]],
        reported: Callable[[], None],
        memory: Memory,
    ) -> None:
        """`look_again` asks what holds leases once more, so that none is missed that began before the order."""
        self._command, self._resume_command = command, resume_command
        self._directory, self._look_again, self._reported = directory, look_again, reported
        self._memory = memory
        self._next: Coroutine[None, None, None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._draining = False
        # The controller wants the instance to end its work: no new work begins.
        self.ordered = self._is_unrepeated = self._was_ordered()
        self.report: register_pb2.DrainProgress | None = None
        self.reports = 0

    def request(self, timeout_seconds: float, reason: str) -> bool:
        """Start draining, or join the drain that runs. False when there is no command to run."""
        command = tuple(self._command())
        self._set_ordered(True)
        if not self._draining:
            self._draining = True
            log.info("drain_started", reason=reason, timeout_seconds=timeout_seconds)
            self._begin(self._drain(command, timeout_seconds))
        self._tell(finished=False)  # to one that joins too: it has not heard that a drain runs
        return bool(command)

    def resume(self, reason: str) -> None:
        """The instance serves again: stop the drain that runs, and run the resume command.

        The drain's end is not told, nor one that waits to be told: it would pass for the end of the next drain.
        """
        log.info("resumed", reason=reason, stopped_drain=self._draining)
        self._draining, self.report = False, None
        self._set_ordered(False)
        self._begin(self._resume(tuple(self._resume_command())))

    def forget_unrepeated(self) -> None:
        """An order that this agent did not get itself holds no more: a resume may have been lost with the last one."""
        if self._is_unrepeated:
            log.warning("drain_forgotten", reason="the controller did not give the order again")
            self._set_ordered(False)

    async def run(self) -> None:
        """Run what is asked for, one at a time: what is newer stops what runs."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._asked.wait()
                self._asked.clear()
                if self._running is not None:
                    await asyncio.wait((self._running,))
                if self._next is not None:
                    phase, self._next = self._next, None
                    self._running = tasks.create_task(phase, name="drain:command")

    def _begin(self, phase: Coroutine[None, None, None]) -> None:
        if self._next is not None:
            self._next.close()  # it never began
        if self._running is not None:
            self._running.cancel()  # now, so that it can't tell its end any more
        self._next = phase
        self._asked.set()

    async def _drain(self, command: tuple[str, ...], timeout_seconds: float) -> None:
        exit_code, output = (
            await self._execute(command, timeout_seconds) if command else (0, "no drain_command is set")
        )
        await self._look_again()
        self._draining = False
        if exit_code == 0:
            log.info("drain_finished", exit_code=0)
        else:
            log.warning(
                "drain_failed", exit_code=exit_code, timeout_seconds=timeout_seconds, output=output[-400:]
            )
        self._tell(finished=True, exit_code=exit_code, output=output)

    async def _resume(self, command: tuple[str, ...]) -> None:
        if not command:
            return
        exit_code, output = await self._execute(command, RESUME_SECONDS)
        if exit_code != 0:
            log.warning("resume_failed", exit_code=exit_code, output=output[-400:])

    async def _execute(self, command: tuple[str, ...], seconds: float) -> tuple[int | None, str]:
        try:
            outcome = await run_command(
                command,
                timeout_seconds=seconds,
                directory=self._directory(),
                keep_bytes=OUTPUT_BYTES,
                merge_errors=True,
            )
        except OSError as error:
            # The shell's code for a program that can't be run; the controller decides what a failed drain means.
            return 127, f"{command[0]}: {error.strerror}"
        return outcome.exit_code, outcome.output.decode("utf-8", "replace")

    def _was_ordered(self) -> bool:
        try:
            return self._memory.read().get("ordered") is True
        except (OSError, ValueError) as error:
            log.warning("drain_order_lost", reason=f"{self._memory.path()}: {error}")
            return False

    def _set_ordered(self, ordered: bool) -> None:
        was_ordered, self.ordered, self._is_unrepeated = self.ordered, ordered, False
        if was_ordered == ordered:
            return
        try:
            self._memory.keep({"ordered": ordered})
        except OSError as error:
            log.warning("drain_order_not_kept", reason=f"{self._memory.path()}: {error.strerror}")

    def _tell(self, *, finished: bool, exit_code: int | None = None, output: str = "") -> None:
        self.report = register_pb2.DrainProgress(finished=finished, exit_code=exit_code, output=output)
        self.reports += 1
        self._reported()
