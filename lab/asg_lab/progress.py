"""Saying what goes on: a line now, and one more for every few seconds of a wait."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_LINE_AFTER_SECONDS = 2.0
NEXT_LINE_AFTER_SECONDS = 5.0


def say(text: str) -> None:
    """A line for the person at the keyboard; standard output is left to what programs read."""
    sys.stderr.write(f"lab: {text}\n")
    sys.stderr.flush()


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Say `what` and how long it has taken, from two seconds on."""
    done = threading.Event()
    started = time.monotonic()

    def tick() -> None:
        pause = FIRST_LINE_AFTER_SECONDS
        while not done.wait(pause):
            say(f"{what}: {time.monotonic() - started:.0f} s")
            pause = NEXT_LINE_AFTER_SECONDS

    ticker = threading.Thread(target=tick, name=f"progress:{what}", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
