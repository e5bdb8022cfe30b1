"""What systemd hears of the daemon: one datagram a message, as in sd_notify(3); nothing without NOTIFY_SOCKET."""

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """READY, STATUS, WATCHDOG, RELOADING and STOPPING to the service manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        self._status = ""
        path = environment.get("NOTIFY_SOCKET", "")
        if path.startswith(("/", "@")):
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)
            # A leading @ stands for the zero byte of Linux's abstract addresses.
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        usec = environment.get("WATCHDOG_USEC", "")
        for_us = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and for_us else None

    def ready(self) -> None:
        self._send("READY=1")

    def watchdog(self) -> None:
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent only when it differs from the last."""
        line = " ".join(text.split())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is not None:
            # A full or vanished socket must not stop the daemon; systemd's own timeouts speak then.
            with contextlib.suppress(OSError):
                self._socket.send(message.encode())
