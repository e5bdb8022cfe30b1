"""The agents' door: RegisterService over `Fleet`. What comes in here is judged once and is valid behind it.

Whatever ends a session goes through `AgentSession.end`, and the writer carries it out between two writes: gRPC allows
one sending at a time and one abort, so nobody else may answer.
A message that gRPC cannot parse ends its own call and touches no other.
"""

import asyncio
import math
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Never, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from asg.monitor.v1 import monitor_pb2
from asg.register.v1 import register_pb2, register_pb2_grpc
from controller_asg.api.peer import may_speak_for, peer_address
from controller_asg.model.agent_order import AgentOrder, Drain, Resume, RunHook
from controller_asg.model.instance import Lease
from controller_asg.model.metric import AMOUNTS, NAME_LIMIT_CHARACTERS, PERCENTS
from controller_asg.monitor.agent import Member
from controller_asg.monitor.fleet import Fleet
from controller_asg.monitor.session import AgentSession, EndReason, Pace, SessionEnded

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 64 * 1024  # a full sample has about 10 KiB
MAX_CALLS = 30_000  # sessions of 10,000 instances while all of them reconnect, twice over
MAX_APPLICATION_METRICS = 64
MAX_COMMAND_OUTPUT = 4096
MAX_LEASES, MAX_OWNER, MAX_REASON = 32, 64, 256
MAX_LEASE_SECONDS = 366 * 86400.0
MAX_TOKEN = 128
HELLO_TIMEOUT_SECONDS = 5.0
UNKNOWN_TIMEOUT_SECONDS = 3.0  # the engine asks EC2; the agent comes again anyway
LOG_EVERY_SECONDS = 60.0
LOGGED_PEERS = 1024

INSTANCE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")

END_CODES = {
    EndReason.REPLACED: grpc.StatusCode.ABORTED,
    EndReason.FORGOTTEN: grpc.StatusCode.NOT_FOUND,
    EndReason.ADDRESS_CHANGED: grpc.StatusCode.PERMISSION_DENIED,
    EndReason.SILENT: grpc.StatusCode.DEADLINE_EXCEEDED,
    EndReason.FLOOD: grpc.StatusCode.RESOURCE_EXHAUSTED,
    EndReason.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    EndReason.STOPPED: grpc.StatusCode.OK,
    EndReason.CLOSED: grpc.StatusCode.OK,
}

WORTH_A_WARNING = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]  # generic in the stubs only


class Refused(Exception):
    """The call ends with this code and sentence."""

    def __init__(self, code: grpc.StatusCode, what: str) -> None:
        super().__init__(code, what)
        self.code, self.what = code, what


def invalid(what: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, what)


