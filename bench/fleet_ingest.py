"""How much MonitorC takes in: one JSON line, its value what one core ingests, and what a view costs.

Three rates, from the bare call to the wire: `sample_call` is AgentSession.sample alone, `message_path` is what the
servicer does with the bytes of one, `loopback` is real grpc.aio with 50 sessions in another process. The baseline of
the same run is a servicer that reads the same streams and drops what it reads.
"""

import asyncio
import gc
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable

import grpc

from asg.monitor.v1 import monitor_pb2
from asg.register.v1 import register_pb2, register_pb2_grpc
from controller_asg.api.channel import listen_for_agents
from controller_asg.api.register_service import build_agents_server, read_messages
from controller_asg.model.clock import SystemClock
from controller_asg.monitor.fleet import Fleet, Member, WatchSettings

SESSIONS = 50
LOOPBACK_SECONDS = 6.0
AGENTS = 10_000
ROUNDS = 10  # samples of each agent; 100,000 in all


class NoPinger:
    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        return None


async def nobody(instance_id: str) -> None:
    """No lookup: all members are known."""


class SteppedClock(SystemClock):
    """Real but for an offset, so that ten rounds of samples lie ten seconds apart and no agent floods."""

    offset = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


def make_fleet(count: int, window_seconds: float, clock: SystemClock) -> tuple[Fleet, list[int]]:
    wakes = [0]

    def wake(group: str, why: str) -> None:
        wakes[0] += 1

    fleet = Fleet(clock, NoPinger(), WatchSettings(2.5, 1.0, 1.0, window_seconds), wake)
    fleet.expect([Member(instance_id, "web", "127.0.0.1") for instance_id in instance_ids(count)])
    return fleet, wakes


def instance_ids(count: int) -> list[str]:
    return [f"i-{number:08x}" for number in range(count)]


def message(sequence: int) -> register_pb2.SessionRequest:
    """A full sample with two application metrics, as an agent sends it."""
    sample = monitor_pb2.Sample(
        sequence=sequence,
        sampled_unix_ms=1_700_000_000_000,
        cpu_percent=42.5,
        load1_per_cpu=0.7,
        memory_percent=61.0,
        disk_percent=20.0,
        network_in_bytes_per_second=12345.0,
        network_out_bytes_per_second=54321.0,
        pressure_cpu_percent=0.5,
        pressure_memory_percent=0.0,
        pressure_io_percent=0.1,
        application={"queue_depth": 7.0, "requests_per_second": 130.0},
    )
    return register_pb2.SessionRequest(sample=sample)


async def bare(window_seconds: float) -> dict[str, float]:
    """The Fleet without a wire: 10,000 agents, a sample each a (stepped) second."""
    clock = SteppedClock()
    fleet, _ = make_fleet(AGENTS, window_seconds, clock)
    sessions = []
    for instance_id in instance_ids(AGENTS):
        fleet.register(instance_id, 7401, "", "")
        sessions.append(fleet.open(instance_id, 7401, "", ""))
    values = {f"metric_{number}": float(number) for number in range(11)}
    spent = 0.0
    for sequence in range(ROUNDS):
        clock.offset += 1.0
        readings = [dict(values) for _ in sessions]
        began = time.perf_counter()
        for session, reading in zip(sessions, readings, strict=True):
            session.sample(sequence, reading)
        spent += time.perf_counter() - began
    members = [Member(instance_id, "web", "127.0.0.1") for instance_id in instance_ids(AGENTS)]
    now = fleet.now()
    return {
        "sample_call_per_second": AGENTS * ROUNDS / spent,
        "view_ms": milliseconds(lambda: fleet.view("web")),
        "tick_ms": milliseconds(lambda: fleet._look_for_silence(now)),
        "expect_ms": milliseconds(lambda: fleet.expect(members)),
    }


def milliseconds(call: Callable[[], object], times: int = 15) -> float:
    taken = []
    for _ in range(times):
        gc.collect()
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000.0


