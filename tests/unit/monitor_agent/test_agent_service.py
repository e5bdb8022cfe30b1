"""The agent as a service: what systemd hears, the reload, the log, the command line and its exit codes."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from agent_world import DEADLINE_SECONDS, INSTANCE_ID, FakeController, RunAgent, until

from monitor_agent import __version__
from monitor_agent.log import EventFormatter
from monitor_agent.notify import Notifier
from monitor_agent.session import SessionState
from monitor_agent.settings import read_settings

pytestmark = pytest.mark.process


class NotifySocket:
    """systemd's end of NOTIFY_SOCKET; collects the messages that came."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        while True:
            try:
                self._heard.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path):
    listener = NotifySocket(tmp_path / "notify")
    yield listener
    listener.close()


def notifier(tmp_path: Path, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), **more})


async def test_ready_does_not_wait_for_the_controller(
    controller: FakeController, run_agent: RunAgent, systemd: NotifySocket, tmp_path: Path
) -> None:
    await controller.stop()
    async with run_agent(controller.port, notifier=notifier(tmp_path)) as agent:
        await until(lambda: "READY=1" in systemd.heard())
        await until(lambda: agent.session.state is SessionState.WAITING)
        assert any(line.startswith("STATUS=no session with 127.0.0.1") for line in systemd.heard())
        assert "WATCHDOG=1" not in systemd.heard()
    assert systemd.heard()[-1] == "STOPPING=1"


async def test_status_shows_the_session_and_the_watchdog_is_fed(
    controller: FakeController, run_agent: RunAgent, systemd: NotifySocket, tmp_path: Path
) -> None:
    controller.interval_seconds = 60.0
    fed = notifier(tmp_path, WATCHDOG_USEC="300000", WATCHDOG_PID=str(os.getpid()))
    async with run_agent(controller.port, notifier=fed) as agent:
        await until(lambda: agent.session.state is SessionState.UP)
        status = f"STATUS=in session with 127.0.0.1:{controller.port}, group web"
        await until(lambda: status in systemd.heard())
        before = systemd.heard().count("WATCHDOG=1")
        await until(lambda: systemd.heard().count("WATCHDOG=1") > before + 3)  # also between two samples


def test_a_watchdog_for_another_process_is_not_ours(tmp_path: Path) -> None:
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None
    assert Notifier({"WATCHDOG_USEC": "1000000"}).watchdog_seconds == 1


