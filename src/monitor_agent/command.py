"""Runs one of the operator's programs with a time limit, and keeps a bounded part of what it prints."""

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitor_agent.log import EventLog

GRACE_SECONDS = 0.5  # for the last output of a program that has ended
KILLED_SECONDS = 5.0  # for the end of one that was killed; a dead disk may hold it longer
# A program's, in place of the agent's own: out of memory, the machine loses the command and not the agent.
OOM_SCORE_ADJUST = "0"

log = EventLog(__name__)


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
    more_seconds: Callable[[], float] = lambda: 0.0,
    killed_seconds: float = KILLED_SECONDS,
) -> Outcome:
    """The outcome; `output` is the last `keep_bytes` printed. Raises OSError when the program can't be started.

    `environment` comes on top of the agent's own. `more_seconds` is asked at the limit: for how long it may run on.

    The program gets a process group of its own, which is killed when the program has ended, at the limit, and on
    cancellation. With `merge_errors` its standard error is part of the output, without it goes where the agent's goes.
    """
    tail = _Tail(keep_bytes)
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            lambda: tail,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if merge_errors else None,
            cwd=_existing(directory),
            env=None if environment is None else os.environ | environment,
            start_new_session=True,
        )
    )
    try:
        transport, _ = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A start that is cancelled itself waits for whoever else holds the pipe, the program's children too.
        starting.add_done_callback(_end)
        raise
    except (OSError, RuntimeError) as error:
        # asyncio starts the program first, and then what waits for its end: a thread, or a descriptor.
        tail.is_unwatched = True
        if isinstance(error, OSError):
            raise
        raise OSError(errno.EAGAIN, f"its end can't be waited for: {error}") from error
    try:
        left = timeout_seconds
        while left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await tail.ended.wait()
                    break
            left = more_seconds()
        exit_code = transport.get_returncode()
    finally:
        # What the program left in the background would hold the pipe and outlive the limit.
        _kill(transport)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(killed_seconds):
                    await tail.ended.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await tail.closed.wait()
        finally:  # a cancellation may arrive in these waits
            transport.close()
            if not tail.ended.is_set():
                tail.output += b"\nkilled, but it does not die\n"
                log.warning("command_does_not_die", command=command[0], pid=transport.get_pid())
    return Outcome(exit_code, bytes(tail.output))


def watch_without_threads() -> None:
    """Have the running loop wait for programs by a descriptor each, where the kernel can, as Python 3.12 does.

    A thread each is what a machine at its limit of them refuses.
    """
    if sys.version_info >= (3, 12):
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return
    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)


def _end(started: "asyncio.Future[tuple[asyncio.SubprocessTransport, _Tail]]") -> None:
    if not started.cancelled() and started.exception() is None:
        transport, _ = started.result()
        _kill(transport)
        transport.close()


def _kill(transport: asyncio.BaseTransport) -> None:
    assert isinstance(transport, asyncio.SubprocessTransport)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), signal.SIGKILL)


class _Tail(asyncio.SubprocessProtocol):
    """The end of what a program prints. It may end before its pipe closes, when a child has the pipe too."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self.output = bytearray()
        self.ended, self.closed = asyncio.Event(), asyncio.Event()
        self.is_unwatched = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        if self.is_unwatched:
            _kill(transport)
            transport.close()
            return
        with contextlib.suppress(OSError):
            Path(f"/proc/{transport.get_pid()}/oom_score_adj").write_text(OOM_SCORE_ADJUST)

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
