"""Logging: structlog's events to the journal with fields of their own, or to standard output as logfmt or JSON.

`journalctl -u controller-asg ASG_ACTIVITY_ID=…` tells one scaling activity from its cause to its end, so every key
becomes a field. What may be a secret is taken out here, whoever logs it, also from inside of a logged model object.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from enum import Enum
from typing import Any, TextIO

import structlog

JOURNAL_SOCKET = "/run/systemd/journal/socket"
VALUE_LIMIT_CHARACTERS = 8_192
REDACTED = "[redacted]"

_SECRETS = re.compile(r"token|user_data|password|secret|private_key|authorization|certificate|store_url")
# They name secrets' neighbours: a client token is an activity's id, and a file's name is no secret.
_HARMLESS = frozenset(
    {"client_token", "metadata_tokens", "http_token_file", "webhook_secret_file", "user_data_template"}
)
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}

Event = MutableMapping[str, Any]


def start_logging(
    level: str,
    environment: Mapping[str, str] = os.environ,
    out: TextIO = sys.stdout,
    journal_socket: str = JOURNAL_SOCKET,
) -> None:
    """Log from here on: to the journal when systemd gave us to it, else to `out`."""
    journal = Journal.connect(journal_socket) if "JOURNAL_STREAM" in environment else None
    as_json = environment.get("CONTROLLER_ASG_LOG_FORMAT", "") == "json"
    last: Callable[[Any, str, Event], Any] = journal or _Lines(out, as_json)
    # Not cached, so that a reload's new level reaches loggers that exist already.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            redact,
            last,
        ],
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)
    set_level(level)


def set_level(level: str) -> None:
    structlog.configure(
        **{
            **structlog.get_config(),
            "wrapper_class": structlog.make_filtering_bound_logger(_LEVELS[level]),
        }
    )


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """The event with plain values, and without what may be a secret."""
    for key in list(event):
        event[key] = _plain(key, event[key])
    return event


class Journal:
    """journald's native protocol: a datagram an event, a field a key (systemd.io, "Native Journal Protocol")."""

    def __init__(self, path: str, sock: socket.socket) -> None:
        self._path = path
        self._socket = sock

    @classmethod
    def connect(cls, path: str) -> "Journal | None":
        """None where no journald listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            return None
        return cls(path, sock)

    def __call__(self, _logger: Any, _method: str, event: Event) -> str:
        level = event.pop("level", "info")
        message = _logfmt({k: v for k, v in event.items() if k != "exception"})
        if "exception" in event:
            message += f"\n{event['exception']}"
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_PRIORITIES.get(level, 6)),
            "SYSLOG_IDENTIFIER": "controller-asg",
        }
        for key, value in event.items():
            fields[_field_name(key)] = _text(value)
        self._send(b"".join(_field(name, value) for name, value in fields.items()))
        return ""

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            if error.errno in (errno.EMSGSIZE, errno.ENOBUFS):
                self._send_by_file(datagram)
                return
            # journald was restarted: its socket is a new one. An event that can't be told stops nothing.
            with contextlib.suppress(OSError):
                self._socket.connect(self._path)
                self._socket.send(datagram)

    def _send_by_file(self, datagram: bytes) -> None:
        """What is too large for a datagram goes as a sealed memory file."""
        import fcntl  # here only: no event of ours should be so large

        file = os.memfd_create("journal-entry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.write(file, datagram)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            with contextlib.suppress(OSError):
                socket.send_fds(self._socket, [b""], [file])
        finally:
            os.close(file)


class _Lines:
    """Events as lines of text."""

    def __init__(self, out: TextIO, as_json: bool) -> None:
        self._out = out
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self._render: Callable[[Any, str, Event], Any] = (
            structlog.processors.JSONRenderer() if as_json else _render_logfmt
        )

    def __call__(self, logger: Any, method: str, event: Event) -> str:
        line = self._render(logger, method, self._stamp(logger, method, event))
        # A closed pipe must not end the daemon.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(f"{line}\n")
            self._out.flush()
        return ""


class _FromLibraries(logging.Handler):
    """What uvicorn, grpc, botocore and asyncio log through the standard library, as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno, logging.DEBUG), logging.ERROR)
        structlog.get_logger().log(
            level, "library_message", library=record.name, text=record.getMessage(), exc_info=record.exc_info
        )


def _render_logfmt(_logger: Any, _method: str, event: Event) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level") if key in event}
    exception = event.pop("exception", "")
    head = " ".join(str(value) for value in first.values())
    return f"{head} {_logfmt(event)}" + (f"\n{exception}" if exception else "")


def _logfmt(event: Mapping[str, Any]) -> str:
    """`launch_requested group=web instance_count=3`: the event's word first, then the keys."""
    words = [str(event.get("event", ""))]
    words += [f"{key}={_quoted(_text(value))}" for key, value in event.items() if key != "event"]
    return " ".join(words)


def _quoted(text: str) -> str:
    if text and text.isprintable() and not any(character in ' "=\\' for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped) + '"'


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case list():
            return ",".join(map(_text, value))
        case dict():
            return " ".join(f"{key}={_quoted(_text(each))}" for key, each in value.items())
    return str(value)


def _plain(key: str, value: Any) -> Any:
    """Numbers, text, lists and dicts, so that no object's own `repr` can tell what it should not."""
    if isinstance(key, str) and key not in _HARMLESS and _SECRETS.search(key.lower()) and value:
        return REDACTED
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(str(name), each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain("", each) for each in value]
    text = str(value)
    return text if len(text) <= VALUE_LIMIT_CHARACTERS else text[:VALUE_LIMIT_CHARACTERS] + "…"


def _field_name(key: str) -> str:
    """ASG_GROUP of group: capitals, digits and _, 64 characters at the most."""
    return ("ASG_" + re.sub(r"[^A-Z0-9_]", "_", key.upper()))[:64]


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
