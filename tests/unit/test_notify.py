"""What systemd hears, on a socket of the test's own."""

import os
import socket

import pytest

from controller_asg.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    """(socket, NOTIFY_SOCKET)"""
    name = str(tmp_path / "notify") if request.param == "path" else f"@asg-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.setblocking(False)
        yield sock, name


def test_each_message_is_a_datagram_and_an_unchanged_status_is_told_once(systemd):
    sock, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"})
    notifier.ready()
    notifier.status("2 groups,\n 3 of 3 in service")
    notifier.status("2 groups, 3 of 3 in service")
    notifier.watchdog()
    notifier.stopping()
    assert [sock.recv(999) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=2 groups, 3 of 3 in service",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]
    notifier.close()


def test_a_watchdog_of_another_process_is_not_fed(systemd):
    sock, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"})
    notifier.watchdog()
    with pytest.raises(BlockingIOError):
        sock.recv(999)
    notifier.close()


def test_without_systemd_or_with_one_that_is_gone_nothing_happens(systemd):
    sock, name = systemd
    notifier = Notifier({})
    notifier.ready()
    notifier.close()
    notifier = Notifier({"NOTIFY_SOCKET": name})
    sock.close()
    notifier.ready()
    notifier.close()
    notifier.ready()
