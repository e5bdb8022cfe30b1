"""The journal's fields and the lines of standard output; and that no secret is in either."""

import io
import logging
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from controller_asg.logs import set_level, start_logging


@dataclass(frozen=True)
class Launch:
    count: int
    user_data: str
    client_token: str


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What would be on standard output; structlog and logging are put back afterwards."""
    config, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out = io.StringIO()
    start_logging("info", {}, out)
    yield out
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_its_word_and_its_keys(lines):
    structlog.get_logger().info("launch_requested", group="web", count=2, reason='load "high" = 91', none="")
    stamp, _, rest = lines.getvalue().partition(" ")
    assert stamp.endswith("Z")
    assert rest == 'info launch_requested group=web count=2 reason="load \\"high\\" = 91" none=""\n'


def test_a_line_end_in_a_value_makes_no_second_line(lines):
    structlog.get_logger().info("x", reason="a\nb\x1b[31m")
    assert lines.getvalue().count("\n") == 1
    assert "\x1b" not in lines.getvalue()


def test_secrets_are_taken_out_also_from_inside_of_what_is_logged(lines):
    structlog.get_logger().info(
        "x",
        join_token="hunter1",
        launch=Launch(1, "hunter2", "activity-1"),
        headers={"Authorization": "hunter3", "a": [{"password": "hunter4"}]},
    )
    assert "hunter" not in lines.getvalue()
    assert "activity-1" in lines.getvalue()


def test_a_new_level_reaches_loggers_that_exist(lines):
    log = structlog.get_logger()
    log.debug("first")
    set_level("debug")
    log.debug("second")
    assert "first" not in lines.getvalue()
    assert "second" in lines.getvalue()


def test_what_libraries_log_becomes_an_event(lines):
    logging.getLogger("uvicorn.error").warning("%s happened", "something")
    assert 'library_message library=uvicorn.error text="something happened"' in lines.getvalue()


def test_lines_may_be_json(lines):
    start_logging("info", {"CONTROLLER_ASG_LOG_FORMAT": "json"}, lines)
    structlog.get_logger().info("x", group="web")
    assert '"group": "web"' in lines.getvalue()


def fields(datagram: bytes) -> dict[str, str]:
    """The fields of an entry in journald's native protocol."""
    found = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", datagram[:8])
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journald(tmp_path: Path, lines: io.StringIO) -> Iterator[socket.socket]:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        start_logging("info", {"JOURNAL_STREAM": "8:1"}, lines, path)
        yield sock


def test_the_journal_gets_a_field_for_each_key(journald, lines):
    structlog.get_logger().warning(
        "launch_failed", group="web", activity_id="a-1", instance_id="i-1", reason="a\nb"
    )
    entry = fields(journald.recv(65_536))
    assert entry["MESSAGE"] == 'launch_failed group=web activity_id=a-1 instance_id=i-1 reason="a\\nb"'
    assert entry["PRIORITY"] == "4"
    assert (entry["ASG_GROUP"], entry["ASG_ACTIVITY_ID"], entry["ASG_INSTANCE_ID"]) == ("web", "a-1", "i-1")
    assert entry["ASG_REASON"] == "a\nb"
    assert lines.getvalue() == ""


def test_a_traceback_is_part_of_the_message(journald):
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("pass_failed")
    entry = fields(journald.recv(65_536))
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"].startswith("pass_failed\nTraceback")
    assert entry["MESSAGE"].endswith("ValueError: broken")


def test_an_entry_too_large_for_a_datagram_goes_as_a_file(journald):
    structlog.get_logger().info("x", **{f"key_{n}": "y" * 8_000 for n in range(200)})
    message, files, _, _ = socket.recv_fds(journald, 1024, 1)
    assert message == b""
    with open(files[0], "rb") as file:
        file.seek(0)
        assert fields(file.read())["ASG_KEY_199"] == "y" * 8_000


def test_without_a_journald_the_lines_go_to_standard_output(lines, tmp_path):
    start_logging("info", {"JOURNAL_STREAM": "8:1"}, lines, str(tmp_path / "none"))
    structlog.get_logger().info("x")
    assert " info x\n" in lines.getvalue()
