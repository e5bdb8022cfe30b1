"""How a command is started, watched and given up: what the machine refuses must cost neither the agent nor a slot."""

import asyncio
import contextlib
import gc
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_world import DEADLINE_SECONDS, until

from monitor_agent.command import Outcome, run_command, watch_without_threads


class Watcher(asyncio.AbstractChildWatcher):
    """asyncio's way to wait for a program, on a machine without another thread, or beside one that never dies."""

    def __init__(self, refusal: str = "") -> None:
        self._refusal = refusal
        self._watched: list[tuple[int, Any, tuple[Any, ...]]] = []

    def add_child_handler(self, pid: int, callback: Any, *args: Any) -> None:
        if self._refusal:
            raise RuntimeError(self._refusal)
        self._watched.append((pid, callback, args))

    def let_die(self) -> None:
        for pid, callback, args in self._watched:
            callback(pid, -signal.SIGKILL, *args)

    def remove_child_handler(self, pid: int) -> bool:
        return False

    def attach_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        pass

    def is_active(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def default_watcher() -> Iterator[None]:
    yield
    asyncio.set_child_watcher(None)


only_311 = pytest.mark.skipif(sys.version_info >= (3, 12), reason="child watchers are deprecated")


def runs_with(text: str) -> bool:
    """Whether a program runs whose command line holds this."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                return True
    return False


async def run(script: str, seconds: float = 60.0, **options: Any) -> Outcome:
    return await run_command(
        ("/bin/sh", "-c", script),
        timeout_seconds=seconds,
        directory=Path("/"),
        keep_bytes=4096,
        merge_errors=True,
        **options,
    )


@pytest.fixture
def likelier_to_go() -> Iterator[None]:
    """Anybody may be; less likely, as the agent is, may only root."""
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    own.write_text("300")
    yield
    own.write_text(before)


@pytest.mark.usefixtures("likelier_to_go")
async def test_out_of_memory_a_command_has_not_the_agents_privilege() -> None:
    script = 'until [ "$(cat /proc/$$/oom_score_adj)" = 0 ]; do sleep 0.01; done'
    assert (await run(script)).exit_code == 0


@only_311
@pytest.mark.usefixtures("default_watcher")
async def test_a_program_whose_end_nobody_can_wait_for_is_an_error_in_words_and_killed(
    tmp_path: Path,
) -> None:
    asyncio.set_child_watcher(Watcher("can't start new thread"))
    said = ""
    try:
        await run(f"cd {tmp_path}; sleep 1000")
    except OSError as error:
        said = str(error)
    assert said == "[Errno 11] its end can't be waited for: can't start new thread"
    for _ in range(100):
        await asyncio.sleep(0)  # asyncio goes on with what it began
    await until(lambda: not runs_with(str(tmp_path)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nobody waits for it, so Python has to
        gc.collect()


@only_311
@pytest.mark.usefixtures("default_watcher")
async def test_what_was_killed_and_does_not_die_is_given_up(tmp_path: Path) -> None:
    watcher = Watcher()
    asyncio.set_child_watcher(watcher)
    said = tmp_path / "said"
    outcome = await run(
        f"echo waiting; touch {said}; exec sleep 1000",
        0.01,
        more_seconds=lambda: 0.0 if said.exists() else 0.01,
        killed_seconds=0.01,
    )
    assert outcome == Outcome(None, b"waiting\n\nkilled, but it does not die\n")
    watcher.let_die()
    await asyncio.sleep(0)


@only_311
@pytest.mark.usefixtures("default_watcher")
async def test_no_thread_waits_for_a_program() -> None:
    watch_without_threads()
    before = threading.active_count()
    running = asyncio.ensure_future(run("read line < /dev/zero"))
    await until(lambda: not running.done())
    await asyncio.sleep(0.05)
    assert threading.active_count() == before
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await run("exit 3")).exit_code == 3


async def test_a_command_that_is_cancelled_while_it_starts_ends_with_its_children(tmp_path: Path) -> None:
    for turns in range(20):
        running = asyncio.ensure_future(run(f"(cd {tmp_path}; sleep 1000; true) & wait"))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait((running,), timeout=DEADLINE_SECONDS)
        assert done
    for _ in range(100):
        await asyncio.sleep(0)  # asyncio goes on with what it began
    await until(lambda: not runs_with(str(tmp_path)))


async def test_a_command_runs_on_while_it_is_given_more_time() -> None:
    more = iter((0.01, 0.01, 60.0))
    assert (await run("sleep 0.2; exit 3", 0.01, more_seconds=lambda: next(more))).exit_code == 3