class RegisterService(register_pb2_grpc.RegisterServiceServicer):
    """`unknown(instance_id)` is awaited when an agent comes whom the fleet does not expect (or whose address it does
    not know): the engine may ask EC2, so that a newcomer need not wait for the next round. It limits its own rate.
    """

    def __init__(
        self,
        fleet: Fleet,
        unknown: Callable[[str], Awaitable[None]],
        hello_timeout_seconds: float = HELLO_TIMEOUT_SECONDS,
    ) -> None:
        self._fleet = fleet
        self._unknown = unknown
        self._hello_timeout_seconds = hello_timeout_seconds
        self._logged_at: OrderedDict[tuple[str, grpc.StatusCode], float] = OrderedDict()

    async def Register(
        self, request: register_pb2.RegisterRequest, context: "Context"
    ) -> register_pb2.RegisterResponse:
        identity = request.identity
        try:
            await self._admit(identity.instance_id, context)
            check_identity(identity)
        except Refused as refused:
            await self._abort(context, identity.instance_id, refused)
        member = self._fleet.register(
            identity.instance_id, identity.monitor_port, identity.agent_version, identity.boot_id
        )
        settings = register_pb2.AgentSettings(
            sample_interval_seconds=self._fleet.settings.sample_interval_seconds
        )
        return register_pb2.RegisterResponse(settings=settings, group=member.group)

    async def Unregister(
        self, request: register_pb2.UnregisterRequest, context: "Context"
    ) -> register_pb2.UnregisterResponse:
        try:
            await self._admit(request.instance_id, context)
            if request.reason not in (
                register_pb2.UNREGISTER_REASON_REQUESTED,
                register_pb2.UNREGISTER_REASON_STOPPING,
            ):
                raise invalid(f"reason {request.reason} is neither REQUESTED nor STOPPING")
        except Refused as refused:
            await self._abort(context, request.instance_id, refused)
        requested = request.reason == register_pb2.UNREGISTER_REASON_REQUESTED
        self._fleet.unregister(request.instance_id, requested)
        return register_pb2.UnregisterResponse()

    # A coroutine that reads and writes, where the generated type expects a generator: gRPC takes both, and a generator
    # could not wait for the agent and for the fleet at once.
    async def Session(  # type: ignore[override]
        self, request_iterator: AsyncIterator[register_pb2.SessionRequest], context: "Context"
    ) -> None:
        try:
            session = await self._open(request_iterator, context)
        except Refused as refused:
            await self._abort(context, "", refused)
        end = SessionEnded(EndReason.CLOSED, "")
        try:
            async with asyncio.TaskGroup() as tasks:
                name = f"session:{session.instance_id}"
                tasks.create_task(write_orders(session, context), name=name)
                await read_messages(session, request_iterator)
        except* SessionEnded as ended:
            (first,) = ended.exceptions
            assert isinstance(first, SessionEnded)
            end = first
        finally:
            session.close()
        code = END_CODES[end.reason]
        if code is not grpc.StatusCode.OK:
            await self._abort(context, session.instance_id, Refused(code, end.what))

    async def _open(
        self, requests: AsyncIterator[register_pb2.SessionRequest], context: "Context"
    ) -> AgentSession:
        try:
            async with asyncio.timeout(self._hello_timeout_seconds):
                request = await anext(requests)
        except TimeoutError:
            what = f"no hello within {self._hello_timeout_seconds:g} s"
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, what) from None
        except StopAsyncIteration:
            raise invalid("the stream ended before hello") from None
        except DecodeError as error:
            raise invalid(f"not a SessionRequest: {error}") from None
        if request.WhichOneof("message") != "hello":
            raise invalid(f"the first message is {request.WhichOneof('message')}, not hello")
        identity = request.hello.identity
        await self._admit(identity.instance_id, context)
        check_identity(identity)
        if not self._fleet.registered(identity.instance_id):
            what = f"{identity.instance_id} has not registered with this controller; call Register first"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, what)
        return self._fleet.open(
            identity.instance_id, identity.monitor_port, identity.agent_version, identity.boot_id
        )

    async def _admit(self, instance_id: str, context: "Context") -> None:
        """Returns when the caller may speak for that instance, which is then a member of the fleet."""
        if not INSTANCE_ID.fullmatch(instance_id):
            raise invalid(f"{instance_id[:64]!r} is no instance id")
        member = self._fleet.member(instance_id)
        if member is None or not member.private_ip:
            member = await self._ask_again(instance_id)
        if member is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"{instance_id} is in no group of this controller")
        if not member.private_ip:
            what = f"the address of {instance_id} is not known yet; come again"
            raise Refused(grpc.StatusCode.UNAVAILABLE, what)
        if not may_speak_for(context, member):
            what = f"{peer_address(context) or 'a caller without an address'} may not speak for {instance_id}"
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, what)

    async def _ask_again(self, instance_id: str) -> Member | None:
        try:
            async with asyncio.timeout(UNKNOWN_TIMEOUT_SECONDS):
                await self._unknown(instance_id)
        except TimeoutError:
            log.debug("unknown_agent_lookup_timed_out", instance_id=instance_id)
        return self._fleet.member(instance_id)

    async def _abort(self, context: "Context", instance_id: str, refused: Refused) -> Never:
        self._log(context, instance_id, refused)
        await context.abort(refused.code, refused.what)

    def _log(self, context: "Context", instance_id: str, refused: Refused) -> None:
        """Once a minute for each peer and code: whoever knocks all night writes no more than that."""
        peer = peer_address(context)
        key, now = (peer, refused.code), self._fleet.now()
        if now - self._logged_at.get(key, -math.inf) < LOG_EVERY_SECONDS:
            return
        self._logged_at[key] = now
        self._logged_at.move_to_end(key)
        if len(self._logged_at) > LOGGED_PEERS:
            self._logged_at.popitem(last=False)
        level = log.warning if refused.code in WORTH_A_WARNING else log.info
        level("agent_refused", peer=peer, instance_id=instance_id, code=refused.code.name, why=refused.what)


