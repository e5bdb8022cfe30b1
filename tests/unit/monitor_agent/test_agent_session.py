"""The session, as the controller sees it: a whole agent against a real RegisterService."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agent_world import INSTANCE_ID, Ask, FakeController, FakeHttp, FakeProc, Relay, RunAgent, until

from asg.register.v1 import register_pb2
from monitor_agent.busy import Busy, Lease
from monitor_agent.channel import open_channel
from monitor_agent.drain import Drain
from monitor_agent.hooks import Hooks
from monitor_agent.identity import Imds
from monitor_agent.latest import Latest
from monitor_agent.locate import Locator
from monitor_agent.memory import Memory
from monitor_agent.session import AgentFacts, ControllerSession, SessionState, backoff_seconds
from monitor_agent.settings import Address, Settings


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    return [record.values for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


async def look_nowhere() -> None:
    return None


def make_session(
    controller_port: int = 1, state_dir: Path = Path("/nowhere"), **options: Any
) -> tuple[ControllerSession, Drain, Busy]:
    settings = Settings(controller_address=Address("127.0.0.1", controller_port), state_dir=state_dir)
    latest = Latest(lambda: 0.0)

    async def instance_id() -> str:
        return INSTANCE_ID

    memory = Memory(lambda: settings.state_dir / "drain.json", "")
    drain = Drain(tuple, tuple, lambda: settings.state_dir, look_nowhere, latest.wake.set, memory)
    busy = Busy(latest.wake.set, lambda: settings.state_dir / "busy.json", "")
    session = ControllerSession(
        Locator(settings, Imds(settings.imds_url)),
        instance_id,
        latest,
        drain,
        Hooks(lambda: settings.hooks_directory, lambda: settings.state_dir, latest.wake.set),
        busy,
        AgentFacts(monitor_port=7401, agent_version="1", boot_id=""),
        **options,
    )
    return session, drain, busy


class Stream:
    """The writing side of a session's stream, on which `meanwhile` happens while the leases of one owner are sent."""

    def __init__(self, owner: str, meanwhile: Callable[[], None]) -> None:
        self._owner, self._meanwhile = owner, meanwhile
        self.written: list[register_pb2.SessionRequest] = []

    async def write(self, request: register_pb2.SessionRequest) -> None:
        self.written.append(request)
        if [lease.owner for lease in request.leases.leases] == [self._owner]:
            self._meanwhile()


