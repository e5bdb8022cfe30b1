"""The agents' door, over real gRPC on loopback: who is let in, and how a session ends."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from asg.monitor.v1 import monitor_pb2
from asg.register.v1 import register_pb2, register_pb2_grpc
from controller_asg.api.channel import listen_for_agents
from controller_asg.api.peer import may_speak_for, peer_address
from controller_asg.api.register_service import Refused, build_agents_server, sample_values
from controller_asg.model.agent_order import Drain, Resume, RunHook
from controller_asg.model.clock import SystemClock
from controller_asg.model.instance import CommandEnd, Lease
from controller_asg.monitor.fleet import Fleet, Member, WatchSettings

A, B, STRANGER = "i-0000000a", "i-0000000b", "i-0000000000000000c"
HERE = "127.0.0.1"
REQUESTED = register_pb2.UNREGISTER_REASON_REQUESTED
STOPPING = register_pb2.UNREGISTER_REASON_STOPPING
SESSION_METHOD = "/asg.register.v1.RegisterService/Session"
PATIENCE_SECONDS = 10.0


class NoPinger:
    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        raise AssertionError("nobody watches here")


class Controller:
    """A fleet and its door. A is of this machine's address, B of another."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.wakes: list[tuple[str, str]] = []
        self.asked_for: list[str] = []
        self.found: list[Member] = []  # what asking EC2 about an unknown instance brings up
        self.fleet = Fleet(SystemClock(), NoPinger(), WatchSettings(2.5, 1.0, 1.0, 10.0), self._wake)
        self.members = [Member(A, "web", HERE), Member(B, "web", "10.9.9.9")]
        self.fleet.expect(self.members)
        self.port = 0

    def _wake(self, group: str, why: str) -> None:
        self.wakes.append((group, why))
        self.woken.set()

    async def unknown(self, instance_id: str) -> None:
        self.asked_for.append(instance_id)
        self.fleet.expect([*self.members, *self.found])

    async def until_woken(self, why: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while ("web", why) not in self.wakes:
                self.woken.clear()
                await self.woken.wait()
        self.wakes.clear()


@asynccontextmanager
async def controller(
    hello_timeout_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator[tuple[Controller, "register_pb2_grpc.RegisterServiceAsyncStub"]]:
    there = Controller()
    server = await build_agents_server(there.fleet, there.unknown, hello_timeout_seconds)
    there.port = listen_for_agents(server, f"{HERE}:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"{HERE}:{there.port}") as channel:
            there.channel = channel
            yield there, register_pb2_grpc.RegisterServiceStub(channel)
    finally:
        await server.stop(None)


def identity(instance_id: str = A, port: int = 7401) -> register_pb2.AgentIdentity:
    return register_pb2.AgentIdentity(
        instance_id=instance_id, monitor_port=port, agent_version="0.1.0", boot_id="boot-1"
    )


def hello(instance_id: str = A) -> register_pb2.SessionRequest:
    return register_pb2.SessionRequest(hello=register_pb2.Hello(identity=identity(instance_id)))


def sample(sequence: int, **fields) -> register_pb2.SessionRequest:
    return register_pb2.SessionRequest(sample=monitor_pb2.Sample(sequence=sequence, **fields))


def heartbeat(sequence: int) -> register_pb2.SessionRequest:
    return register_pb2.SessionRequest(heartbeat=register_pb2.Heartbeat(sequence=sequence))


def leases(*held: dict[str, object]) -> register_pb2.SessionRequest:
    message = register_pb2.Leases(leases=[register_pb2.Lease(**lease) for lease in held])
    return register_pb2.SessionRequest(leases=message)


def hook_progress(token: str, **fields) -> register_pb2.SessionRequest:
    return register_pb2.SessionRequest(hook_progress=register_pb2.HookProgress(token=token, **fields))


async def register(stub, instance_id: str = A) -> register_pb2.RegisterResponse:
    request = register_pb2.RegisterRequest(identity=identity(instance_id))
    return await stub.Register(request, timeout=PATIENCE_SECONDS)


async def opened(stub, instance_id: str = A):
    """A session whose first settings have come down, so that it is open for sure."""
    call = stub.Session(timeout=PATIENCE_SECONDS)
    await call.write(hello(instance_id))
    first = await call.read()
    assert first.WhichOneof("message") == "settings"
    return call


async def end_of(call) -> tuple[grpc.StatusCode, str]:
    """How a session ended, after everything that was still to read."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return await call.code(), await call.details()


async def refusal(awaitable) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await awaitable
    return error.value.code(), error.value.details()


async def test_a_member_registers_and_is_told_its_group_and_pace() -> None:
    async with controller() as (there, stub):
        answer = await register(stub)
        assert (answer.group, answer.settings.sample_interval_seconds) == ("web", 1.0)
        assert there.fleet.registered(A)
        assert (await register(stub)).group == "web", "safe to repeat"


async def test_a_sample_on_the_wire_is_in_the_view() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        await call.write(sample(1, cpu_percent=0.0, load1_per_cpu=1.5, application={"queue": 7.0}))
        await there.until_woken("sample")
        assert there.fleet.view("web")[A].metrics == {
            "cpu_percent": 0.0,
            "load1_per_cpu": 1.5,
            "app.queue": 7.0,
        }
        call.cancel()


async def test_settings_and_drain_come_down_and_progress_goes_up() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        there.fleet.settings = WatchSettings(2.5, 1.0, 0.2, 10.0)
        assert (await call.read()).settings.sample_interval_seconds == 0.2
        assert there.fleet.send(A, Drain(30.0, "scale in")) is True
        order = (await call.read()).drain
        assert (order.timeout_seconds, order.reason) == (30.0, "scale in")
        progress = register_pb2.DrainProgress(finished=True, exit_code=0, output="x" * 5000)
        await call.write(register_pb2.SessionRequest(drain_progress=progress))
        await there.until_woken("drained")
        drained = there.fleet.view("web")[A].drained
        assert (drained.exit_code, len(drained.output)) == (0, 4096)
        call.cancel()


async def test_leases_and_hooks_come_up_and_orders_for_them_go_down() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        before = there.fleet.now()
        held = {"owner": "nightly", "reason": "a report", "seconds": 1000.0}
        await call.write(leases(held, {"owner": "shell", "protect_from_scale_in": True}))
        await there.until_woken("busy")
        nightly, shell = there.fleet.view("web")[A].leases
        assert (nightly.owner, nightly.reason, nightly.protect_from_scale_in) == (
            "nightly",
            "a report",
            False,
        )
        assert before + 1000.0 <= nightly.ends_at <= there.fleet.now() + 1000.0
        assert shell == Lease("shell", "", None, True)
        assert there.fleet.send(A, RunHook("t1", "warm", 60.0, "launch", "warm-caches", "{}")) is True
        assert there.fleet.send(A, Resume("capacity is needed")) is True
        assert (await call.read()).resume.reason == "capacity is needed"
        order = (await call.read()).run_hook
        assert (order.token, order.command, order.timeout_seconds) == ("t1", "warm", 60.0)
        assert (order.transition, order.hook, order.metadata) == ("launch", "warm-caches", "{}")
        for finished in (False, True):
            await call.write(hook_progress("t1", finished=finished, output="x" * 5000))
            await there.until_woken("hook")
        assert there.fleet.view("web")[A].hooks == {"t1": CommandEnd(None, "x" * 4096)}
        call.cancel()


async def test_anothers_id_is_denied_everywhere_and_logged_once() -> None:
    with capture_logs() as logs:
        async with controller() as (there, stub):
            request = register_pb2.UnregisterRequest(instance_id=B, reason=REQUESTED)
            refusals = [
                await refusal(register(stub, B)),
                await refusal(stub.Unregister(request, timeout=PATIENCE_SECONDS)),
            ]
            call = stub.Session(timeout=PATIENCE_SECONDS)
            await call.write(hello(B))
            refusals.append(await end_of(call))
            what = "127.0.0.1 may not speak for i-0000000b"
            assert refusals == [(grpc.StatusCode.PERMISSION_DENIED, what)] * 3
            view = there.fleet.view("web")[B]
            assert (view.silent_seconds, view.unregister_requested) == (None, False)
    (entry,) = [entry for entry in logs if entry["event"] == "agent_refused"]
    assert (entry["log_level"], entry["peer"], entry["instance_id"]) == ("warning", HERE, B)


async def test_an_instance_of_no_group_is_looked_up_and_then_not_found() -> None:
    async with controller() as (there, stub):
        code, what = await refusal(register(stub, STRANGER))
        assert (code, what) == (
            grpc.StatusCode.NOT_FOUND,
            "i-0000000000000000c is in no group of this controller",
        )
        assert there.asked_for == [STRANGER]


async def test_a_newcomer_that_the_lookup_brings_up_is_let_in_at_once() -> None:
    async with controller() as (there, stub):
        there.found = [Member(STRANGER, "web", HERE)]
        assert (await register(stub, STRANGER)).group == "web"


async def test_an_instance_whose_address_is_not_known_is_told_to_come_again() -> None:
    async with controller() as (there, stub):
        there.found = [Member(STRANGER, "web", "")]
        code, _ = await refusal(register(stub, STRANGER))
        assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "instance_id", ["", "web-1", "i-0000000A", "i-123", "i-0000000a\n", "i-" + "0" * 40000]
)
async def test_what_is_no_instance_id_is_never_looked_up(instance_id: str) -> None:
    async with controller() as (there, stub):
        code, _ = await refusal(register(stub, instance_id))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert there.asked_for == []


async def test_a_session_wants_a_registration() -> None:
    async with controller() as (_, stub):
        call = stub.Session(timeout=PATIENCE_SECONDS)
        await call.write(hello())
        code, what = await end_of(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "call Register first" in what


@pytest.mark.parametrize("first", [sample(1), heartbeat(1), register_pb2.SessionRequest()])
async def test_a_session_begins_with_hello(first: register_pb2.SessionRequest) -> None:
    async with controller() as (_, stub):
        await register(stub)
        call = stub.Session(timeout=PATIENCE_SECONDS)
        await call.write(first)
        code, what = await end_of(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "not hello" in what


async def test_a_session_without_hello_ends_by_itself() -> None:
    async with controller(hello_timeout_seconds=0.05) as (_, stub):
        code, what = await end_of(stub.Session(timeout=PATIENCE_SECONDS))
        assert (code, what) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no hello within 0.05 s")


async def test_a_second_session_ends_the_first() -> None:
    async with controller() as (there, stub):
        await register(stub)
        first = await opened(stub)
        second = await opened(stub)
        code, what = await end_of(first)
        assert code is grpc.StatusCode.ABORTED
        assert "newer session" in what
        there.wakes.clear()
        await second.write(sample(1, cpu_percent=5.0))
        await there.until_woken("sample")
        second.cancel()


async def test_a_forgotten_instance_is_told_not_found() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        there.fleet.expect([])
        assert (await end_of(call))[0] is grpc.StatusCode.NOT_FOUND


async def test_a_stop_ends_the_session_well_and_a_wish_to_leave_keeps_it() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        await stub.Unregister(register_pb2.UnregisterRequest(instance_id=A, reason=REQUESTED))
        assert there.fleet.view("web")[A].unregister_requested is True
        assert there.fleet.send(A, Drain(1.0, "leaving")) is True
        assert (await call.read()).WhichOneof("message") == "drain"
        await stub.Unregister(register_pb2.UnregisterRequest(instance_id=A, reason=STOPPING))
        assert (await end_of(call))[0] is grpc.StatusCode.OK


async def test_unregister_wants_a_reason() -> None:
    async with controller() as (there, stub):
        code, _ = await refusal(stub.Unregister(register_pb2.UnregisterRequest(instance_id=A)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert there.fleet.view("web")[A].unregister_requested is False


WRONG = {
    "backwards": ([sample(5), sample(4)], "sequence 4 comes after 5"),
    "repeated": ([sample(5), sample(5)], "sequence 5 comes after 5"),
    "heartbeat backwards": ([sample(5), heartbeat(4)], "sequence 4 comes after 5"),
    "nan": ([sample(1, cpu_percent=math.nan)], "cpu_percent is nan, not 0 to 100"),
    "above": ([sample(1, memory_percent=101.0)], "memory_percent is 101.0, not 0 to 100"),
    "below": ([sample(1, disk_percent=-1.0)], "disk_percent is -1.0, not 0 to 100"),
    "infinite": ([sample(1, network_in_bytes_per_second=math.inf)], "network_in_bytes_per_second is inf"),
    "negative load": ([sample(1, load1_per_cpu=-0.5)], "load1_per_cpu is -0.5"),
    "too many": (
        [sample(1, application={f"m{number}": 1.0 for number in range(65)})],
        "65 application metrics, more than 64",
    ),
    "hello again": ([hello()], "hello comes once"),
    "too many leases": ([leases(*[{"owner": "a"}] * 33)], "33 leases, more than 32"),
    "lease of nobody": ([leases({"owner": ""})], "a lease's owner '' is not"),
    "lease of a long owner": ([leases({"owner": "a" * 65})], "is not 1 to 64"),
    "lease reason": ([leases({"owner": "a", "reason": "\x1b[2J"})], "the reason of a's lease is not"),
    "lease without time": ([leases({"owner": "a", "seconds": 0.0})], "a's lease of 0.0 s is not above 0"),
    "lease nan": ([leases({"owner": "a", "seconds": math.nan})], "a's lease of nan s"),
    "lease infinite": ([leases({"owner": "a", "seconds": math.inf})], "a's lease of inf s"),
    "hook token": ([hook_progress("")], "a hook's token has 0 characters"),
    "long hook token": ([hook_progress("a" * 129)], "a hook's token has 129 characters"),
}


@pytest.mark.parametrize(("messages", "says"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_message_ends_the_session_and_says_what_is_wrong(messages, says: str) -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        for message in messages:
            await call.write(message)
        code, what = await end_of(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert says in what
        view = there.fleet.view("web")[A]
        assert (view.metrics, view.leases, view.hooks) == ({}, None, {})


async def test_a_session_that_ends_while_an_order_is_being_written_still_gets_its_status() -> None:
    # gRPC refuses a second sending beside one that is under way: the call hung until the agent's own deadline.
    async with controller() as (_, stub):
        await register(stub)
        for _ in range(30):
            call = stub.Session(timeout=PATIENCE_SECONDS)
            await call.write(hello())
            await call.write(sample(1, cpu_percent=101.0))
            assert (await end_of(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "value"),
    [("q", math.nan), ("q", math.inf), ("", 1.0), ('q{name="größe"}', 1.0), ("x" * 201, 1.0)],
)
def test_an_application_metric_that_can_not_be_taken_is_left_out(name: str, value: float) -> None:
    message = monitor_pb2.Sample(sequence=1, cpu_percent=5.0, application={name: value, "queue": 3.0})
    assert sample_values(message) == {"cpu_percent": 5.0, "app.queue": 3.0}


async def test_sixty_four_application_metrics_are_taken() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        await call.write(sample(1, application={f"m{number}": 1.0 for number in range(64)}))
        await there.until_woken("sample")
        assert len(there.fleet.view("web")[A].metrics) == 64
        call.cancel()


async def test_garbage_and_oversize_end_their_own_call_and_no_other() -> None:
    async with controller() as (there, stub):
        await register(stub)
        well = await opened(stub)
        raw = there.channel.stream_stream(SESSION_METHOD)
        ends = []
        for payload in (b"\xff\xff\xff", b"\x00" * 100_000):
            call = raw(timeout=PATIENCE_SECONDS)
            await call.write(payload)
            ends.append((await end_of(call))[0])
        assert ends == [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED]
        unary = there.channel.unary_unary("/asg.register.v1.RegisterService/Register")
        for payload in (b"\xff\xff\xff", b"\x00" * 100_000):
            await refusal(unary(payload, timeout=PATIENCE_SECONDS))
        there.wakes.clear()
        await well.write(sample(1, cpu_percent=5.0))
        await there.until_woken("sample")
        well.cancel()


async def test_garbage_in_a_session_ends_it() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = there.channel.stream_stream(SESSION_METHOD)(timeout=PATIENCE_SECONDS)
        await call.write(hello().SerializeToString())
        await call.read()
        await call.write(b"\xff\xff\xff")
        assert (await end_of(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert (await register(stub)).group == "web"


async def test_a_stream_that_the_agent_drops_is_suspected() -> None:
    async with controller() as (there, stub):
        await register(stub)
        call = await opened(stub)
        call.cancel()
        await there.until_woken("stream lost")
        assert there.fleet.send(A, Drain(1.0, "")) is False


async def test_the_port_answers_health_and_reflection() -> None:
    async with controller() as (there, _):
        name = "asg.register.v1.RegisterService"
        healths = health_pb2_grpc.HealthStub(there.channel)
        for service in ("", name):
            answer = await healths.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflected = reflection_pb2_grpc.ServerReflectionStub(there.channel).ServerReflectionInfo()
        await reflected.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        services = (await reflected.read()).list_services_response.service
        assert {service.name for service in services} >= {name, "grpc.health.v1.Health"}
        reflected.cancel()


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with controller() as (there, _):
        second = await build_agents_server(there.fleet, there.unknown)
        with pytest.raises(RuntimeError):
            listen_for_agents(second, f"{HERE}:{there.port}")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:51234", "10.0.0.7"),
        ("ipv6:[::1]:51234", "::1"),
        ("ipv6:%5B::1%5D:51234", "::1"),
        ("ipv6:[::ffff:10.0.0.7]:51234", "10.0.0.7"),
        ("ipv6:[fe80::1%25eth0]:51234", "fe80::1"),
        ("unix:/run/x.sock", ""),
        ("unix:", ""),
        ("ipv4:nonsense", ""),
        ("", ""),
    ],
)
def test_a_peer_is_read_as_its_address(peer: str, address: str) -> None:
    assert peer_address(SimpleNamespace(peer=lambda: peer)) == address


@given(peer=st.one_of(st.text(), st.text().map(lambda rest: f"ipv4:{rest}"), st.text().map("ipv6:{}".format)))
def test_nothing_but_the_members_own_address_may_speak_for_it(peer: str) -> None:
    context = SimpleNamespace(peer=lambda: peer)
    assert not may_speak_for(context, Member(A, "web", ""))
    assert may_speak_for(context, Member(A, "web", "10.0.0.7")) == (peer_address(context) == "10.0.0.7")


@given(cpu=st.floats(), queue=st.floats())
def test_only_finite_values_in_range_become_readings(cpu: float, queue: float) -> None:
    message = monitor_pb2.Sample(sequence=1, cpu_percent=cpu, application={"queue": queue})
    if 0 <= cpu <= 100:
        taken = {"app.queue": queue} if math.isfinite(queue) else {}
        assert sample_values(message) == {"cpu_percent": cpu, **taken}
    else:
        with pytest.raises(Refused):
            sample_values(message)


def test_an_absent_reading_is_no_zero() -> None:
    assert sample_values(monitor_pb2.Sample(sequence=1)) == {}
