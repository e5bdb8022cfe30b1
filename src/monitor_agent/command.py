"""Runs one of the operator's programs with a time limit, and keeps a bounded part of what it prints."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 0.5  # for the last output of a program that has ended


@dataclass(frozen=True, slots=True)
class Outcome:
    """`exit_code` is None when the program was killed at its limit; negative is the signal that ended it."""

    exit_code: int | None
    output: bytes


async def run_command(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    directory: Path,
    keep_bytes: int,
    merge_errors: bool,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """The outcome; `output` is the last `keep_bytes` printed. Raises OSError when the program can't be started.

    `environment` comes on top of the agent's own.

    The program gets a process group of its own, which is killed when the program has ended, at the limit, and on
    cancellation. With `merge_errors` its standard error is part of the output, without it goes where the agent's goes.
    """
    transport, tail = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Tail(keep_bytes),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if merge_errors else None,
        cwd=_existing(directory),
        env=None if environment is None else os.environ | environment,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await tail.ended.wait()
        exit_code = transport.get_returncode()
    finally:
        # What the program left in the background would hold the pipe and outlive the limit.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        try:
            await tail.ended.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await tail.closed.wait()
        finally:  # a cancellation may arrive in these waits
            transport.close()
    return Outcome(exit_code, bytes(tail.output))


class _Tail(asyncio.SubprocessProtocol):
    """The end of what a program prints. It may end before its pipe closes, when a child has the pipe too."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self.output = bytearray()
        self.ended, self.closed = asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output += data
        del self.output[: -self._keep_bytes]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.closed.set()

    def process_exited(self) -> None:
        self.ended.set()


def _existing(directory: Path) -> Path:
    """The directory, or / while it does not exist (a machine without systemd's StateDirectory)."""
    return directory if directory.is_dir() else Path("/")