async def read_messages(session: AgentSession, requests: AsyncIterator[register_pb2.SessionRequest]) -> None:
    """Returns when the agent closed the stream, or said something wrong; the session is over then."""
    try:
        async for request in requests:
            take(session, request)
    except DecodeError as error:
        session.end(EndReason.INVALID, f"not a SessionRequest: {error}")
    except Refused as refused:
        session.end(EndReason.INVALID, refused.what)
    else:
        session.end(EndReason.CLOSED, "")


def take(session: AgentSession, request: register_pb2.SessionRequest) -> None:
    """One message into the session; raises Refused when it is wrong."""
    kind = request.WhichOneof("message")
    if kind == "sample":
        sample = request.sample
        if sample.sequence <= session.last_sequence:
            raise invalid(f"sequence {sample.sequence} comes after {session.last_sequence}")
        session.sample(sample.sequence, sample_values(sample))
    elif kind == "heartbeat":
        sequence = request.heartbeat.sequence
        if sequence < session.last_sequence:
            raise invalid(f"sequence {sequence} comes after {session.last_sequence}")
        session.heartbeat(sequence)
    elif kind == "drain_progress":
        progress = request.drain_progress
        exit_code = progress.exit_code if progress.HasField("exit_code") else None
        session.drain_progress(progress.finished, exit_code, progress.output[-MAX_COMMAND_OUTPUT:])
    elif kind == "leases":
        session.leases(leases_of(request.leases, session.now()))
    elif kind == "hook_progress":
        told = request.hook_progress
        if not 0 < len(told.token) <= MAX_TOKEN:
            raise invalid(f"a hook's token has {len(told.token)} characters, not 1 to {MAX_TOKEN}")
        exit_code = told.exit_code if told.HasField("exit_code") else None
        session.hook_progress(told.token, told.finished, exit_code, told.output[-MAX_COMMAND_OUTPUT:])
    elif kind == "hello":
        raise invalid("hello comes once, as the first message")
    else:
        session.alive()  # a kind that a newer agent knows


async def write_orders(session: AgentSession, context: "Context") -> Never:
    """Sends what the fleet has for the agent, until SessionEnded.

    A write is never cancelled from here, not even by a timeout: gRPC would still be at it, refuse the status that
    follows, and leave the call hanging. It waits only while the connection is stuck, which keepalive ends.
    """
    while True:
        order = await session.next_order()
        try:
            await context.write(order_message(order))
        except grpc.aio.BaseError as error:
            log.debug("agent_stream_write_failed", instance_id=session.instance_id, why=str(error))
            session.end(EndReason.CLOSED, "")


def order_message(order: Pace | AgentOrder) -> register_pb2.SessionResponse:
    match order:
        case Pace(seconds):
            settings = register_pb2.AgentSettings(sample_interval_seconds=seconds)
            return register_pb2.SessionResponse(settings=settings)
        case Drain(seconds, reason):
            drain = register_pb2.Drain(timeout_seconds=seconds, reason=reason)
            return register_pb2.SessionResponse(drain=drain)
        case Resume(reason):
            return register_pb2.SessionResponse(resume=register_pb2.Resume(reason=reason))
        case RunHook():
            hook = register_pb2.RunHook(
                token=order.token,
                command=order.command,
                timeout_seconds=order.timeout_seconds,
                transition=order.transition,
                hook=order.hook,
                metadata=order.metadata,
            )
            return register_pb2.SessionResponse(run_hook=hook)


