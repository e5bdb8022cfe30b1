"""Lifecycle hooks that run on the instance: files of one directory, by the controller's order, a run for each token.

What a run has to tell waits in a slot for each token until a session has sent it, so an end that came while there was
no session is told by the next one.
"""

import asyncio
import contextlib
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
# A group has up to 50 hooks, and those of an earlier transition may not have ended.
MAX_UNFINISHED = 128  # those that wait for one of the four included
MAX_ENDS = 64  # kept, to be told again to whoever asks with their token
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
        self._ends_at: dict[str, float] = {}  # by token of an unfinished run, on the loop's clock
        self._free = asyncio.Semaphore(AT_ONCE)

    def request(self, order: register_pb2.RunHook, group: str, instance_id: str) -> None:
        """Run it, let the run of the same token have its time anew, or tell its end again."""
        known, fault = self._told.get(order.token), check_drain_timeout(order.timeout_seconds)
        ends_at = asyncio.get_running_loop().time() + order.timeout_seconds
        if known is not None:
            if not known.finished and not fault:
                self._ends_at[order.token] = max(self._ends_at[order.token], ends_at)
            self._tell(known)
            return
        if sum(not told.finished for told in self._told.values()) >= MAX_UNFINISHED:
            fault = f"{MAX_UNFINISHED} hooks run already"
        if fault:
            log.warning("hook_refused", hook=order.hook, command=order.command, reason=fault)
            self._end(order.token, NOT_RUNNABLE, fault)
            return
        log.info(
            "hook_started", hook=order.hook, command=order.command, timeout_seconds=order.timeout_seconds
        )
        self._ends_at[order.token] = ends_at
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
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._beat(order.token), name=f"hook:{order.token}:heartbeat")
            if await self._is_its_turn(order.token):
                try:
                    exit_code, output = await self._execute(order, group, instance_id)
                finally:
                    self._free.release()
            else:
                exit_code, output = None, f"its time was over before one of the {AT_ONCE} that run had ended"
            beating.cancel()
        tell = log.info if exit_code == 0 else log.warning
        tell("hook_finished", hook=order.hook, exit_code=exit_code, output=output[-400:] if exit_code else "")
        self._end(order.token, exit_code, output)

    async def _is_its_turn(self, token: str) -> bool:
        """Waits for one of the four; False when its time is over before."""
        while (left := self._left_seconds(token)) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    return await self._free.acquire()
        return False

    def _left_seconds(self, token: str) -> float:
        return max(self._ends_at[token] - asyncio.get_running_loop().time(), 0.0)

    async def _execute(
        self, order: register_pb2.RunHook, group: str, instance_id: str
    ) -> tuple[int | None, str]:
        """The exit code (None: killed at the limit) and the last that it printed."""
        seconds = self._left_seconds(order.token)
        if "\0" in order.metadata:
            return NOT_RUNNABLE, "notification_metadata holds a zero byte; remove it from the hook"
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
                more_seconds=lambda: self._left_seconds(order.token),
            )
        except _RefusedError as refused:
            return refused.exit_code, refused.output
        except OSError as error:
            return NOT_RUNNABLE, f"{order.command}: {error.strerror}"
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
        self._ends_at.pop(token, None)
        ended = [token for token, told in self._told.items() if told.finished]
        for token in ended[:-MAX_ENDS]:
            del self._told[token]
            self._unsent.pop(token, None)

    def _tell(self, progress: register_pb2.HookProgress) -> None:
        self._told[progress.token] = progress
        self._unsent[progress.token] = progress
        self._reported()
