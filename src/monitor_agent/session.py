"""The agent's side of a session with the controller: find it, register, stream, and begin again when the stream ends.

What a reader would get wrong: cancelling a write or read of a gRPC stream cancels the whole call, so both loops run
undisturbed until the session is over, and whatever ends it settles one future, `ended`, with the reason.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import grpc.aio

from asg.register.v1 import register_pb2, register_pb2_grpc
from monitor_agent.busy import Busy, Lease
from monitor_agent.channel import open_channel
from monitor_agent.drain import Drain, check_drain_timeout
from monitor_agent.hooks import Hooks
from monitor_agent.identity import ImdsError
from monitor_agent.latest import Latest
from monitor_agent.locate import LocateError, Locator, Target
from monitor_agent.log import EventLog
from monitor_agent.reading import Reading, moved, to_sample
from monitor_agent.settings import MAX_INTERVAL_SECONDS, MIN_INTERVAL_SECONDS

REGISTER_SECONDS = 5.0  # deadline of Register and of a requested Unregister
LEAVE_SECONDS = 2.0  # deadline of the Unregister of a clean stop, well within systemd's TimeoutStopSec
WRITE_SECONDS = 10.0  # a controller whose process hangs answers pings but reads nothing
UP_SECONDS = 1.0  # a stream that the controller did not answer counts as up when it has lasted this long
# A controller that wants the instance empty says it again within 5 s and a pass (planner/hooks.py, REPEAT_SECONDS).
ORDER_AGAIN_SECONDS = 60.0
SAMPLE_AT_LEAST_SECONDS = 10.0  # values that hardly move are repeated this often

LEASES_SPACING_SECONDS = 0.1  # however often they change: 50 messages a second end the session

# Full jitter (Brooker, "Exponential Backoff And Jitter"): a fleet that lost its controller comes back spread out.
BACKOFF_FIRST_SECONDS, BACKOFF_CAP_SECONDS = 0.2, 10.0
REFUSED_FIRST_SECONDS = (
    1.0  # a new instance may be refused until the controller has read RunInstances' answer
)
SETTLED_SECONDS = 10.0  # a session that lasted this long starts the backoff anew

_REFUSALS = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
)
_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

log = EventLog(__name__)


class SessionState(StrEnum):
    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"


class UnreachableError(Exception):
    """The controller did not hear us; the message says why."""


class RefusedError(Exception):
    """The controller heard us and said no; the message is its reason."""


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What the agent says of itself besides its instance id."""

    monitor_port: int
    agent_version: str
    boot_id: str


@dataclass(slots=True)
class Counters:
    """Since the agent's start, for /metrics."""

    sessions: int = 0
    samples: int = 0
    heartbeats: int = 0