def leases_of(message: register_pb2.Leases, now: float) -> tuple[Lease, ...]:
    """The leases with their ends on the clock of `now`. Raises Refused at the first wrong one."""
    if len(message.leases) > MAX_LEASES:
        raise invalid(f"{len(message.leases)} leases, more than {MAX_LEASES}")
    leases = []
    for lease in message.leases:
        if not (0 < len(lease.owner) <= MAX_OWNER and lease.owner.isprintable()):
            raise invalid(
                f"a lease's owner {lease.owner[:MAX_OWNER]!r} is not 1 to {MAX_OWNER} printable characters"
            )
        if len(lease.reason) > MAX_REASON or not lease.reason.isprintable():
            raise invalid(
                f"the reason of {lease.owner}'s lease is not at most {MAX_REASON} printable characters"
            )
        ends_at = None
        if lease.HasField("seconds"):
            if not 0.0 < lease.seconds <= MAX_LEASE_SECONDS:  # false for NaN, too
                raise invalid(f"{lease.owner}'s lease of {lease.seconds} s is not above 0 and at most a year")
            ends_at = now + lease.seconds
        leases.append(Lease(lease.owner, lease.reason, ends_at, lease.protect_from_scale_in))
    return tuple(leases)


def check_identity(identity: register_pb2.AgentIdentity) -> None:
    if identity.monitor_port > 65535:
        raise invalid(f"monitor_port {identity.monitor_port} is above 65535")
    for name in ("agent_version", "boot_id"):
        value = getattr(identity, name)
        if len(value) > 64 or not value.isprintable():
            raise invalid(f"{name} is not at most 64 printable characters")


def sample_values(sample: monitor_pb2.Sample) -> dict[str, float]:
    """The readings by metric name; application metrics as `app.<name>`. Raises Refused at the first wrong one.

    An application's metric that can't be taken is left out: an instance is not given up for a label of its program.
    """
    values: dict[str, float] = {}
    for name in PERCENTS:
        if sample.HasField(name):  # type: ignore[arg-type]
            value = values[name] = getattr(sample, name)
            if not 0.0 <= value <= 100.0:  # false for NaN, too
                raise invalid(f"{name} is {value}, not 0 to 100")
    for name in AMOUNTS:
        if sample.HasField(name):  # type: ignore[arg-type]
            value = values[name] = getattr(sample, name)
            if not 0.0 <= value < math.inf:
                raise invalid(f"{name} is {value}, not 0 or more")
    application = sample.application
    if not application:
        return values
    if len(application) > MAX_APPLICATION_METRICS:
        raise invalid(f"{len(application)} application metrics, more than {MAX_APPLICATION_METRICS}")
    for name, value in application.items():
        metric = application_metric(name)
        if metric is not None and math.isfinite(value):
            values[metric] = value
    return values


@lru_cache(maxsize=4096)
def application_metric(name: str) -> str | None:
    """None for a name that is not 1 to 200 printable ASCII characters."""
    is_right = 0 < len(name) <= NAME_LIMIT_CHARACTERS and name.isascii() and name.isprintable()
    return f"app.{name}" if is_right else None


def agents_server_options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.max_concurrent_streams", 16),  # of one connection; an agent needs two
        # A machine that vanished without a word frees its session after these; silence is noticed long before.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # agents may ask this often whether we live
        # A second controller on this port must fail to start, not take half of the agents.
        ("grpc.so_reuseport", 0),
    ]


async def build_agents_server(
    fleet: Fleet,
    unknown: Callable[[str], Awaitable[None]],
    hello_timeout_seconds: float = HELLO_TIMEOUT_SECONDS,
) -> grpc.aio.Server:
    """RegisterService, health and reflection, bound to no port yet (`api.channel.listen_for_agents`), not started."""
    server = grpc.aio.server(options=agents_server_options(), maximum_concurrent_rpcs=MAX_CALLS)
    service = RegisterService(fleet, unknown, hello_timeout_seconds)
    register_pb2_grpc.add_RegisterServiceServicer_to_server(service, server)
    name: str = register_pb2.DESCRIPTOR.services_by_name["RegisterService"].full_name
    healths = health.aio.HealthServicer()
    await healths.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server
