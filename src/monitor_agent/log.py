"""Logging as `event key=value …` lines on standard error, with the priority that journald reads from a `<n>` prefix.

An event is a constant word, so that `journalctl -u monitor-agent -g session_lost` finds every one; what varies is a
value.
"""

import json
import logging
import os
import sys

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class EventLog:
    """Writes events of one module through the standard library's logger of that name."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **values: object) -> None:
        self._logger.debug(event, extra={"values": values})

    def info(self, event: str, **values: object) -> None:
        self._logger.info(event, extra={"values": values})

    def warning(self, event: str, **values: object) -> None:
        self._logger.warning(event, extra={"values": values})

    def error(self, event: str, *, exc_info: BaseException | None = None, **values: object) -> None:
        self._logger.error(event, extra={"values": values}, exc_info=exc_info)


class EventFormatter(logging.Formatter):
    """`<6>session_up controller=10.0.0.4:7402 group=web`; a value with blanks or quotes is written as a JSON string."""

    def __init__(self, *, priorities: bool) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 5)}>"
        values: dict[str, object] = getattr(record, "values", {})
        line = " ".join([record.getMessage(), *(f"{key}={_text(value)}" for key, value in values.items())])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if not self._priorities:
            return f"{record.levelname.lower()}: {line}"
        # journald makes an entry of each line, so each line carries its priority.
        return "\n".join(prefix + part for part in line.splitlines())


def start_logging(level: int = logging.INFO) -> None:
    """Log to standard error; prefixed for journald when systemd says that it is the journal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(priorities="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # asyncio's own "Using selector: EpollSelector" and grpc's channel chatter are of no use to an operator.
    for name in ("asyncio", "grpc", "grpc._cython"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _text(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text and not any(character in ' "=\\' or not character.isprintable() for character in text):
        return text
    return json.dumps(text, ensure_ascii=False)