async def message_path(count: int = 50_000) -> float:
    """Samples a second through parsing, checking and the fleet, without a wire."""
    clock = SteppedClock()
    fleet, _ = make_fleet(1, 1.0, clock)
    fleet.register("i-00000000", 7401, "", "")
    session = fleet.open("i-00000000", 7401, "", "")
    wire = [message(sequence).SerializeToString() for sequence in range(1, count + 1)]

    async def requests():
        for data in wire:
            clock.offset += 1.0
            yield register_pb2.SessionRequest.FromString(data)

    began = time.perf_counter()
    await read_messages(session, requests())
    return count / (time.perf_counter() - began)


def agents(port: int, seconds: float) -> None:
    """Runs in a process of its own: 50 sessions that send in turn, each below the flood limit's burst."""

    async def one(channel: grpc.aio.Channel, instance_id: str) -> None:
        stub = register_pb2_grpc.RegisterServiceStub(channel)
        identity = register_pb2.AgentIdentity(instance_id=instance_id, monitor_port=7401)
        await stub.Register(register_pb2.RegisterRequest(identity=identity))
        call = stub.Session()
        await call.write(register_pb2.SessionRequest(hello=register_pb2.Hello(identity=identity)))
        await call.read()
        until = time.monotonic() + seconds
        sequence = 0
        while time.monotonic() < until:
            sequence += 1
            await call.write(message(sequence))
        call.cancel()

    async def all_of_them() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each, as real agents have
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(SESSIONS)]
        await asyncio.gather(*map(one, channels, instance_ids(SESSIONS)))

    asyncio.run(all_of_them())


class FastClock(SystemClock):
    """A thousandfold, so that the flood limit does not end a bench that means to flood."""

    def monotonic(self) -> float:
        return time.monotonic() * 1000.0


class Dropping(register_pb2_grpc.RegisterServiceServicer):
    """The baseline: what grpc.aio itself takes."""

    def __init__(self, count: list[int]) -> None:
        self._count = count

    async def Register(self, request, context):
        return register_pb2.RegisterResponse()

    async def Session(self, request_iterator, context):
        await context.write(register_pb2.SessionResponse())
        async for _ in request_iterator:
            self._count[0] += 1


async def loopback(dropping: bool) -> tuple[float, float]:
    """Samples a second of wall time, and of this process's CPU time, through a real server."""
    fleet, count = make_fleet(SESSIONS, 1.0, FastClock())
    if dropping:
        server = grpc.aio.server()
        register_pb2_grpc.add_RegisterServiceServicer_to_server(Dropping(count), server)
    else:
        server = await build_agents_server(fleet, nobody)
    port = listen_for_agents(server, "127.0.0.1:0")
    await server.start()
    sender = multiprocessing.get_context("spawn").Process(target=agents, args=(port, LOOPBACK_SECONDS))
    sender.start()
    await asyncio.sleep(LOOPBACK_SECONDS / 2)  # the sender has started and all sessions run
    before, began, cpu_began = count[0], time.monotonic(), time.process_time()
    await asyncio.sleep(LOOPBACK_SECONDS / 4)
    took, cpu, taken = time.monotonic() - began, time.process_time() - cpu_began, count[0] - before
    await asyncio.to_thread(sender.join)
    await server.stop(None)
    return taken / took, taken / cpu


async def main() -> None:
    newest, window = await bare(1.0), await bare(10.0)
    path = await message_path()
    _, bare_cpu = await loopback(dropping=True)
    wall, cpu = await loopback(dropping=False)
    line = {
        "figure": "fleet_ingest_samples_per_cpu_second",
        "value": round(cpu),
        "unit": "samples a CPU second",
        "baseline": round(bare_cpu),
        "machine": f"{platform.machine()} {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "sample_call_per_second": round(newest["sample_call_per_second"]),
        "sample_call_window_10_per_second": round(window["sample_call_per_second"]),
        "message_path_per_second": round(path),
        "loopback_sessions": SESSIONS,
        "loopback_samples_per_second": round(wall),
        "loopback_over_bare_grpc": round(cpu / bare_cpu, 2),
        "agents": AGENTS,
        "view_newest_only_ms": round(newest["view_ms"], 1),
        "view_window_10_ms": round(window["view_ms"], 1),
        "tick_ms": round(window["tick_ms"], 2),
        "expect_ms": round(window["expect_ms"], 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    # The agents register by the thousand here; what the fleet says of that is not the bench's output.
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(main())
