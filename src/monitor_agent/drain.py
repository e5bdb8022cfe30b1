"""Empties the instance before it goes: runs the operator's drain command, once at a time, and reports how it ended."""

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from asg.register.v1 import register_pb2
from monitor_agent.command import run_command
from monitor_agent.log import EventLog

OUTPUT_BYTES = 4096
MAX_DRAIN_SECONDS = 48 * 3600.0  # the longest that EC2 Auto Scaling keeps an instance in Terminating:Wait

log = EventLog(__name__)


def check_drain_timeout(timeout_seconds: float) -> str:
    """What is wrong with a drain's time limit, or an empty text."""
    if math.isnan(timeout_seconds) or not 0 < timeout_seconds <= MAX_DRAIN_SECONDS:
        return f"timeout_seconds {timeout_seconds:g} is not above 0 and at most {MAX_DRAIN_SECONDS:g}"
    return ""


class Drain:
    """Takes requests from the session and from the Drain call; `report` is the newest, `reports` counts them."""

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        directory: Callable[[], Path],
        reported: Callable[[], None],
    ) -> None:
        self._command, self._directory, self._reported = command, directory, reported
        self._requests: asyncio.Queue[tuple[tuple[str, ...], float]] = asyncio.Queue(maxsize=1)
        self._running = False
        self.report: register_pb2.DrainProgress | None = None
        self.reports = 0

    def request(self, timeout_seconds: float, reason: str) -> bool:
        """Start draining, or join the drain that runs. False when there is no command: the instance may go at once."""
        command = tuple(self._command())
        if not command:
            self._tell(finished=True, exit_code=0, output="no drain_command is set")
            return False
        if not self._running:
            self._running = True
            log.info("drain_started", reason=reason, timeout_seconds=timeout_seconds)
            self._requests.put_nowait((command, timeout_seconds))
            self._tell(finished=False)
        return True

    async def run(self) -> None:
        """Run what is requested, one after the other."""
        while True:
            command, timeout_seconds = await self._requests.get()
            try:
                outcome = await run_command(
                    command,
                    timeout_seconds=timeout_seconds,
                    directory=self._directory(),
                    keep_bytes=OUTPUT_BYTES,
                    merge_errors=True,
                )
                exit_code, output = outcome.exit_code, outcome.output.decode("utf-8", "replace")
            except OSError as error:
                # The shell's code for a program that can't be run; the controller decides what a failed drain means.
                exit_code, output = 127, f"{command[0]}: {error.strerror}"
            finally:
                self._running = False
            if exit_code == 0:
                log.info("drain_finished", exit_code=0)
            else:
                log.warning(
                    "drain_failed", exit_code=exit_code, timeout_seconds=timeout_seconds, output=output[-400:]
                )
            self._tell(finished=True, exit_code=exit_code, output=output)

    def _tell(self, *, finished: bool, exit_code: int | None = None, output: str = "") -> None:
        self.report = register_pb2.DrainProgress(finished=finished, exit_code=exit_code, output=output)
        self.reports += 1
        self._reported()
