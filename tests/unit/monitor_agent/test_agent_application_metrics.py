"""The application's metrics: what is understood, and that a failed source is absent."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from agent_world import FakeHttp, until

from monitor_agent.application_metrics import ApplicationMetrics, parse_lines, parse_openmetrics
from monitor_agent.command import GRACE_SECONDS, run_command
from monitor_agent.latest import Latest
from monitor_agent.reading import MachineReading
from monitor_agent.settings import Settings

PAGE = """\
# HELP queue_depth Jobs that wait.
# TYPE queue_depth gauge
queue_depth{zone="b",queue="mail"} 12
queue_depth{queue="web"} 3 1700000000000
# TYPE jobs counter
jobs_total 1027 # {trace_id="x"} 1.0
jobs_created 1.7e9
# TYPE latency histogram
latency_bucket{le="0.1"} 8
latency_sum 1.5
latency_count 10
# TYPE http_requests_total counter
http_requests_total{path="/a\\"b} c"} 5
plain 1.5
broken
not_finite NaN
too_big +Inf
# EOF
"""


def test_gauges_counters_and_untyped_samples_are_taken_from_a_page() -> None:
    assert parse_openmetrics(PAGE)[0] == {
        'queue_depth{queue="mail",zone="b"}': 12,
        'queue_depth{queue="web"}': 3,
        "jobs_total": 1027,
        'http_requests_total{path="/a\\"b} c"}': 5,
        "plain": 1.5,
    }


def test_names_restrict_a_page_to_themselves() -> None:
    assert parse_openmetrics(PAGE, ("plain", "jobs_total")) == ({"plain": 1.5, "jobs_total": 1027}, "")


def test_no_more_than_sixty_four_are_taken() -> None:
    text = "".join(f"metric_{number} 1\n" for number in range(100))
    assert len(parse_openmetrics(text)[0]) == 64
    assert len(parse_lines(text)[0]) == 64


async def test_a_label_that_the_controller_would_refuse_is_left_out_and_told_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    latest = Latest(lambda: 0.0)
    latest.tick(MachineReading(0))
    runs = tmp_path / "runs"
    (tmp_path / "lines").write_text('queue{name="größe"} 3\nplain 1\n')
    settings = Settings(
        application_command=("/bin/sh", "-c", f"echo run >> {runs}; cat {tmp_path}/lines"),
        application_command_interval_seconds=0.01,
        state_dir=tmp_path,
    )
    task = asyncio.ensure_future(ApplicationMetrics(settings, latest).run())
    await until(lambda: runs.exists() and len(runs.read_text().split()) > 3)
    reading = latest.reading()
    assert reading is not None
    assert reading.application == {"plain": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (record,) = caplog.records
    assert "gr\\xf6" in record.values["reason"]  # type: ignore[attr-defined]


def test_both_sources_together_give_no_more_than_sixty_four() -> None:
    latest = Latest(lambda: 0.0)
    latest.tick(MachineReading(0))
    for source in ("command", "openmetrics"):
        latest.set_application(source, {f"{source}_{number}": 1.0 for number in range(64)})
    reading = latest.reading()
    assert reading is not None
    assert len(reading.application) == 64


def test_lines_of_name_and_value_are_metrics_and_others_are_not() -> None:
    text = 'queue 3\n\n  spaced   4.5 \nlabelled{b="2",a="x y"} 1\nno value\nnan NaN\n1bad 3\nneg -2e3\n'
    assert parse_lines(text)[0] == {"queue": 3, "spaced": 4.5, 'labelled{a="x y",b="2"}': 1, "neg": -2000}


def application(latest: Latest) -> dict[str, float]:
    reading = latest.reading()
    return dict(reading.application) if reading else {}


@pytest.fixture
def latest() -> Latest:
    latest = Latest(lambda: 0.0)
    latest.tick(MachineReading(0))
    return latest


async def test_a_command_and_a_page_are_read_and_a_failed_one_is_absent(
    latest: Latest, fake_http: FakeHttp, tmp_path: Path
) -> None:
    fake_http.pages["GET /metrics"] = (200, b"from_page 2\n")
    failing = tmp_path / "failing"
    settings = Settings(
        application_command=("/bin/sh", "-c", f"test ! -e {failing} && echo from_command 1"),
        application_command_interval_seconds=0.5,
        application_command_timeout_seconds=0.5,
        application_openmetrics_url=f"{fake_http.url}/metrics",
        application_openmetrics_interval_seconds=0.5,
    )
    task = asyncio.ensure_future(ApplicationMetrics(settings, latest).run())
    await until(lambda: application(latest) == {"from_command": 1, "from_page": 2})
    failing.touch()
    await until(lambda: application(latest) == {"from_page": 2})
    fake_http.pages["GET /metrics"] = (500, b"")
    await until(lambda: application(latest) == {})
    fake_http.pages["GET /metrics"] = (200, b"from_page 3\n")
    await until(lambda: application(latest) == {"from_page": 3})
    task.cancel()
    await asyncio.wait([task])
    assert application(latest) == {}


async def test_a_command_that_hangs_is_killed_with_its_children(latest: Latest, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    settings = Settings(
        application_command=("/bin/sh", "-c", f"sleep 1000 & echo $! > {pid_file}; wait"),
        application_command_interval_seconds=0.5,
        application_command_timeout_seconds=0.1,
    )
    task = asyncio.ensure_future(ApplicationMetrics(settings, latest).run())
    await until(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
    pid = int(pid_file.read_text())
    await until(lambda: is_gone(pid))
    task.cancel()


async def test_a_command_cancelled_twice_while_its_pipe_is_held_leaves_no_pipe_open(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    held_by_another_session = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 1000' & wait; exit"
    open_before = set(os.listdir("/proc/self/fd"))
    task = asyncio.ensure_future(
        run_command(
            ("/bin/sh", "-c", held_by_another_session),
            timeout_seconds=10,
            directory=tmp_path,
            keep_bytes=10,
            merge_errors=True,
        )
    )
    await until(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
    for _ in range(100):
        await asyncio.sleep(0)  # the program may be quicker than asyncio's turns that start it
    task.cancel()
    await asyncio.sleep(GRACE_SECONDS / 5)
    assert not task.done()  # the pipe has not closed yet
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: set(os.listdir("/proc/self/fd")) <= open_before)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
