"""Lifecycle hooks on the instance, and the resume of one that was to be emptied."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_world import INSTANCE_ID, FakeController, RunAgent, Session, until

from asg.register.v1 import register_pb2
from monitor_agent.agent import Agent
from monitor_agent.hooks import AT_ONCE, MAX_UNFINISHED, Hooks
from monitor_agent.session import SessionState

OWNER = 4242  # whom the test's files belong to in place of root, so that it needs no privilege of its own


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "hooks.d"
    made.mkdir(mode=0o755)
    return made


def put(directory: Path, name: str, script: str, mode: int = 0o755) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(mode)


def order(token: str = "t1", command: str = "warm", seconds: float = 60.0) -> register_pb2.RunHook:
    return register_pb2.RunHook(
        token=token,
        command=command,
        timeout_seconds=seconds,
        transition="launch",
        hook="warm-caches",
        metadata='{"a": "b c"}',
    )


@asynccontextmanager
async def running(directory: Path, heartbeat_seconds: float = 60.0) -> AsyncIterator[Hooks]:
    hooks = Hooks(
        lambda: directory,
        lambda: directory,
        lambda: None,
        owner=os.geteuid(),
        heartbeat_seconds=heartbeat_seconds,
    )
    task = asyncio.create_task(hooks.run())
    try:
        yield hooks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def taken(hooks: Hooks) -> list[register_pb2.HookProgress]:
    """All that waits to be told, as a session would send it."""
    told = []
    while (progress := hooks.unsent()) is not None:
        told.append(progress)
        hooks.sent(progress)
    return told


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # empty: dead, and nobody has reaped it
    except OSError:
        return False


async def end_of(hooks: Hooks, token: str = "t1") -> register_pb2.HookProgress:
    told: list[register_pb2.HookProgress] = []

    def ended() -> bool:
        told.extend(progress for progress in taken(hooks) if progress.token == token)
        return bool(told) and told[-1].finished

    await until(ended)
    return told[-1]


async def end_in(session: Session, kind: str = "hook_progress") -> register_pb2.HookProgress:
    while not (progress := await session.next(kind)).finished:
        pass
    return progress  # type: ignore[no-any-return]


async def test_a_hook_runs_with_what_it_must_know_and_its_end_is_told_again_to_the_same_token(
    directory: Path,
) -> None:
    put(directory, "warm", f"env | grep ^ASG_ | sort; echo once >> {directory}/runs; echo oops >&2; exit 3")
    async with running(directory) as hooks:
        hooks.request(order(), "web", INSTANCE_ID)
        first = await end_of(hooks)
        *told, last = first.output.splitlines()
        assert (first.exit_code, last) == (3, "oops")
        environment = dict(line.split("=", 1) for line in told)
        assert 0 < float(environment.pop("ASG_DEADLINE_SECONDS")) <= 60
        assert environment == {
            "ASG_GROUP": "web",
            "ASG_INSTANCE_ID": INSTANCE_ID,
            "ASG_HOOK": "warm-caches",
            "ASG_TRANSITION": "launch",
            "ASG_METADATA": '{"a": "b c"}',
        }
        hooks.request(order(), "web", INSTANCE_ID)
        assert taken(hooks) == [first]
        hooks.request(order("t2"), "web", INSTANCE_ID)
        await end_of(hooks, "t2")
        assert (directory / "runs").read_text() == "once\nonce\n"


async def test_a_hook_past_its_limit_is_killed_with_its_children_and_has_no_exit_code(
    directory: Path,
) -> None:
    put(directory, "warm", f"sleep 1000 & echo $! > {directory}/child; seq 5000; echo waiting; wait")
    async with running(directory, heartbeat_seconds=0.05) as hooks:
        hooks.request(order(seconds=1.0), "web", INSTANCE_ID)
        beats = 0
        while not (told := taken(hooks)) or not told[-1].finished:
            beats += len(told)
            await asyncio.sleep(0.01)
        (end,) = told
        assert beats > 2, "it says that it runs while it does"
        assert not end.HasField("exit_code")
        assert (end.output[-8:], len(end.output)) == ("waiting\n", 4096)
        child = int((directory / "child").read_text())
        await until(lambda: not runs(child))


async def test_four_run_at_once_the_others_wait_and_their_time_runs(directory: Path) -> None:
    put(directory, "warm", f"echo . >> {directory}/begun; while ! [ -e {directory}/go ]; do sleep 0.02; done")
    async with running(directory) as hooks:
        for number in range(AT_ONCE):
            hooks.request(order(f"t{number}"), "web", INSTANCE_ID)
        begun = directory / "begun"
        await until(lambda: begun.exists() and len(begun.read_text().split()) == AT_ONCE)
        hooks.request(order("late", seconds=0.2), "web", INSTANCE_ID)
        hooks.request(order("next"), "web", INSTANCE_ID)
        end = await end_of(hooks, "late")
        assert not end.HasField("exit_code")
        assert "before one of the 4" in end.output
        assert len(begun.read_text().split()) == AT_ONCE
        (directory / "go").touch()
        assert (await end_of(hooks, "next")).exit_code == 0


async def test_all_hooks_that_a_group_may_have_wait_for_their_turn_and_more_are_refused(
    directory: Path,
) -> None:
    put(directory, "warm", f"while ! [ -e {directory}/go ]; do sleep 0.02; done")
    async with running(directory) as hooks:
        for number in range(50):
            hooks.request(order(f"t{number}"), "web", INSTANCE_ID)
        (directory / "go").touch()
        ended: dict[str, int] = {}

        def all_ended() -> bool:
            ended.update({told.token: told.exit_code for told in taken(hooks) if told.finished})
            return len(ended) == 50

        await until(all_ended)
        assert set(ended.values()) == {0}
        (directory / "go").unlink()
        for number in range(MAX_UNFINISHED):
            hooks.request(order(f"more{number}"), "web", INSTANCE_ID)
        hooks.request(order("one-more"), "web", INSTANCE_ID)
        assert (await end_of(hooks, "one-more")).output == f"{MAX_UNFINISHED} hooks run already"


async def test_an_order_given_again_lets_a_hook_have_its_time_anew(directory: Path) -> None:
    put(directory, "warm", f"while ! [ -e {directory}/go ]; do sleep 0.02; done")
    async with running(directory) as hooks:
        hooks.request(order(seconds=0.5), "web", INSTANCE_ID)
        hooks.request(order(seconds=60.0), "web", INSTANCE_ID)
        other = order("t2", seconds=0.5)
        hooks.request(other, "web", INSTANCE_ID)
        assert not (await end_of(hooks, "t2")).HasField("exit_code")
        (directory / "go").touch()
        assert (await end_of(hooks)).exit_code == 0


async def test_metadata_that_no_program_can_get_is_an_end_in_words(directory: Path) -> None:
    put(directory, "warm", "exit 0")
    async with running(directory) as hooks:
        wrong = order()
        wrong.metadata = "a\0b"
        hooks.request(wrong, "web", INSTANCE_ID)
        end = await end_of(hooks)
    expected = "notification_metadata holds a zero byte; remove it from the hook"
    assert (end.exit_code, end.output) == (126, expected)


@pytest.mark.parametrize(
    ("command", "exit_code", "what"),
    [
        ("missing", 127, "No such file or directory; put an executable file"),
        ("../warm", 127, "is no name of a file"),
        ("", 127, "is no name of a file"),
        ("link", 126, "is no regular file"),
        ("writable", 126, "chmod go-w"),
        ("not-executable", 126, "chmod a+rx"),
        ("nonsense", 126, "Exec format error"),
    ],
)
async def test_a_file_that_may_not_or_can_not_run_ends_with_the_mend(
    directory: Path, command: str, exit_code: int, what: str
) -> None:
    put(directory, "warm", f"touch {directory}/ran")
    put(directory, "writable", f"touch {directory}/ran", 0o775)
    put(directory, "not-executable", "", 0o644)
    (directory / "link").symlink_to(directory / "warm")
    (directory / "nonsense").write_text("\x00\x01")
    (directory / "nonsense").chmod(0o755)
    async with running(directory) as hooks:
        hooks.request(order(command=command), "web", INSTANCE_ID)
        end = await end_of(hooks)
    assert (end.exit_code, what in end.output) == (exit_code, True), end.output
    assert not (directory / "ran").exists()


async def test_nothing_of_another_owner_runs(directory: Path) -> None:
    put(directory, "warm", f"touch {directory}/ran")
    hooks = Hooks(lambda: directory, lambda: directory, lambda: None, owner=OWNER)
    task = asyncio.create_task(hooks.run())
    hooks.request(order(), "web", INSTANCE_ID)
    end = await end_of(hooks)
    task.cancel()
    assert (end.exit_code, "belongs to another than root" in end.output) == (126, True)
    assert not (directory / "ran").exists()


async def test_an_end_that_came_without_a_session_is_told_by_the_next_one(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    async with run_agent(controller.port, hooks_directory=tmp_path / "hooks.d") as agent:
        session = await controller.next_session()
        await session.next("hello")
        assert isinstance(agent, Agent)
        await until(lambda: agent.session.state is SessionState.UP)
        port = controller.port
        await controller.stop()
        await until(lambda: agent.session.state is not SessionState.UP)
        agent.hooks.request(order(), "web", INSTANCE_ID)
        await until(lambda: (told := agent.hooks.unsent()) is not None and told.finished)
        await controller.start(port)
        session = await controller.next_session()
        first = await end_in(session)
        assert (first.token, first.exit_code) == ("t1", 127)
        session.answers.put_nowait(register_pb2.SessionResponse(run_hook=order()))
        assert await end_in(session) == first


async def test_a_hook_that_runs_is_told_to_a_new_session(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        await session.next("hello")
        agent.hooks._tell(register_pb2.HookProgress(token="t1"))
        assert (await session.next("hook_progress")).token == "t1"
        session.answers.put_nowait(None)
        told = await (await controller.next_session()).next("hook_progress")
        assert (told.token, told.finished) == ("t1", False)


async def test_resume_stops_the_drain_without_telling_an_end_and_the_next_drain_is_a_new_one(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    drain = (
        "/bin/sh",
        "-c",
        f"echo drain >> {marks}; while ! [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 7",
    )
    resume = ("/bin/sh", "-c", f"echo resume >> {marks}")
    drained = register_pb2.SessionResponse(drain=register_pb2.Drain(timeout_seconds=60))
    resumed = register_pb2.SessionResponse(resume=register_pb2.Resume(reason="capacity is needed"))
    async with run_agent(controller.port, drain_command=drain, resume_command=resume):
        session = await controller.next_session()

        async def marked(*wanted: str) -> None:
            await until(lambda: marks.exists() and marks.read_text().split() == list(wanted))

        session.answers.put_nowait(drained)
        await marked("drain")
        session.answers.put_nowait(resumed)
        await marked("drain", "resume")
        session.answers.put_nowait(drained)
        await marked("drain", "resume", "drain")
        (tmp_path / "go").touch()
        assert (await end_in(session, "drain_progress")).exit_code == 7
