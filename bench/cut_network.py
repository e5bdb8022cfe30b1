"""Networks are cut for a while: does anybody get replaced for a silence that is none of death?"""

import time
from collections.abc import Iterator

from asg_lab.deployment import wait_until

from bench.figure import Measured, Measurement, Run


def measure(run: Run) -> Iterator[Measured]:
    fleet, sizes = run.fleet(), run.sizes
    before = sorted(fleet.rest(sizes.cut_instances))
    partition = _replaced_by_cutting(run, before[: sizes.cut_partition])
    controller = _replaced_by_cutting(run, [fleet.lab.controller_id])
    fleet.rest(1)
    yield Measured(
        "silence_replacements",
        partition + controller,
        "calls",
        0,
        partition + controller == 0,
        ("cut_seconds", "cut_instances", "cut_partition"),
        extra={"partition": partition, "controller": controller},
    )


def _replaced_by_cutting(run: Run, machines: list[str]) -> int:
    """RunInstances and TerminateInstances from the cut until all are well again, and a while longer."""
    fleet, sizes = run.fleet(), run.sizes
    before = fleet.alive()
    cut_at = time.time()
    for machine in machines:
        fleet.fault("cut", machine)
    run.say(f"{', '.join(machines)} cut for {sizes.cut_seconds:g} s")
    time.sleep(sizes.cut_seconds)
    for machine in machines:
        fleet.lab.fault("mend", machine)
    wait_until(
        "all healthy again",
        lambda: {m["instance_id"] for m in fleet.members() if m["health"] == "Healthy"} >= before,
        sizes.wait_seconds,
        every=1.0,
        on_wait=fleet.say,
    )
    time.sleep(sizes.settle_seconds / 3)  # whoever is to be replaced wrongly is so by then
    return len(fleet.calls("RunInstances", cut_at)) + len(fleet.calls("TerminateInstances", cut_at))


MEASUREMENT = Measurement(("silence_replacements",), measure)