def config(path: Path, controller_port: int, *more: str) -> Path:
    lines = [
        f'controller_address = "127.0.0.1:{controller_port}"',
        f'instance_id = "{INSTANCE_ID}"',
        'monitor_listen = "127.0.0.1:0"',
        'http_listen = "127.0.0.1:0"',
        *more,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_a_reload_takes_over_new_settings_and_keeps_the_old_when_they_are_broken(
    controller: FakeController,
    run_agent: RunAgent,
    systemd: NotifySocket,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    file = config(tmp_path / "agent.toml", controller.port)
    settings = read_settings(file)
    other = FakeController()
    await other.start()
    async with run_agent(
        controller.port, config_path=file, notifier=notifier(tmp_path), state_dir=settings.state_dir
    ) as agent:
        await (await controller.next_session()).next("sample")
        config(file, controller.port, "sample_interval_seconds = 'often'", "colour = 'red'")
        agent.reload.set()
        await until(lambda: any("settings file refused" in line for line in systemd.heard()))
        assert agent.session.controller == f"127.0.0.1:{controller.port}"
        assert systemd.heard().count("READY=1") == 2  # the start's, and the reload's end
        assert any(line.startswith("RELOADING=1\nMONOTONIC_USEC=") for line in systemd.heard())

        config(file, other.port, "drain_command = ['/bin/true']")
        agent.reload.set()
        session = await other.next_session()
        await session.next("hello")
        assert agent.settings.drain_command == ("/bin/true",)
        await until(lambda: "settings file refused" not in systemd.heard()[-1])
    await other.stop()
    (refused,) = [record for record in caplog.records if record.getMessage() == "settings_refused"]
    assert refused.levelno == logging.ERROR
    assert "colour: unknown key" in refused.values["faults"]  # type: ignore[attr-defined]


async def test_a_reload_of_a_command_starts_the_new_one(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    file = config(tmp_path / "agent.toml", controller.port)

    def value(agent: object, name: str) -> float | None:
        reading = agent.latest.reading()  # type: ignore[attr-defined]
        return reading.application.get(name) if reading else None

    async with run_agent(
        controller.port, config_path=file, application_command=("/bin/echo", "one 1")
    ) as agent:
        await until(lambda: value(agent, "one") == 1)
        config(file, controller.port, "application_command = ['/bin/echo', 'two 2']")
        agent.reload.set()
        await until(lambda: value(agent, "two") == 2)
        assert value(agent, "one") is None


async def test_a_drain_waits_for_the_sources_that_a_reload_put_in_place(
    controller: FakeController, run_agent: RunAgent, tmp_path: Path
) -> None:
    def busy(name: str) -> str:
        wait = f"until [ -e {tmp_path}/{name} ]; do sleep 0.02; done"
        return f"touch {tmp_path}/asked-{name}; {wait}; echo {name}"

    def asked(name: str) -> bool:
        return (tmp_path / f"asked-{name}").exists()

    more = ("busy_command_interval_seconds = 3600", "busy_command_timeout_seconds = 3600")
    file = config(
        tmp_path / "agent.toml", controller.port, f'busy_command = ["/bin/sh", "-c", "{busy("new")}"]', *more
    )
    async with run_agent(
        controller.port,
        config_path=file,
        busy_command=("/bin/sh", "-c", busy("old")),
        busy_command_timeout_seconds=3600,
    ) as agent:
        await until(lambda: asked("old"))
        looking = asyncio.ensure_future(agent._look_again())
        await asyncio.sleep(0)
        agent.reload.set()
        await until(lambda: asked("new"))
        (tmp_path / "old").touch()
        done, _ = await asyncio.wait((looking,), timeout=0.3)
        assert not done
        (tmp_path / "new").touch()
        await looking
        assert [lease.reason for lease in agent.busy.held()] == ["new"]


async def test_a_port_that_is_taken_is_an_error_that_names_it(
    controller: FakeController, run_agent: RunAgent
) -> None:
    from monitor_agent.settings import Address

    with pytest.raises(ExceptionGroup) as caught:
        async with run_agent(controller.port, monitor_listen=Address("127.0.0.1", controller.port)):
            pass
    (error,) = caught.value.exceptions
    assert f"can't listen on 127.0.0.1:{controller.port}" in str(error)


def test_a_line_has_the_event_then_its_values_and_a_priority_for_journald() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "session_lost", None, None)
    record.values = {
        "controller": "10.0.0.4:7402",
        "reason": 'it "left"\nat once',
        "seconds": 1.5,
        "empty": "",
    }
    expected = 'session_lost controller=10.0.0.4:7402 reason="it \\"left\\"\\nat once" seconds=1.5 empty=""'
    assert EventFormatter(priorities=True).format(record) == "<4>" + expected
    assert EventFormatter(priorities=False).format(record) == "warning: " + expected


def run_cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "monitor_agent", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_config_is_0_for_a_right_file_and_2_with_all_faults_for_a_wrong_one(tmp_path: Path) -> None:
    right = run_cli("check-config", str(config(tmp_path / "right.toml", 7402)))
    assert (right.returncode, right.stdout, right.stderr) == (0, "", "")
    wrong = run_cli("check-config", str(config(tmp_path / "wrong.toml", 7402, "stat_dir = 1", "region = 5")))
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 2
    assert "did you mean state_dir?" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert run_cli("check-config", str(tmp_path / "none.toml")).returncode == 2
    assert run_cli("serve", "--config", str(tmp_path / "none.toml")).returncode == 2
    assert run_cli("fly").returncode == 2


def test_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert run_cli("--version").stdout == f"monitor-agent {version('controller-asg')}\n"
    assert __version__ == version("controller-asg")


async def test_the_command_serves_until_sigterm_and_imports_no_ssl(
    controller: FakeController, tmp_path: Path
) -> None:
    file = config(tmp_path / "agent.toml", controller.port)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys, monitor_agent.__main__ as main; code = main.main(sys.argv[1:]); "
        "print('ssl', bool(sys.modules.get('ssl')), bool(sys.modules.get('_hashlib'))); sys.exit(code)",
        "serve",
        "--config",
        str(file),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    session = await controller.next_session()
    await session.next("sample")
    process.send_signal(signal.SIGHUP)
    await session.next("heartbeat")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    assert controller.unregistered.qsize() == 1
    assert out == b"ssl False False\n"  # 4.4 MiB
    assert b"Traceback" not in log
