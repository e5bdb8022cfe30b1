"""The controller's network is cut for a while: does anybody get replaced for a silence that is ours?"""

import time
from collections.abc import Iterator

from asg_lab.deployment import wait_until

from bench.figure import Measured, Measurement, Run

FLEET_SIZE = 3


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    before = set(fleet.rest(FLEET_SIZE))
    cut_at = fleet.fault("cut", fleet.lab.controller_id)
    run.say(f"cut for {sizes.cut_seconds:g} s")
    time.sleep(sizes.cut_seconds)
    fleet.lab.fault("mend", fleet.lab.controller_id)
    wait_until(
        "all in service again",
        lambda: fleet.serving() == before,
        sizes.wait_seconds,
        every=1.0,
        on_wait=fleet.say,
    )
    time.sleep(sizes.settle_seconds / 3)  # whoever is to be replaced wrongly is so by then
    replaced = len(fleet.calls("RunInstances", cut_at)) + len(fleet.calls("TerminateInstances", cut_at))
    fleet.rest(1)
    yield Measured(
        "silence_replacements",
        replaced,
        "calls",
        0,
        replaced == 0,
        ("cut_seconds",),
        extra={"instances": FLEET_SIZE},
    )


MEASUREMENT = Measurement(("silence_replacements",), measure)
