"""What the sampler makes of /proc."""

import asyncio

import pytest
from agent_world import FakeProc, until

from monitor_agent.latest import Latest
from monitor_agent.reading import MachineReading, Reading, moved
from monitor_agent.sampler import REOPEN_READS, ProcReader, Sampler


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(proc: FakeProc, clock: Clock) -> ProcReader:
    return ProcReader(proc.path, monotonic=clock, unix_ms=lambda: 1_700_000_000_000)


def test_the_first_reading_has_no_cpu_and_no_network(reader: ProcReader) -> None:
    reading = reader.read()
    assert reading.cpu_percent is None
    assert reading.network_in_bytes_per_second is None
    assert reading.sampled_unix_ms == 1_700_000_000_000
    assert reading.memory_percent == pytest.approx(25)
    assert reading.load1_per_cpu == pytest.approx(0.25)
    assert reading.run_queue_per_cpu == 0  # the one that runs is the reader
    assert reading.disk_percent is not None


def test_cpu_is_the_share_of_ticks_that_were_not_idle(reader: ProcReader, proc: FakeProc) -> None:
    reader.read()
    # user +20, nice +1, system +10, idle +50, iowait +10, irq +2, softirq +3, steal +4: 40 busy of 100
    proc.cpu(120, 1, 60, 850, 60, 2, 3, 4)
    assert reader.read().cpu_percent == pytest.approx(40)


def test_a_machine_of_a_quarter_cpu_that_is_busy_reads_one_hundred(
    reader: ProcReader, proc: FakeProc
) -> None:
    reader.read()
    proc.cpu(125, 0, 50, 800, 50)  # 25 ticks in a second, all of them busy
    assert reader.read().cpu_percent == pytest.approx(100)


def test_guest_time_is_not_counted_twice(reader: ProcReader, proc: FakeProc) -> None:
    reader.read()
    proc.cpu(150, 0, 50, 850, 50, 0, 0, 0, 50, 0)  # the 50 of guest are in user already
    assert reader.read().cpu_percent == pytest.approx(50)


def test_no_ticks_between_two_readings_is_no_value(reader: ProcReader, proc: FakeProc) -> None:
    proc.cpu(0, 0, 0, 0, 0)
    reader.read()
    assert reader.read().cpu_percent is None


def test_idle_that_steps_back_does_not_make_a_negative_load(reader: ProcReader, proc: FakeProc) -> None:
    reader.read()
    proc.cpu(110, 0, 50, 799, 50)
    assert reader.read().cpu_percent == pytest.approx(100)


def test_network_counts_every_link_but_lo(reader: ProcReader, proc: FakeProc, clock: Clock) -> None:
    reader.read()
    proc.network(1000 + 4096, 500 + 1024)
    clock.now += 2
    reading = reader.read()
    assert reading.network_in_bytes_per_second == pytest.approx(2048)
    assert reading.network_out_bytes_per_second == pytest.approx(512)


def test_a_link_that_left_gives_no_negative_rate(reader: ProcReader, proc: FakeProc, clock: Clock) -> None:
    reader.read()
    proc.network(10, 600)
    clock.now += 1
    reading = reader.read()
    assert reading.network_in_bytes_per_second is None
    assert reading.network_out_bytes_per_second == pytest.approx(100)


def test_pressure_is_read_where_it_is_and_absent_where_it_is_not(reader: ProcReader, proc: FakeProc) -> None:
    assert reader.read().pressure_cpu_percent is None
    proc.write("pressure/cpu", "some avg10=12.34 avg60=5.00 avg300=1.00 total=1\nfull avg10=0.00\n")
    for _ in range(REOPEN_READS):  # an absent file is looked for once a minute at 1 Hz, not every second
        reading = reader.read()
    assert reading.pressure_cpu_percent == pytest.approx(12.34)
    assert reading.pressure_io_percent is None


@pytest.mark.parametrize("garbage", ["", "cpu", "cpu  a b c d e\n", "\0\0\0"])
def test_garbage_in_proc_is_absence(proc: FakeProc, garbage: str) -> None:
    for name in ("stat", "loadavg", "meminfo", "net/dev"):
        proc.write(name, garbage)
    reader = ProcReader(proc.path)
    for _ in range(2):
        reading = reader.read()
    assert reading.cpu_percent is None
    assert reading.load1_per_cpu is None
    assert reading.run_queue_per_cpu is None
    assert reading.memory_percent is None


def test_the_run_queue_is_who_runs_or_waits_for_each_cpu(reader: ProcReader, proc: FakeProc) -> None:
    proc.write("loadavg", "0.50 0.40 0.30 7/100 1234\n")
    assert reader.read().run_queue_per_cpu == 3  # two CPUs
    proc.write("loadavg", "0.50 0.40 0.30\n")
    assert reader.read().run_queue_per_cpu is None


def test_a_missing_proc_is_absence(proc: FakeProc) -> None:
    reading = ProcReader(proc.path / "nowhere").read()
    assert reading.memory_percent is None
    assert reading.network_in_bytes_per_second is None


def test_the_real_proc_of_this_machine_reads() -> None:
    reader = ProcReader()
    reader.read()
    reading = reader.read()
    assert reading.memory_percent is not None
    assert 0 < reading.memory_percent < 100
    assert reading.load1_per_cpu is not None
    reader.close()


async def test_the_sampler_ticks_and_beats_and_takes_a_new_interval_at_once(proc: FakeProc) -> None:
    latest, beats = Latest(lambda: 0.0), []
    interval = 3600.0
    sampler = Sampler(
        ProcReader(proc.path), latest, lambda: interval, beat=lambda: beats.append(1), beat_seconds=0.01
    )
    task = asyncio.ensure_future(sampler.run())
    await until(lambda: latest.ticks >= 2)  # the second comes early, for it is the first with a load
    seen = len(beats)
    await until(lambda: len(beats) > seen + 3)  # the watchdog is fed between readings that are far apart
    assert latest.ticks == 2
    interval = 0.01
    sampler.interval_changed()
    await until(lambda: latest.ticks > 5)
    task.cancel()


BASE = Reading(MachineReading(0, cpu_percent=50.0, load1_per_cpu=1.0, network_in_bytes_per_second=1e6))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (MachineReading(1, 50.9, 1.0, network_in_bytes_per_second=1e6), False),
        (MachineReading(1, 51.0, 1.0, network_in_bytes_per_second=1e6), True),
        (MachineReading(1, 50.0, 1.04, network_in_bytes_per_second=1e6), False),
        (MachineReading(1, 50.0, 1.06, network_in_bytes_per_second=1e6), True),
        (MachineReading(1, 50.0, 1.0, network_in_bytes_per_second=1.04e6), False),
        (MachineReading(1, 50.0, 1.0, network_in_bytes_per_second=0.94e6), True),
        (MachineReading(1, None, 1.0, network_in_bytes_per_second=1e6), True),
        (MachineReading(1, 50.0, 1.0, 3.0, network_in_bytes_per_second=1e6), True),
    ],
)
def test_a_sample_is_worth_sending_when_a_value_moved_enough(after: MachineReading, expected: bool) -> None:
    assert moved(BASE, Reading(after)) is expected


def test_a_changed_application_metric_or_override_is_worth_sending() -> None:
    assert moved(BASE, Reading(BASE.machine, {"queue": 1.0}))
    assert moved(BASE, Reading(BASE.machine, overridden=True))
    assert not moved(BASE, BASE)