async def test_an_agent_registers_says_hello_and_sends_a_sample(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        hello = (await session.next("hello")).identity
        sample = await session.next("sample")
        assert hello == controller.registered[0]
        assert (hello.instance_id, hello.monitor_port) == (INSTANCE_ID, agent.monitor_port)
        assert hello.boot_id == "11111111-2222-3333-4444-555555555555"
        assert sample.sequence == 1
        assert sample.memory_percent == pytest.approx(25)
        await until(lambda: agent.session.state is SessionState.UP)
        assert agent.session.group == "web"


async def test_values_that_rest_are_heartbeats_and_one_that_moves_is_a_sample(
    controller: FakeController, run_agent: RunAgent, proc: FakeProc
) -> None:
    async with run_agent(controller.port):
        session = await controller.next_session()
        first = await session.next("sample")
        beat = await session.next("heartbeat")
        assert beat.sequence > first.sequence
        proc.write("meminfo", "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n")
        sample = await session.next("sample")
        assert sample.memory_percent == pytest.approx(50)
        assert sample.sequence > beat.sequence
        assert (await session.next("heartbeat")).sequence == sample.sequence + 1


async def test_an_override_is_sent_at_once_and_so_is_its_end(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    controller.interval_seconds = 60.0  # no tick will come to carry it
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        await session.next("sample")
        status, _, _ = await ask(agent.http_port, "POST /set-metric", b'{"metric": 91}')
        assert status == 200
        sample = await session.next("sample")
        while not sample.overridden:
            sample = await session.next("sample")
        assert sample.cpu_percent == 91
        await ask(agent.http_port, "POST /set-metric", b'{"metric": null}')
        assert not (await session.next("sample")).overridden


async def test_the_controllers_interval_takes_effect_in_the_session(
    controller: FakeController, run_agent: RunAgent
) -> None:
    controller.interval_seconds = 60.0
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        await session.next("sample")
        settings = register_pb2.AgentSettings(sample_interval_seconds=0.1)
        session.answers.put_nowait(register_pb2.SessionResponse(settings=settings))
        for _ in range(3):
            await session.next("heartbeat")
        assert agent.interval_seconds() == pytest.approx(0.1)
        # One out of bounds is not taken over.
        settings = register_pb2.AgentSettings(sample_interval_seconds=1e-9)
        session.answers.put_nowait(register_pb2.SessionResponse(settings=settings))
        await session.next("heartbeat")
        assert agent.interval_seconds() == pytest.approx(0.1)


async def test_a_session_that_the_controller_ends_is_followed_by_another(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port):
        (await controller.next_session()).answers.put_nowait(None)
        second = await controller.next_session()
        assert (await second.next("hello")).identity.instance_id == INSTANCE_ID
        assert (await second.next("sample")).sequence == 1
        assert len(controller.registered) == 2


async def test_an_agent_outlives_its_controller_and_finds_it_again(
    controller: FakeController, run_agent: RunAgent, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_agent(controller.port) as agent:
        await (await controller.next_session()).next("sample")
        port = controller.port
        await controller.stop()
        await until(lambda: agent.session.state is not SessionState.UP)
        ticks = agent.latest.ticks
        await until(lambda: agent.latest.ticks > ticks)  # it samples all the while
        await controller.start(port)
        await (await controller.next_session()).next("sample")
    assert events(caplog, "session_lost")


async def test_a_controller_that_is_frozen_while_tcp_lives_is_noticed(
    controller: FakeController, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(controller.port)
    await relay.start()
    session, _, _ = make_session(relay.port, connect=partial(open_channel, keepalive_ms=200, timeout_ms=100))
    running = asyncio.ensure_future(session.run())
    await until(lambda: session.state is SessionState.UP)
    relay.freeze()
    await until(lambda: session.state is not SessionState.UP)
    assert "ping timeout" in events(caplog, "session_lost")[0]["reason"]
    relay.thaw()
    await until(lambda: session.state is SessionState.UP)
    running.cancel()
    await relay.stop()


async def test_an_agent_starts_before_its_controller(run_agent: RunAgent) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    late = FakeController()
    async with run_agent(port) as agent:
        await until(lambda: agent.session.state is SessionState.WAITING)
        assert "UNAVAILABLE" in agent.session.reason
        await late.start(port)
        await (await late.next_session()).next("hello")
    await late.stop()


async def test_a_refusal_is_logged_once_and_tried_again(
    controller: FakeController, run_agent: RunAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    controller.refuse = (grpc.StatusCode.PERMISSION_DENIED, "10.0.0.7 is not i-0123456789abcdef0")
    async with run_agent(controller.port) as agent:
        await until(lambda: controller.refusals >= 2)
        assert "is not i-0123456789abcdef0" in agent.session.reason
        controller.refuse = None
        await (await controller.next_session()).next("hello")
    assert [event["reason"] for event in events(caplog, "session_refused")] == [
        "PERMISSION_DENIED: 10.0.0.7 is not i-0123456789abcdef0"
    ]


async def test_a_clean_stop_unregisters_as_stopping(controller: FakeController, run_agent: RunAgent) -> None:
    async with run_agent(controller.port) as agent:
        await until(lambda: agent.session.state is SessionState.UP)
    request = controller.unregistered.get_nowait()
    assert (request.instance_id, request.reason) == (INSTANCE_ID, register_pb2.UNREGISTER_REASON_STOPPING)


async def test_a_command_that_is_killed_while_the_agent_stops_is_no_end_to_tell(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    command = ("/bin/sh", "-c", f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep 1000")
    async with run_agent(controller.port, drain_command=command) as agent:
        session = await controller.next_session()
        session.answers.put_nowait(register_pb2.SessionResponse(drain=register_pb2.Drain(timeout_seconds=60)))
        pid = tmp_path / "pid"
        await until(pid.exists)
        await until(lambda: agent.session.state is SessionState.UP)
        controller.goodbye.clear()
        agent.stop.set()
        await until(lambda: not controller.unregistered.empty())
        os.killpg(int(pid.read_text()), signal.SIGTERM)
        await until(lambda: agent.drain.report.exit_code == -signal.SIGTERM)
        # The writer would have its turn before this.
        await until(lambda: not agent.latest.wake.is_set())
        controller.goodbye.set()
    told = [session.messages.get_nowait() for _ in range(session.messages.qsize())]
    assert not any(message.drain_progress.finished for message in told)


async def test_a_stop_with_a_session_that_just_broke_is_clean(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port) as agent:
        await until(lambda: agent.session.state is SessionState.UP)
        agent.stop.set()
        await controller.stop()


async def test_the_instance_id_is_asked_until_metadata_answers(
    controller: FakeController, run_agent: RunAgent, imds: FakeHttp
) -> None:
    page = imds.pages.pop("GET /latest/meta-data/instance-id")
    async with run_agent(controller.port, instance_id=None, imds_url=imds.url) as agent:
        await until(lambda: "instance-id: HTTP 404" in agent.session.reason)
        imds.pages["GET /latest/meta-data/instance-id"] = page
        session = await controller.next_session()
        assert (await session.next("hello")).identity.instance_id == INSTANCE_ID


async def test_a_drain_from_the_session_runs_the_command_and_reports(
    controller: FakeController, run_agent: RunAgent
) -> None:
    command = ("/bin/sh", "-c", "echo emptied; exit 3")
    async with run_agent(controller.port, drain_command=command):
        session = await controller.next_session()
        drain = register_pb2.Drain(timeout_seconds=60, reason="scale in")
        session.answers.put_nowait(register_pb2.SessionResponse(drain=drain))
        progress = await session.next("drain_progress")
        while not progress.finished:
            progress = await session.next("drain_progress")
        assert (progress.exit_code, progress.output) == (3, "emptied\n")


async def test_a_drain_past_its_limit_is_killed_and_has_no_exit_code(
    controller: FakeController, run_agent: RunAgent
) -> None:
    command = ("/bin/sh", "-c", "seq 5000; echo waiting; sleep 1000")
    async with run_agent(controller.port, drain_command=command):
        session = await controller.next_session()
        drain = register_pb2.Drain(timeout_seconds=0.5, reason="scale in")
        session.answers.put_nowait(register_pb2.SessionResponse(drain=drain))
        progress = await session.next("drain_progress")
        while not progress.finished:
            progress = await session.next("drain_progress")
        assert not progress.HasField("exit_code")
        assert progress.output.endswith("waiting\n")
        assert len(progress.output) == 4096


async def test_a_drain_that_ends_while_leases_are_sent_is_told_after_those_it_found() -> None:
    session, drain, busy = make_session()
    busy.expect(["files"])

    def end() -> None:
        busy.set("files", [Lease("old", ""), Lease("new", "")])
        drain._tell(finished=True, exit_code=0)

    stream = Stream("old", end)
    busy.set("files", [Lease("old", "")])
    drain._tell(finished=False)
    writing = asyncio.ensure_future(session._write(stream, register_pb2.AgentIdentity()))  # type: ignore[arg-type]
    await until(lambda: stream.written[-1:] != [] and stream.written[-1].drain_progress.finished)
    writing.cancel()
    (told, *_) = [message.leases for message in reversed(stream.written) if message.HasField("leases")]
    assert [lease.owner for lease in told.leases] == ["new", "old"]


async def test_a_resume_while_leases_are_sent_leaves_no_end_to_tell() -> None:
    session, drain, busy = make_session()
    busy.expect(["files"])

    def resume() -> None:
        drain.resume("it serves")
        busy.set("files", [Lease("new", "")])

    stream = Stream("old", resume)
    busy.set("files", [Lease("old", "")])
    drain._tell(finished=True, exit_code=0)
    running = asyncio.ensure_future(drain.run())
    writing = asyncio.ensure_future(session._write(stream, register_pb2.AgentIdentity()))  # type: ignore[arg-type]
    await until(lambda: sum(message.HasField("leases") for message in stream.written) == 2)
    for task in (writing, running):
        task.cancel()
    assert not any(message.HasField("drain_progress") for message in stream.written)


async def test_an_order_that_joins_a_drain_is_answered(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port, drain_command=("/bin/sleep", "1000")):
        session = await controller.next_session()
        for _ in range(2):
            drain = register_pb2.Drain(timeout_seconds=60)
            session.answers.put_nowait(register_pb2.SessionResponse(drain=drain))
            assert not (await session.next("drain_progress")).finished


async def test_an_agent_that_was_started_anew_gives_no_lease_until_it_is_told_and_claims_no_drain(
    controller: FakeController, run_agent: RunAgent, ask: Ask, tmp_path: Path
) -> None:
    ordered = register_pb2.SessionResponse(drain=register_pb2.Drain(timeout_seconds=60))
    runs = tmp_path / "runs"
    command = ("/bin/sh", "-c", f"echo run >> {runs}")
    async with run_agent(controller.port, drain_command=command) as agent:
        (await controller.next_session()).answers.put_nowait(ordered)
        await until(lambda: agent.drain.report is not None and agent.drain.report.finished)
    async with run_agent(controller.port, drain_command=command) as agent:
        assert (await ask(agent.http_port, "POST /busy", b'{"owner": "nightly"}'))[0] == 409
        assert b'"draining": true' in (await ask(agent.http_port, "GET /busy"))[2]
        session = await controller.next_session()
        kinds = [(await session.messages.get()).WhichOneof("message") for _ in range(5)]
        assert "drain_progress" not in kinds
        session.answers.put_nowait(ordered)
        while not (await session.next("drain_progress")).finished:
            pass
        assert runs.read_text() == "run\nrun\n"
        session.answers.put_nowait(register_pb2.SessionResponse(resume=register_pb2.Resume()))
        await until(lambda: not agent.drain.ordered)
    async with run_agent(controller.port) as agent:
        assert (await ask(agent.http_port, "POST /busy", b'{"owner": "nightly"}'))[0] == 200


@pytest.mark.parametrize(("boot_id", "ordered"), [("boot-1", True), ("boot-2", False)])
def test_an_order_is_remembered_until_the_next_boot(tmp_path: Path, boot_id: str, ordered: bool) -> None:
    def make(boot_id: str) -> Drain:
        memory = Memory(lambda: tmp_path / "drain.json", boot_id)
        return Drain(tuple, tuple, lambda: tmp_path, look_nowhere, lambda: None, memory)

    before = make("boot-1")
    before._set_ordered(True)
    assert make(boot_id).ordered is ordered
    (tmp_path / "drain.json").write_text("{")
    assert not make(boot_id).ordered


async def test_an_order_that_nobody_gives_again_is_forgotten(
    controller: FakeController, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "drain.json").write_text('{"boot_id": "", "ordered": true}')
    session, drain, _ = make_session(controller.port, tmp_path, order_again_seconds=0.01)
    assert drain.ordered
    running = asyncio.ensure_future(session.run())
    await until(lambda: not drain.ordered)
    running.cancel()
    assert events(caplog, "drain_forgotten")
    _, drain, _ = make_session(state_dir=tmp_path)
    assert not drain.ordered


async def test_without_a_drain_command_the_instance_may_go_at_once(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port):
        session = await controller.next_session()
        drain = register_pb2.Drain(timeout_seconds=60)
        session.answers.put_nowait(register_pb2.SessionResponse(drain=drain))
        progress = await session.next("drain_progress")
        while not progress.finished:
            progress = await session.next("drain_progress")
        assert progress.exit_code == 0


async def test_a_new_session_hears_again_that_the_instance_is_drained(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        session.answers.put_nowait(register_pb2.SessionResponse(drain=register_pb2.Drain(timeout_seconds=60)))
        while not (await session.next("drain_progress")).finished:
            pass
        port = controller.port
        await controller.stop()
        await controller.start(port)
        session = await controller.next_session()
        assert (await session.next("drain_progress")).finished
        session.answers.put_nowait(register_pb2.SessionResponse(resume=register_pb2.Resume()))
        await until(lambda: not agent.drain.ordered)
        await controller.stop()
        await controller.start(port)
        session = await controller.next_session()
        kinds = [(await session.messages.get()).WhichOneof("message") for _ in range(5)]
        assert "drain_progress" not in kinds


@pytest.mark.parametrize(
    ("attempt", "low", "high"), [(0, 0.0, 0.2), (3, 0.0, 1.6), (9, 0.0, 10.0), (10**6, 0.0, 10.0)]
)
def test_backoff_is_full_jitter_below_a_cap(attempt: int, low: float, high: float) -> None:
    assert backoff_seconds(attempt, refused=False, chance=0.0) == low
    assert backoff_seconds(attempt, refused=False, chance=1.0) == pytest.approx(high)


def test_a_refusal_is_repeated_slowly_but_within_ten_seconds() -> None:
    assert backoff_seconds(0, refused=True, chance=0.0) == pytest.approx(0.5)
    assert backoff_seconds(50, refused=True, chance=0.0) == pytest.approx(5)
    assert backoff_seconds(50, refused=True, chance=1.0) == pytest.approx(10)
