"""The application's own metrics: lines that a command prints, or a page in OpenMetrics or Prometheus text format.

A source that fails is absent until it answers again: an old value must not pass for a new one.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping

from monitor_agent.command import run_command
from monitor_agent.http_client import HttpError, fetch
from monitor_agent.latest import Latest
from monitor_agent.log import EventLog
from monitor_agent.reading import MAX_METRICS
from monitor_agent.settings import Settings

MAX_NAME_CHARACTERS = 200
NAME_MEND = f"name a metric and its labels by at most {MAX_NAME_CHARACTERS} printable ASCII characters"
COMMAND_BYTES, PAGE_BYTES = 65536, 1_048_576

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf'({_NAME})(?:\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}})?[ \t]+(\S+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_SUFFIXES = ("_total", "_created", "_bucket", "_sum", "_count", "_info", "_gsum", "_gcount")
_TAKEN_KINDS = ("gauge", "counter", "untyped", "unknown")

# The metrics, and the last name of those that can't be sent.
Parsed = tuple[dict[str, float], str]

log = EventLog(__name__)


class _SourceError(Exception):
    """A source gave no metrics this time, and why."""


class ApplicationMetrics:
    """Asks the sources that the settings name, each at its own interval."""

    def __init__(self, settings: Settings, latest: Latest) -> None:
        self._settings, self._latest = settings, latest
        self._told: dict[str, str] = {}  # by source: the last thing logged

    async def run(self) -> None:
        settings = self._settings
        try:
            async with asyncio.TaskGroup() as tasks:
                if settings.application_command:
                    seconds = settings.application_command_interval_seconds
                    tasks.create_task(
                        self._repeat("command", seconds, self._by_command), name="application:command"
                    )
                if settings.application_openmetrics_url is not None:
                    seconds = settings.application_openmetrics_interval_seconds
                    tasks.create_task(
                        self._repeat("openmetrics", seconds, self._by_page), name="application:page"
                    )
        finally:
            for source in ("command", "openmetrics"):
                self._latest.set_application(source, {})

    async def _repeat(
        self, source: str, interval_seconds: float, ask: Callable[[], Awaitable[Parsed]]
    ) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                metrics, left_out = await ask()
            except _SourceError as error:
                metrics = {}
                self._tell(source, "application_metrics_failed", str(error))
            else:
                reason = "" if metrics else "no metric in the answer"
                if left_out:
                    reason = f"{ascii(left_out)[:MAX_NAME_CHARACTERS]} is left out; {NAME_MEND}"
                self._tell(source, "application_metrics_read", reason)
            self._latest.set_application(source, metrics)
            due = max(due + interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _by_command(self) -> Parsed:
        settings = self._settings
        limit = settings.application_command_timeout_seconds
        try:
            outcome = await run_command(
                settings.application_command,
                timeout_seconds=limit,
                directory=settings.state_dir,
                keep_bytes=COMMAND_BYTES,
                merge_errors=False,
            )
        except OSError as error:
            raise _SourceError(f"{settings.application_command[0]}: {error.strerror}") from error
        if outcome.exit_code is None:
            raise _SourceError(f"killed after {limit:g} s")
        if outcome.exit_code != 0:
            raise _SourceError(f"exit code {outcome.exit_code}")
        return parse_lines(outcome.output.decode("utf-8", "replace"))

    async def _by_page(self) -> Parsed:
        settings = self._settings
        assert settings.application_openmetrics_url is not None
        try:
            response = await fetch(
                settings.application_openmetrics_url,
                headers={
                    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
                },
                timeout_seconds=settings.application_openmetrics_timeout_seconds,
                limit_bytes=PAGE_BYTES,
            )
        except HttpError as error:
            raise _SourceError(str(error)) from error
        if response.status != 200:
            raise _SourceError(f"{settings.application_openmetrics_url}: HTTP {response.status}")
        return parse_openmetrics(
            response.body.decode("utf-8", "replace"), settings.application_openmetrics_names
        )

    def _tell(self, source: str, event: str, reason: str) -> None:
        """Log a source's change between well and ill, not each of its runs."""
        before, self._told[source] = self._told.get(source, ""), reason
        if reason and reason != before:
            log.warning(event, source=source, reason=reason)
        elif before and not reason:
            log.info("application_metrics_recovered", source=source)


def parse_lines(text: str) -> Parsed:
    """Metrics of lines `name value`; other lines, and values that are not finite, are passed over."""
    metrics: dict[str, float] = {}
    left_out = ""
    for line in text.splitlines():
        name, _, value = line.strip().rpartition(" ")
        name = name.strip()
        if len(metrics) < MAX_METRICS and (match := _SAMPLE.fullmatch(f"{name} 0")):
            left_out = _take(metrics, _full_name(match[1], match[2]), value) or left_out
    return metrics, left_out


def parse_openmetrics(text: str, names: Collection[str] = ()) -> Parsed:
    """The gauges, counters and untyped samples of a page, named `name{label="value"}` with the labels sorted.

    At most 64, in the page's order; `names` restricts them to samples of these names.
    """
    metrics: dict[str, float] = {}
    left_out = ""
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.split()
            if len(words) == 4 and words[1] == "TYPE":
                kinds[words[2]] = words[3]
            continue
        match = _SAMPLE.match(line)
        if match is None or (names and match[1] not in names) or not _is_taken(match[1], kinds):
            continue
        if len(metrics) == MAX_METRICS:
            break
        left_out = _take(metrics, _full_name(match[1], match[2]), match[3]) or left_out
    return metrics, left_out


def _is_taken(name: str, kinds: Mapping[str, str]) -> bool:
    if name in kinds:
        return kinds[name] in _TAKEN_KINDS
    for suffix in _SUFFIXES:
        family = name.removesuffix(suffix)
        if family != name and family in kinds:
            # Of a counter's family only the count itself; when it was created is no metric.
            return kinds[family] == "counter" and suffix == "_total"
    return True


def _full_name(name: str, labels: str | None) -> str:
    pairs = sorted(_LABEL.findall(labels or ""))
    return name + ("{" + ",".join(f'{label}="{value}"' for label, value in pairs) + "}" if pairs else "")


def _take(metrics: dict[str, float], name: str, text: str) -> str:
    """Returns the name when the controller would refuse it."""
    if not (len(name) <= MAX_NAME_CHARACTERS and name.isascii() and name.isprintable()):
        return name
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value):
            metrics[name] = value
    return ""
