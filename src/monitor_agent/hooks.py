"""Lifecycle hooks that run on the instance: files of one directory, by the controller's order, a run for each token.

What a run has to tell waits in a slot for each token until a session has sent it, so an end that came while there was
no session is told by the next one.
"""

import asyncio
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from asg.register.v1 import register_pb2
from monitor_agent.command import run_command
from monitor_agent.drain import OUTPUT_BYTES, check_drain_timeout
from monitor_agent.log import EventLog

AT_ONCE = 4
MAX_UNFINISHED = 16  # those that wait for one of the four included
MAX_ENDS = 32  # kept, to be told again to whoever asks with their token
HEARTBEAT_SECONDS = 10.0
# The shell's codes for a program that is there but can't be run, and for one that is not there.
NOT_RUNNABLE, NOT_FOUND = 126, 127

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = EventLog(__name__)


class _RefusedError(Exception):
    """The file is not run: (exit code, what, mend)."""

    def __init__(self, exit_code: int, what: str, mend: str) -> None:
        super().__init__(exit_code, what, mend)
        self.exit_code, self.output = exit_code, f"{what}; {mend}"


class Hooks:
    """Takes orders from the session. `owner` is the only user whose files are run."""

    def __init__(
        self,
        directory: Callable[[], Path],
        state_dir: Callable[[], Path],
        reported: Callable[[], None],
        owner: int = 0,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._directory, self._state_dir, self._reported = directory, state_dir, reported
        self._owner, self._heartbeat_seconds = owner, heartbeat_seconds
        self._orders: asyncio.Queue[tuple[register_pb2.RunHook, str, str]] = asyncio.Queue(MAX_UNFINISHED)
        self._told: dict[str, register_pb2.HookProgress] = {}  # by token, the newest of each run
        self._unsent: dict[str, register_pb2.HookProgress] = {}
        self._free = asyncio.Semaphore(AT_ONCE)

    def request(self, order: register_pb2.RunHook, group: str, instance_id: str) -> None:
        """Run it, join the run of the same token, or tell its end again."""
        known = self._told.get(order.token)
        if known is not None:
            self._tell(known)
            return
        fault = check_drain_timeout(order.timeout_seconds)
        if sum(not told.finished for told in self._told.values()) >= MAX_UNFINISHED:
            fault = f"{MAX_UNFINISHED} hooks run already"
        if fault:
            log.warning("hook_refused", hook=order.hook, command=order.command, reason=fault)
            self._end(order.token, NOT_RUNNABLE, fault)
            return
        log.info(
            "hook_started", hook=order.hook, command=order.command, timeout_seconds=order.timeout_seconds
        )
        self._tell(register_pb2.HookProgress(token=order.token))
        self._orders.put_nowait((order, group, instance_id))

    def session_began(self) -> None:
        """What runs is told to a controller that may not know it any more."""
        self._unsent |= {token: told for token, told in self._told.items() if not told.finished}

    def unsent(self) -> register_pb2.HookProgress | None:
        """The next thing to tell the controller, or None; `sent` takes it out."""
        return next(iter(self._unsent.values()), None)

    def sent(self, progress: register_pb2.HookProgress) -> None:
        if self._unsent.get(progress.token) is progress:
            del self._unsent[progress.token]

    async def run(self) -> None:
        """Run what is ordered, at most four at once."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                order, group, instance_id = await self._orders.get()
                tasks.create_task(self._run(order, group, instance_id), name=f"hook:{order.token}")

    async def _run(self, order: register_pb2.RunHook, group: str, instance_id: str) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + order.timeout_seconds
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._beat(order.token), name=f"hook:{order.token}:heartbeat")
            try:
                async with asyncio.timeout_at(ends_at):
                    await self._free.acquire()
            except TimeoutError:
                exit_code, output = None, f"its time was over before one of the {AT_ONCE} that run had ended"
            else:
                try:
                    left = max(ends_at - loop.time(), 0.0)
                    exit_code, output = await self._execute(order, group, instance_id, left)
                finally:
                    self._free.release()
            beating.cancel()
        tell = log.info if exit_code == 0 else log.warning
        tell("hook_finished", hook=order.hook, exit_code=exit_code, output=output[-400:] if exit_code else "")
        self._end(order.token, exit_code, output)

    async def _execute(
        self, order: register_pb2.RunHook, group: str, instance_id: str, seconds: float
    ) -> tuple[int | None, str]:
        """The exit code (None: killed at the limit) and the last that it printed."""
        try:
            path = self._file(order.command)
            outcome = await run_command(
                (str(path),),
                timeout_seconds=seconds,
                directory=self._state_dir(),
                keep_bytes=OUTPUT_BYTES,
                merge_errors=True,
                environment={
                    "ASG_GROUP": group,
                    "ASG_INSTANCE_ID": instance_id,
                    "ASG_HOOK": order.hook,
                    "ASG_TRANSITION": order.transition,
                    "ASG_METADATA": order.metadata,
                    "ASG_DEADLINE_SECONDS": f"{seconds:g}",
                },
            )
        except _RefusedError as refused:
            return refused.exit_code, refused.output
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the metadata
            return NOT_RUNNABLE, f"{order.command}: {getattr(error, 'strerror', None) or error}"
        return outcome.exit_code, outcome.output.decode("utf-8", "replace")

    def _file(self, command: str) -> Path:
        """The file to run. Raises _RefusedError unless nobody but the owner can have written it."""
        directory = self._directory()
        if not _NAME.fullmatch(command):
            what = f"{command[:80]!r} is no name of a file in {directory}"
            raise _RefusedError(NOT_FOUND, what, "name it by 1 to 64 letters, digits and . _ -")
        path = directory / command
        for place, is_right, kind in (
            (directory, stat.S_ISDIR, "directory"),
            (path, stat.S_ISREG, "regular file"),
        ):
            try:
                status = os.lstat(place)
            except OSError as error:
                mend = f"put an executable file {path} into the image"
                raise _RefusedError(NOT_FOUND, f"{place}: {error.strerror}", mend) from error
            if not is_right(status.st_mode):
                raise _RefusedError(NOT_RUNNABLE, f"{place} is no {kind}", "put one there")
            if status.st_uid != self._owner or status.st_mode & 0o022:
                raise _RefusedError(
                    NOT_RUNNABLE,
                    f"{place} belongs to another than root, or others may write it",
                    f"chown root {place}; chmod go-w {place}",
                )
        if not os.access(path, os.X_OK):
            raise _RefusedError(NOT_RUNNABLE, f"{path} can't be executed by the agent", f"chmod a+rx {path}")
        return path

    async def _beat(self, token: str) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            self._tell(register_pb2.HookProgress(token=token))

    def _end(self, token: str, exit_code: int | None, output: str) -> None:
        self._tell(register_pb2.HookProgress(token=token, finished=True, exit_code=exit_code, output=output))
        ended = [token for token, told in self._told.items() if told.finished]
        for token in ended[:-MAX_ENDS]:
            del self._told[token]
            self._unsent.pop(token, None)

    def _tell(self, progress: register_pb2.HookProgress) -> None:
        self._told[progress.token] = progress
        self._unsent[progress.token] = progress
        self._reported()
