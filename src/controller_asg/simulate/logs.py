"""The product's own log lines, as events of the simulated world instead of text."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def captured_logs(hear: Callable[[str, Mapping[str, Any]], None]) -> Iterator[None]:
    """While the block runs, every line of info and above goes to `hear(event, values)` and nowhere else."""

    def take(logger: object, method: str, values: MutableMapping[str, Any]) -> Mapping[str, Any]:
        hear(values.pop("event"), values)
        raise structlog.DropEvent

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        processors=[take],
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
