"""What the agent knows of its instance at one moment, when that is worth sending, and its form on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asg.monitor.v1 import monitor_pb2

# A thread more or fewer on a CPU is noise, but where they wait.
QUEUE_STEP = 1.0
# An idle machine's load average never rests; 0.05 of a CPU is below what any policy acts on.
LOAD_STEP = 0.05
PERCENT_STEP = 1.0
MAX_METRICS = 64  # of the application; more in a Sample end the session (monitor.proto)
BYTES_STEP_RATIO = 0.05
BYTES_FLOOR_PER_SECOND = 1024.0  # the agent's own session is about 100; changes below the floor are noise


@dataclass(frozen=True, slots=True)
class MachineReading:
    """Measurements of the machine; None is "no value", never 0. Units and ranges: Sample in monitor.proto."""

    sampled_unix_ms: int
    cpu_percent: float | None = None
    load1_per_cpu: float | None = None
    run_queue_per_cpu: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    network_in_bytes_per_second: float | None = None
    network_out_bytes_per_second: float | None = None
    pressure_cpu_percent: float | None = None
    pressure_memory_percent: float | None = None
    pressure_io_percent: float | None = None


PERCENTS = (
    "cpu_percent",
    "memory_percent",
    "disk_percent",
    "pressure_cpu_percent",
    "pressure_memory_percent",
    "pressure_io_percent",
)
BYTES = ("network_in_bytes_per_second", "network_out_bytes_per_second")
MACHINE_METRICS = ("load1_per_cpu", "run_queue_per_cpu", *PERCENTS, *BYTES)


@dataclass(frozen=True, slots=True)
class Reading:
    """A machine's reading with the override put in (`overridden`) and the application's metrics beside it."""

    machine: MachineReading
    application: Mapping[str, float] = field(default_factory=dict)
    overridden: bool = False


def moved(before: Reading, after: Reading) -> bool:
    """Whether `after` tells the controller something that `before`, the last one sent, did not."""
    if before.overridden != after.overridden or before.application != after.application:
        return True
    steps = [(name, PERCENT_STEP) for name in PERCENTS]
    steps += [("load1_per_cpu", LOAD_STEP), ("run_queue_per_cpu", QUEUE_STEP)]
    for name in BYTES:
        value: float | None = getattr(before.machine, name)
        steps.append((name, max(BYTES_FLOOR_PER_SECOND, (value or 0.0) * BYTES_STEP_RATIO)))
    return any(
        _differ(getattr(before.machine, name), getattr(after.machine, name), step) for name, step in steps
    )


def to_sample(reading: Reading, sequence: int) -> monitor_pb2.Sample:
    """The reading as the message that the controller gets."""
    machine = reading.machine
    return monitor_pb2.Sample(
        sequence=sequence,
        sampled_unix_ms=machine.sampled_unix_ms,
        cpu_percent=machine.cpu_percent,
        load1_per_cpu=machine.load1_per_cpu,
        run_queue_per_cpu=machine.run_queue_per_cpu,
        memory_percent=machine.memory_percent,
        disk_percent=machine.disk_percent,
        network_in_bytes_per_second=machine.network_in_bytes_per_second,
        network_out_bytes_per_second=machine.network_out_bytes_per_second,
        pressure_cpu_percent=machine.pressure_cpu_percent,
        pressure_memory_percent=machine.pressure_memory_percent,
        pressure_io_percent=machine.pressure_io_percent,
        application=reading.application,
        overridden=reading.overridden,
    )


def _differ(before: float | None, after: float | None, step: float) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) >= step