class _LostError(Exception):
    """There is no session, or no more, for a reason in words; `refused` when the controller said no."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.refused = reason, refused


class _Pace:
    """Decides within one session what is sent of the readings: nothing yet, a sample, or a heartbeat."""

    def __init__(self, latest: Latest, monotonic: Callable[[], float]) -> None:
        self._latest, self._monotonic = latest, monotonic
        self._ticks, self._urgent = latest.ticks - 1, latest.urgent
        self._sequence, self._sent_at = 0, 0.0
        self._sent: Reading | None = None

    def next(self, may_sample: bool) -> register_pb2.SessionRequest | None:
        """The message that is due now, or None. No sample, but heartbeats, until `may_sample`."""
        reading, passed = self._latest.reading(), self._latest.ticks - self._ticks
        is_urgent = self._latest.urgent != self._urgent
        is_first = may_sample and self._sent is None
        if reading is None or not (passed or is_urgent or is_first):
            return None
        self._ticks, self._urgent = self._latest.ticks, self._latest.urgent
        # Readings that passed while a write was stuck were dropped, and the gap shows it.
        self._sequence += max(1, passed)
        now = self._monotonic()
        is_stale = now - self._sent_at >= SAMPLE_AT_LEAST_SECONDS
        if is_first or (self._sent and (is_urgent or is_stale or moved(self._sent, reading))):
            self._sent, self._sent_at = reading, now
            return register_pb2.SessionRequest(sample=to_sample(reading, self._sequence))
        return register_pb2.SessionRequest(heartbeat=register_pb2.Heartbeat(sequence=self._sequence))


class NewLeases:
    """Decides within one session when the leases are sent: once all sources have spoken, and at each change."""

    def __init__(
        self, busy: Busy, wake: Callable[[], None], spacing_seconds: float = LEASES_SPACING_SECONDS
    ) -> None:
        self._busy, self._wake, self._spacing_seconds = busy, wake, spacing_seconds
        self._sent: tuple[Lease, ...] | None = None
        self._sent_at: float | None = None

    @property
    def told(self) -> bool:
        return self._sent is not None

    def next(self, at_once: bool = False) -> tuple[Lease, ...] | None:
        """The leases to send now, or None."""
        held = self._busy.held()
        if held is None or held == self._sent:
            return None
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not at_once and self._sent_at is not None and now - self._sent_at < self._spacing_seconds:
            loop.call_at(self._sent_at + self._spacing_seconds, self._wake)
            return None
        self._sent, self._sent_at = held, now
        return held


class ControllerSession:
    """Keeps a session up. `changed` is called when its state does, `set_interval` when the controller sets the pace."""

    def __init__(
        self,
        locator: Locator,
        find_instance_id: Callable[[], Awaitable[str]],
        latest: Latest,
        drain: Drain,
        hooks: Hooks,
        busy: Busy,
        me: AgentFacts,
        *,
        set_interval: Callable[[float], None] = lambda seconds: None,
        changed: Callable[[], None] = lambda: None,
        is_stopping: Callable[[], bool] = lambda: False,
        connect: Callable[[Target], grpc.aio.Channel] = open_channel,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        order_again_seconds: float = ORDER_AGAIN_SECONDS,
    ) -> None:
        self._locator, self._find_instance_id = locator, find_instance_id
        self._latest, self._drain, self._me = latest, drain, me
        self._hooks, self._busy = hooks, busy
        self._set_interval, self._changed = set_interval, changed
        self._is_stopping = is_stopping
        self._connect, self._chance, self._monotonic = connect, chance, monotonic
        self._order_again_seconds = order_again_seconds
        self._stub: register_pb2_grpc.RegisterServiceAsyncStub | None = None
        self._ended: asyncio.Future[_LostError] | None = None
        self._hurry = asyncio.Event()
        self._up_at: float | None = None
        self._told = ""  # the last reason that was logged, until a session has lasted
        self._reports_sent = 0
        self.state = SessionState.CONNECTING
        self.reason = ""  # why there is no session
        self.instance_id = ""
        self.group = ""
        self.controller = ""  # where the session goes, or how the controller is looked for
        self.controller_ips: tuple[str, ...] = ()
        self.counters = Counters()

    async def run(self) -> None:
        """Be in session, for ever."""
        attempt = 0
        while True:
            self._hurry.clear()
            self._up_at = None
            self._enter(SessionState.CONNECTING, self.reason)
            try:
                await self._attempt()
            except _LostError as error:
                lost = error
            finally:
                self._stub = None
            if self._up_at is not None and self._monotonic() - self._up_at >= SETTLED_SECONDS:
                attempt, self._told = 0, ""
            self._tell_lost(lost)
            self._enter(SessionState.WAITING, lost.reason)
            await self._pause(backoff_seconds(attempt, refused=lost.refused, chance=self._chance()))
            attempt += 1

    def relocate(self, locator: Locator, find_instance_id: Callable[[], Awaitable[str]]) -> None:
        """Begin a new session at once, with what the settings say now."""
        self._locator, self._find_instance_id, self.instance_id = locator, find_instance_id, ""
        self._told = ""
        self._hurry.set()
        self._end(_LostError("the settings changed"))

    async def unregister(
        self, reason: register_pb2.UnregisterReason.ValueType, timeout_seconds: float
    ) -> None:
        """Tell the controller that the instance leaves. Raises UnreachableError or RefusedError."""
        if not self.instance_id:
            raise UnreachableError(f"the instance's own id is not known yet: {self.reason}")
        request = register_pb2.UnregisterRequest(instance_id=self.instance_id, reason=reason)
        try:
            if self._stub is not None:
                await self._stub.Unregister(request, timeout=timeout_seconds)
                return
            target = (await self._locator.locate())[0]
            async with self._connect(target) as channel:
                await register_pb2_grpc.RegisterServiceStub(channel).Unregister(
                    request, timeout=timeout_seconds
                )
        except LocateError as error:
            raise UnreachableError(str(error)) from error
        except grpc.aio.AioRpcError as error:
            said = _in_words(error)
            raise (UnreachableError(said) if error.code() in _UNREACHABLE else RefusedError(said)) from error
        except asyncio.CancelledError as error:
            # gRPC raises it also for a call whose channel was closed, as happens when the session ends meanwhile.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise UnreachableError("the session ended meanwhile") from error

    async def leave(self) -> None:
        """Say good-bye in a session that is up; the controller finds out by itself otherwise."""
        if self.state is not SessionState.UP:
            return
        try:
            await self.unregister(register_pb2.UNREGISTER_REASON_STOPPING, LEAVE_SECONDS)
        except (UnreachableError, RefusedError) as error:
            log.warning("unregister_failed", reason=str(error))

    async def _attempt(self) -> None:
        """One session from beginning to end; always ends with _LostError."""
        self.controller = self._locator.described
        try:
            if not self.instance_id:
                self.instance_id = await self._find_instance_id()
            targets = await self._locator.locate()
        except (ImdsError, LocateError) as error:
            raise _LostError(str(error)) from error
        unreachable = []
        for target in targets:
            self.controller, self.controller_ips = str(target.address), target.ips
            try:
                await self._try(target)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _UNREACHABLE:
                    raise _LostError(_in_words(error), refused=error.code() in _REFUSALS) from error
                unreachable.append(f"{target.address}: {_in_words(error)}")
        raise _LostError("; ".join(unreachable))

    async def _try(self, target: Target) -> None:
        """A session with this controller. Raises AioRpcError when it could not register, _LostError after that."""
        identity = register_pb2.AgentIdentity(
            instance_id=self.instance_id,
            monitor_port=self._me.monitor_port,
            agent_version=self._me.agent_version,
            boot_id=self._me.boot_id,
        )
        async with self._connect(target) as channel:
            stub = register_pb2_grpc.RegisterServiceStub(channel)
            registered = await stub.Register(
                register_pb2.RegisterRequest(identity=identity), timeout=REGISTER_SECONDS
            )
            self.group = registered.group
            self._adopt(registered.settings)
            self._stub = stub
            raise await self._converse(stub.Session(), identity)

    async def _converse(
        self,
        call: "grpc.aio.StreamStreamCall[register_pb2.SessionRequest, register_pb2.SessionResponse]",
        identity: register_pb2.AgentIdentity,
    ) -> _LostError:
        """Stream until the session ends, and return why it did."""
        running = asyncio.get_running_loop()
        self._ended = running.create_future()
        timers = (
            running.call_later(UP_SECONDS, self._is_up),
            running.call_later(self._order_again_seconds, self._drain.forget_unrepeated),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [
                    tasks.create_task(self._write(call, identity), name="session:write"),
                    tasks.create_task(self._read(call), name="session:read"),
                ]
                lost = await self._ended
                for loop in loops:
                    loop.cancel()
            return lost
        finally:
            for timer in timers:
                timer.cancel()
            self._ended = None
            call.cancel()

    async def _write(
        self,
        call: "grpc.aio.StreamStreamCall[register_pb2.SessionRequest, register_pb2.SessionResponse]",
        identity: register_pb2.AgentIdentity,
    ) -> None:
        try:
            await self._put(call, register_pb2.SessionRequest(hello=register_pb2.Hello(identity=identity)))
            self._hooks.session_began()
            if self._drain.ordered:
                self._reports_sent = -1  # this controller may be another one
            pace, leases = _Pace(self._latest, self._monotonic), NewLeases(self._busy, self._latest.wake.set)
            while True:
                # Read before the leases are: an end that comes while they are sent is told after those that follow it.
                reports, progress = self._drain.reports, self._drain.report
                is_drain_told = reports == self._reports_sent
                # Before the drain's answer, after which an instance without a lease may be terminated.
                if (held := leases.next(at_once=not is_drain_told)) is not None:
                    await self._put(call, register_pb2.SessionRequest(leases=self._busy.message(held)))
                if not is_drain_told:
                    if progress is not None and progress is self._drain.report:  # no resume came meanwhile
                        await self._put(call, register_pb2.SessionRequest(drain_progress=progress))
                    self._reports_sent = reports
                while (told := self._hooks.unsent()) is not None:
                    await self._put(call, register_pb2.SessionRequest(hook_progress=told))
                    self._hooks.sent(told)
                # The controller takes an instance that sends samples and tells no leases for an idle one.
                if (request := pace.next(may_sample=leases.told)) is not None:
                    await self._put(call, request)
                    if request.HasField("sample"):
                        self.counters.samples += 1
                    else:
                        self.counters.heartbeats += 1
                await self._latest.wake.wait()
                self._latest.wake.clear()
        except TimeoutError:
            self._end(_LostError(f"the controller took no message for {WRITE_SECONDS:g} s"))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over, and the reading side has its status

    async def _put(
        self,
        call: "grpc.aio.StreamStreamCall[register_pb2.SessionRequest, register_pb2.SessionResponse]",
        request: register_pb2.SessionRequest,
    ) -> None:
        if self._is_stopping():
            return  # a command that is killed because the agent stops would pass for one that ended by itself
        async with asyncio.timeout(WRITE_SECONDS):
            await call.write(request)

    async def _read(
        self, call: "grpc.aio.StreamStreamCall[register_pb2.SessionRequest, register_pb2.SessionResponse]"
    ) -> None:
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                assert isinstance(response, register_pb2.SessionResponse)
                self._is_up()
                match response.WhichOneof("message"):
                    case "settings":
                        self._adopt(response.settings)
                    case "drain":
                        self._start_drain(response.drain)
                    case "resume":
                        self._drain.resume(response.resume.reason)
                    case "run_hook":
                        self._hooks.request(response.run_hook, self.group, self.instance_id)
                    case _:
                        log.debug("message_ignored")  # of a newer controller
            self._end(_LostError("the controller ended the session"))
        except grpc.aio.AioRpcError as error:
            self._end(_LostError(_in_words(error), refused=error.code() in _REFUSALS))

    def _adopt(self, settings: register_pb2.AgentSettings) -> None:
        seconds = settings.sample_interval_seconds
        if MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
            self._set_interval(seconds)
        elif seconds != 0:  # 0 is an absent field: our own setting holds
            log.warning("settings_refused", sample_interval_seconds=seconds, reason="not within 0.1 to 60")

    def _start_drain(self, request: register_pb2.Drain) -> None:
        if fault := check_drain_timeout(request.timeout_seconds):
            log.warning("drain_refused", reason=fault)
            return
        self._drain.request(request.timeout_seconds, request.reason)

    def _is_up(self) -> None:
        if self.state is SessionState.UP or self._ended is None:
            return
        self._up_at = self._monotonic()
        self.counters.sessions += 1
        log.info("session_up", controller=self.controller, group=self.group, instance_id=self.instance_id)
        self._enter(SessionState.UP, "")

    def _end(self, lost: _LostError) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(lost)

    def _tell_lost(self, lost: _LostError) -> None:
        if lost.reason != self._told:
            event = "session_refused" if lost.refused else "session_lost"
            log.warning(event, controller=self.controller, reason=lost.reason)
            self._told = lost.reason

    def _enter(self, state: SessionState, reason: str) -> None:
        self.state, self.reason = state, reason
        self._changed()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass


def backoff_seconds(attempt: int, *, refused: bool, chance: float) -> float:
    """How long to wait before trying again; `attempt` counts failures from 0, `chance` is within 0 to 1."""
    first = REFUSED_FIRST_SECONDS if refused else BACKOFF_FIRST_SECONDS
    ceiling = min(BACKOFF_CAP_SECONDS, first * 2.0 ** min(attempt, 16))
    # A refusal is repeated no sooner than half of it: the answer will hardly have changed.
    return ceiling * (0.5 + chance / 2) if refused else ceiling * chance


def _in_words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or 'no details'}"
