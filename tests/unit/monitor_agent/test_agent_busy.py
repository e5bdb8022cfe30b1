"""Leases: what makes an instance busy, what of it the controller hears, and that a broken source is not idleness."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_world import Ask, FakeController, FakeProc, RunAgent, Session, until

from asg.register.v1 import register_pb2
from monitor_agent.busy import MAX_LEASES, Busy, Lease
from monitor_agent.busy_sources import COMMAND, BusySources, established
from monitor_agent.faults import FaultsError
from monitor_agent.lease_files import FILES, MAX_FILES, LeaseFiles, WallClock
from monitor_agent.memory import Memory
from monitor_agent.session import NewLeases, SessionState
from monitor_agent.settings import Settings

HOUR = 3600.0
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0000 100 0 0 10 0
   1: 0100007F:0050 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0000 20 4 30 10 -1
   2: 0100007F:0050 0100007F:C351 06 00000000:00000000 00:00000000 00000000     0        0 3 1 0000 20 4 30 10 -1
   3: 0100007F:C350 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0000 20 4 30 10 -1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 0000000000000000FFFF00000100007F:01BB 0000000000000000FFFF00000100007F:C352 01 00000000:00000000 00:00000000
"""


class Clocks:
    """A monotonic clock and a wall clock that a test moves apart."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.stepped = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    def wall(self) -> float:
        return 1.7e9 + self.passed + self.stepped


def make_files(tmp_path: Path, clocks: Clocks, boot_id: str = "boot-1") -> LeaseFiles:
    """As an agent that starts makes them."""
    clock = WallClock(Memory(lambda: tmp_path / "clock.json", boot_id), clocks.wall, clocks.monotonic)
    return LeaseFiles(tmp_path / "busy.d", clock)


def make_busy(path: Path, clocks: Clocks, boot_id: str = "boot-1") -> Busy:
    busy = Busy(lambda: None, lambda: path, boot_id, clocks.monotonic)
    busy.expect(())
    return busy


def owners(busy: Busy) -> list[str]:
    held = busy.held()
    assert held is not None
    return [lease.owner for lease in held]


def post(busy: Busy, **document: object) -> None:
    busy.take(json.dumps(document).encode())


def write(directory: Path, name: str, text: str, at: float) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    os.utime(directory / name, (at, at))


async def leases_until(session: Session, *wanted: str) -> register_pb2.Leases:
    """The first Leases message with exactly these owners."""
    while True:
        leases: register_pb2.Leases = await session.next("leases")
        if {lease.owner for lease in leases.leases} == set(wanted):
            return leases


def test_a_lease_is_renewed_ends_in_time_and_outlives_the_agent_but_not_the_boot(tmp_path: Path) -> None:
    clocks, path = Clocks(), tmp_path / "busy.json"
    busy = make_busy(path, clocks)
    post(busy, owner="nightly", reason="report", seconds=60)
    post(busy, owner="shell", protect_from_scale_in=True)
    clocks.passed = 50
    post(busy, owner="nightly", reason="report", seconds=60)
    clocks.passed = 100
    assert busy.held() == (Lease("shell", "", None, True), Lease("nightly", "report", 1110.0))
    assert make_busy(path, clocks).held() == busy.held(), "a restart of the agent"
    assert make_busy(path, clocks, "boot-2").held() == ()
    clocks.passed = 110
    assert owners(busy) == ["shell"]
    assert busy.end(b'{"owner": "shell"}')
    assert not busy.end(b'{"owner": "shell"}')
    assert owners(make_busy(path, clocks)) == []


def test_a_lease_that_can_not_be_stored_is_held_all_the_same_and_told(tmp_path: Path) -> None:
    busy = make_busy(tmp_path / "missing" / "busy.json", Clocks())
    post(busy, owner="nightly")
    assert owners(busy) == ["nightly"]
    assert "No such file" in busy.faults()["http"]


def test_a_lease_that_ended_while_nothing_could_be_stored_does_not_come_back(tmp_path: Path) -> None:
    clocks, path = Clocks(), tmp_path / "busy.json"
    busy = make_busy(path, clocks)
    post(busy, owner="nightly")
    post(busy, owner="weekly")
    (tmp_path / "busy.new").mkdir()  # as a full disk would refuse it
    busy.end(b'{"owner": "nightly"}')
    assert "make room on its disk" in busy.faults()["http"]
    assert owners(make_busy(path, clocks)) == []
    (tmp_path / "busy.new").rmdir()
    post(busy, owner="shell")
    assert busy.faults() == {}
    assert owners(make_busy(path, clocks)) == ["shell", "weekly"]


def test_leases_of_the_last_run_that_can_not_be_read_are_told_and_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "busy.json").write_text('{"boot_id": "boot-1"')
    busy = make_busy(tmp_path / "busy.json", Clocks())
    assert busy.held() == ()
    assert "leases of the last run are lost" in busy.faults()["http"]


def test_what_is_left_out_of_a_message_ends_before_all_that_is_in_it(tmp_path: Path) -> None:
    busy = make_busy(tmp_path / "busy.json", Clocks())
    busy.expect(["files"])
    busy.set("files", [Lease(f"file-{number}", "", 1001.0 + number) for number in range(MAX_LEASES)])
    post(busy, owner="endless")
    post(busy, owner="protects", seconds=1, protect_from_scale_in=True)
    assert len(owners(busy)) == MAX_LEASES
    assert owners(busy)[:3] == ["protects", "endless", f"file-{MAX_LEASES - 1}"]
    for number in range(MAX_LEASES - 2):
        post(busy, owner=f"caller-{number}", seconds=HOUR)
    with pytest.raises(FaultsError, match="32 leases are held"):
        post(busy, owner="one-more")
    post(busy, owner="endless", seconds=1)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"busy", "body"),
        (b"[]", "body"),
        (b"{}", "owner"),
        (b'{"owner": ""}', "owner"),
        (b'{"owner": "a\\nb"}', "owner"),
        (b'{"owner": "\\ud800"}', "owner"),
        (b'{"owner": "a", "seconds": 0}', "seconds"),
        (b'{"owner": "a", "seconds": NaN}', "seconds"),
        (b'{"owner": "a", "seconds": true}', "seconds"),
        (b'{"owner": "a", "reason": 1}', "reason"),
        (b'{"owner": "a", "protect_from_scale_in": 1}', "protect_from_scale_in"),
        (b'{"owner": "a", "until": 1}', "until"),
    ],
)
def test_a_wrong_request_changes_nothing_and_hears_where(tmp_path: Path, body: bytes, where: str) -> None:
    busy = make_busy(tmp_path / "busy.json", Clocks())
    with pytest.raises(FaultsError) as caught:
        busy.take(body)
    assert [fault.where for fault in caught.value.faults] == [where]
    assert busy.held() == ()


def test_files_are_leases_and_their_seconds_count_from_when_they_were_written(tmp_path: Path) -> None:
    clocks, directory = Clocks(), tmp_path / "busy.d"
    files = make_files(tmp_path, clocks)
    assert files.read() == ([], "")
    write(directory, "job-7", "encoding  a film\nseconds: 60\n", clocks.wall() - 20)
    write(directory, "shell", "", clocks.wall())
    write(directory, ".job-8.new", "half written", clocks.wall())
    first = [Lease("job-7", "encoding a film", 1040.0), Lease("shell", "its file is there")]
    assert files.read() == (first, "")
    clocks.passed, clocks.stepped = 10, -HOUR
    assert files.read() == (first, ""), "a clock that is set back moves no end of a file that was read"
    write(directory, "job-7", "encoding\nseconds: 60\n", clocks.wall() + HOUR)
    assert files.read()[0][0].ends_at == 1070.0, "a file of the future counts from now"
    (directory / "job-7").unlink()
    assert [lease.owner for lease in files.read()[0]] == ["shell"]


def test_a_file_that_is_not_understood_holds_until_it_is_gone(tmp_path: Path) -> None:
    clocks, directory = Clocks(), tmp_path / "busy.d"
    files = make_files(tmp_path, clocks)
    write(directory, "job", "encoding\nseconds: soon\n", clocks.wall())
    leases, fault = files.read()
    assert leases == [Lease("job", "encoding")]
    assert "job: its second line is not `seconds: N`" in fault
    (directory / "job").unlink()
    os.mkfifo(directory / "pipe")
    leases, fault = files.read()
    assert leases == [Lease("pipe", "its file can't be read")]
    assert "not a regular file" in fault
    (directory / "pipe").rename(directory / "job:42")
    write(directory, "x" * 65, "seconds: 60", clocks.wall())
    leases, fault = files.read()
    assert leases == [Lease(FILES, "a file that is not well named")], "one for all of them"
    assert "job:42: name it by" in fault


def test_after_a_step_of_the_clock_a_file_that_is_read_first_holds_as_long_as_one_written_now(
    tmp_path: Path,
) -> None:
    clocks, directory = Clocks(), tmp_path / "busy.d"
    make_files(tmp_path, clocks)
    write(directory, "job", "encoding\nseconds: 3600\n", clocks.wall())
    clocks.stepped, clocks.passed = 2 * HOUR, 60
    assert make_files(tmp_path, clocks).read() == ([Lease("job", "encoding", 1060.0 + HOUR)], "")
    assert make_files(tmp_path, clocks, "boot-2").read() == ([], ""), (
        "the next boot begins with the clock as it is"
    )


def test_files_whose_lease_has_ended_hide_no_other_and_those_beyond_the_limit_hold_one_without_an_end(
    tmp_path: Path,
) -> None:
    clocks, directory = Clocks(), tmp_path / "busy.d"
    files = make_files(tmp_path, clocks)
    for number in range(MAX_FILES + 10):
        write(directory, f"done-{number}", "\nseconds: 60\n", clocks.wall() - HOUR)
    write(directory, "job", "encoding", clocks.wall())
    assert files.read() == ([Lease("job", "encoding")], "")
    for number in range(MAX_FILES):
        write(directory, f"e-{number}", "\nseconds: 60\n", clocks.wall())
    leases, fault = files.read()
    assert (len(leases), leases[-1]) == (MAX_FILES + 1, Lease(FILES, "more files than are read"))
    assert f"only {MAX_FILES} leases" in fault
    clocks.passed = 60
    assert files.read() == ([Lease("job", "encoding")], "")


def test_only_established_connections_to_the_named_local_ports_count(proc: FakeProc) -> None:
    proc.write("net/tcp", TCP)
    assert established(proc.path, (80, 443)) == 1, "without IPv6"
    proc.write("net/tcp6", TCP6)
    assert established(proc.path, (80, 443)) == 2
    assert established(proc.path, (22,)) == 0


async def test_every_source_reaches_the_controller_and_so_does_its_end(
    controller: FakeController, run_agent: RunAgent, proc: FakeProc, tmp_path: Path
) -> None:
    proc.write("net/tcp", TCP)
    write(tmp_path / "busy.d", "job", "encoding\nseconds: 3600\n", time.time())
    script = f"while ! [ -e {tmp_path}/go ]; do sleep 0.02; done; echo 3 jobs"
    async with run_agent(
        controller.port, busy_command=("/bin/sh", "-c", script), busy_connection_ports=(80,)
    ):
        session = await controller.next_session()
        kinds: list[str | None] = []
        while "heartbeat" not in kinds:
            kinds.append((await session.messages.get()).WhichOneof("message"))
        assert "leases" not in kinds, "not before every source has spoken"
        (tmp_path / "go").touch()
        leases = {lease.owner: lease for lease in (await session.next("leases")).leases}
        assert set(leases) == {"job", "command", "connections"}
        assert (leases["job"].reason, leases["job"].protect_from_scale_in) == ("encoding", False)
        assert 0 < leases["job"].seconds <= 3600
        assert leases["command"].reason == "3 jobs"
        assert not leases["command"].HasField("seconds")
        assert leases["connections"].reason == "more than 0 connections to port 80"
        (tmp_path / "busy.d" / "job").unlink()
        await leases_until(session, "command", "connections")
        session.answers.put_nowait(None)
        await leases_until(await controller.next_session(), "command", "connections")


async def test_renewals_are_spaced_and_the_last_one_is_sent(tmp_path: Path) -> None:
    woken = asyncio.Event()
    busy = make_busy(tmp_path / "busy.json", Clocks())
    patient, quick = NewLeases(busy, woken.set, 3600.0), NewLeases(busy, woken.set, 0.01)
    assert (patient.next(), quick.next()) == ((), ())
    for number in range(100):
        post(busy, owner="nightly", seconds=1 + number)
        assert patient.next() is None
    while (last := quick.next()) is None:
        await woken.wait()
        woken.clear()
    assert last == (Lease("nightly", "", 1100.0),)


async def test_a_directory_that_can_not_be_read_ends_no_lease(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    write(tmp_path / "busy.d", "job", "encoding", time.time())
    async with run_agent(controller.port) as agent:
        await until(lambda: bool(agent.busy.held()))
        (tmp_path / "busy.d").rename(tmp_path / "away")
        (tmp_path / "busy.d").touch()
        await until(lambda: "Not a directory" in agent.busy.faults().get("files", ""))
        assert owners(agent.busy) == ["job"]


async def test_no_sample_is_sent_before_the_leases_are_known(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    script = f"while ! [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 1"
    async with run_agent(controller.port, busy_command=("/bin/sh", "-c", script)):
        session = await controller.next_session()
        kinds: list[str | None] = []
        while kinds.count("heartbeat") < 3:
            kinds.append((await session.messages.get()).WhichOneof("message"))
        (tmp_path / "go").touch()
        while "sample" not in kinds:
            kinds.append((await session.messages.get()).WhichOneof("message"))
        assert kinds[-2:] == ["leases", "sample"]


async def test_a_command_that_fails_from_the_start_is_not_idleness(
    controller: FakeController, run_agent: RunAgent
) -> None:
    async with run_agent(controller.port, busy_command=("/bin/sh", "-c", "exit 2")) as agent:
        session = await controller.next_session()
        (lease,) = (await session.next("leases")).leases
        assert (lease.owner, lease.reason, lease.HasField("seconds")) == ("command", "not known yet", False)
        assert "exit code 2" in agent.busy.faults()["command"]


@asynccontextmanager
async def asked(tmp_path: Path, command: str, **options: float) -> AsyncIterator[tuple[Busy, BusySources]]:
    """The sources of an agent whose busy command is this script, asked once an hour."""
    settings = Settings(
        busy_command=("/bin/sh", "-c", command),
        busy_command_interval_seconds=HOUR,
        busy_command_timeout_seconds=60.0,
        busy_directory=tmp_path / "busy.d",
        state_dir=tmp_path,
    )
    busy = Busy(lambda: None, lambda: tmp_path / "busy.json", "")
    sources = BusySources(settings, busy, WallClock(Memory(lambda: tmp_path / "clock.json", "")), **options)
    running = asyncio.ensure_future(sources.run())
    try:
        yield busy, sources
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_command_that_hangs_keeps_the_other_leases_back_for_a_while_only(tmp_path: Path) -> None:
    async with asked(tmp_path, "sleep 1000", first_answer_seconds=0.01) as (busy, _):
        await until(lambda: bool(busy.held()))
        assert owners(busy) == ["command"]
        assert busy.faults() == {"command": "has not answered yet"}


async def test_an_older_answer_takes_not_the_place_of_a_newer_one(tmp_path: Path) -> None:
    # The first run is the slow one, and says idle; what is asked meanwhile says busy.
    script = (
        f"if ! [ -e {tmp_path}/first ]; then touch {tmp_path}/first; "
        f"while ! [ -e {tmp_path}/go ]; do sleep 0.02; done; exit 1; fi; echo 3 jobs"
    )
    async with asked(tmp_path, script) as (busy, sources):
        await until((tmp_path / "first").exists)
        again = asyncio.ensure_future(sources.look_again())
        done, _ = await asyncio.wait((again,), timeout=0.2)
        assert not done
        (tmp_path / "go").touch()
        await again
        assert owners(busy) == ["command"]


async def test_what_a_reload_took_away_holds_no_lease_that_nobody_ends(tmp_path: Path) -> None:
    script = f"touch {tmp_path}/asked; while ! [ -e {tmp_path}/go ]; do sleep 0.02; done; echo working"
    async with asked(tmp_path, script) as (busy, sources):
        await until((tmp_path / "asked").exists)
        sources.close()
        busy.expect([FILES])
        (tmp_path / "go").touch()
        await sources.look_again()
        assert owners(busy) == []
        assert COMMAND not in busy.faults()


async def test_a_reload_keeps_the_ends_of_the_files_that_were_read(tmp_path: Path) -> None:
    clocks = Clocks()
    clock = WallClock(Memory(lambda: tmp_path / "clock.json", ""), clocks.wall, clocks.monotonic)
    settings = Settings(busy_directory=tmp_path / "busy.d")
    busy = make_busy(tmp_path / "busy.json", clocks)
    busy.expect([FILES])
    write(tmp_path / "busy.d", "job", "\nseconds: 3600\n", clocks.wall())
    sources = BusySources(settings, busy, clock)
    await sources.look_again()
    before = busy.held()
    clocks.stepped, clocks.passed = 2 * HOUR, 60
    await BusySources(settings, busy, clock, before=sources).look_again()
    assert (busy.held(), len(before or ())) == (before, 1)


async def test_an_idle_instance_says_so(controller: FakeController, run_agent: RunAgent) -> None:
    async with run_agent(controller.port, busy_command=("/bin/false",)):
        session = await controller.next_session()
        assert list((await session.next("leases")).leases) == []


async def test_a_command_that_breaks_holds_its_last_word_and_is_told(
    controller: FakeController, run_agent: RunAgent, ask: Ask, tmp_path: Path
) -> None:
    command = tmp_path / "is-busy"
    command.write_text("#!/bin/sh\necho working\n")
    command.chmod(0o755)
    async with run_agent(
        controller.port, busy_command=(str(command),), busy_command_interval_seconds=0.05
    ) as agent:
        session = await controller.next_session()
        await leases_until(session, "command")
        (tmp_path / "broken").write_text("#!/bin/sh\nexit 2\n")
        (tmp_path / "broken").chmod(0o755)
        (tmp_path / "broken").rename(command)
        await until(lambda: "exit code 2" in agent.busy.faults().get("command", ""))
        status, _, body = await ask(agent.http_port, "GET /busy")
        shown = json.loads(body)
        assert (status, shown["busy"], shown["leases"][0]["reason"]) == (200, True, "working")
        await until(lambda: agent.session.state is SessionState.UP)
        status, _, body = await ask(agent.http_port, "GET /healthz")
        assert (status, list(json.loads(body)["busy_faults"])) == (200, ["command"])
        command.unlink()
        await until(lambda: "No such file" in agent.busy.faults().get("command", ""))
        assert owners(agent.busy) == ["command"]


async def test_a_renewal_over_http_reaches_the_controller_with_its_new_end(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    controller.interval_seconds = 60.0  # no tick will come to carry it
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        await leases_until(session)
        for low, seconds in ((0, 100), (100, 1000)):
            body = json.dumps({"owner": "nightly", "reason": "report", "seconds": seconds}).encode()
            assert (await ask(agent.http_port, "POST /busy", body))[0] == 200
            (lease,) = (await leases_until(session, "nightly")).leases
            assert low < lease.seconds <= seconds
        status, _, answer = await ask(agent.http_port, "DELETE /busy", b'{"owner": "nightly"}')
        assert (status, json.loads(answer)) == (200, {"ended": True})
        await leases_until(session)


async def test_work_that_began_right_before_the_order_to_drain_is_told_before_its_end(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    directory = tmp_path / "leases"
    directory.mkdir()
    async with run_agent(controller.port, busy_directory=directory):
        session = await controller.next_session()
        await leases_until(session)
        (directory / "worker").touch()
        session.answers.put_nowait(register_pb2.SessionResponse(drain=register_pb2.Drain(timeout_seconds=60)))
        told: set[str] = set()
        while True:
            message = await session.messages.get()
            if message.HasField("leases"):
                told = {each.owner for each in message.leases.leases}
            if message.HasField("drain_progress") and message.drain_progress.finished:
                break
        assert told == {"worker"}


async def test_an_instance_that_drains_tells_its_leases_first_and_takes_no_new_one(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    async with run_agent(controller.port) as agent:
        session = await controller.next_session()
        await leases_until(session)

        async def lease(owner: str) -> int:
            return (await ask(agent.http_port, "POST /busy", json.dumps({"owner": owner}).encode()))[0]

        # So soon after each other that the second one's lease still waits for its turn when the drain is answered.
        assert (await lease("nightly"), await lease("weekly")) == (200, 200)
        session.answers.put_nowait(register_pb2.SessionResponse(drain=register_pb2.Drain(timeout_seconds=60)))
        told: set[str] = set()
        while True:
            message = await session.messages.get()
            if message.HasField("leases"):
                told = {each.owner for each in message.leases.leases}
            if message.HasField("drain_progress"):
                break
        assert told == {"nightly", "weekly"}
        assert (await lease("nightly"), await lease("monthly")) == (200, 409)
        session.answers.put_nowait(register_pb2.SessionResponse(resume=register_pb2.Resume()))
        await until(lambda: not agent.drain.ordered)
        assert await lease("monthly") == 200
