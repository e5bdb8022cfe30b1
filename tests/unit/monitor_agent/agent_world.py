"""What the agent talks to, real on loopback: a controller, an HTTP server, and a /proc that a test writes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from asg.register.v1 import register_pb2, register_pb2_grpc

INSTANCE_ID = "i-0123456789abcdef0"
DEADLINE_SECONDS = 20.0

RunAgent = Callable[..., Any]  # see the fixtures run_agent and ask
Ask = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not in time."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the conditions are of code under test, which has no event for them
            await asyncio.sleep(0.005)


@dataclass(slots=True)
class Session:
    """One session as the controller sees it: what came, and a way to answer or to end it."""

    messages: "asyncio.Queue[register_pb2.SessionRequest]" = field(default_factory=asyncio.Queue)
    answers: "asyncio.Queue[register_pb2.SessionResponse | None]" = field(default_factory=asyncio.Queue)

    async def next(self, kind: str) -> Any:
        """The next message of this kind; others before it are passed over."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                message = await self.messages.get()
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)


class FakeController(register_pb2_grpc.RegisterServiceServicer):
    """A RegisterService on a port of loopback. `refuse` makes Register fail with a code and words."""

    def __init__(self) -> None:
        self.registered: list[register_pb2.AgentIdentity] = []
        self.unregistered: asyncio.Queue[register_pb2.UnregisterRequest] = asyncio.Queue()
        self.goodbye = asyncio.Event()  # cleared: Unregister is not answered
        self.goodbye.set()
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.refusals = 0
        self.interval_seconds = 0.1
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        register_pb2_grpc.add_RegisterServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def next_session(self) -> Session:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.sessions.get()

    async def Register(
        self, request: register_pb2.RegisterRequest, context: Any
    ) -> register_pb2.RegisterResponse:
        if self.refuse is not None:
            self.refusals += 1
            await context.abort(*self.refuse)
        self.registered.append(request.identity)
        settings = register_pb2.AgentSettings(sample_interval_seconds=self.interval_seconds)
        return register_pb2.RegisterResponse(settings=settings, group="web")

    async def Unregister(
        self, request: register_pb2.UnregisterRequest, context: Any
    ) -> register_pb2.UnregisterResponse:
        if self.refuse is not None:
            await context.abort(*self.refuse)
        self.unregistered.put_nowait(request)
        await self.goodbye.wait()
        return register_pb2.UnregisterResponse()

    async def Session(self, request_iterator: Any, context: Any) -> None:
        session = Session()
        self.sessions.put_nowait(session)
        settings = register_pb2.AgentSettings(sample_interval_seconds=self.interval_seconds)
        await context.write(register_pb2.SessionResponse(settings=settings))

        async def take() -> None:
            async for message in request_iterator:
                session.messages.put_nowait(message)

        taking = asyncio.ensure_future(take())
        try:
            while (answer := await session.answers.get()) is not None:
                await context.write(answer)
        finally:
            taking.cancel()


class Relay:
    """A TCP relay to a port. Frozen, it keeps its connections and passes nothing on, as a stopped process does."""

    def __init__(self, port: int) -> None:
        self._to_port = port
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.ensure_future(self._pass_on(source, sink))
            self._tasks.add(task)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._thawed.wait()
                sink.write(data)
        except OSError:
            pass
        finally:
            sink.transport.abort()


@dataclass(slots=True)
class FakeHttp:
    """An HTTP server in a thread: `pages` by "METHOD /path", a status and a body each; `requests` is what came."""

    url: str
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    wants_token: bool = False


class FakeProc:
    """A /proc of files that a test rewrites in place, as the kernel's change under an open descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
        self.cpu(100, 0, 50, 800, 50)
        self.write("loadavg", "0.50 0.40 0.30 1/100 1234\n")
        self.write("meminfo", "MemTotal:        1000000 kB\nMemFree: 1 kB\nMemAvailable:     750000 kB\n")
        self.network(1000, 500)

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cpu(self, *ticks: int, cpus: int = 2) -> None:
        lines = "".join(f"cpu{number} 0 0 0 0\n" for number in range(cpus))
        padded = " ".join(str(tick) for tick in (*ticks, *[0] * (10 - len(ticks))))
        self.write("stat", f"cpu  {padded}\n{lines}intr 1\n")

    def network(self, arrived: int, left: int) -> None:
        head = "Inter-|   Receive   |  Transmit\n face |bytes packets |bytes packets\n"
        lo = "    lo: 777777 0 0 0 0 0 0 0 777777 0 0 0 0 0 0 0\n"
        self.write("net/dev", f"{head}{lo}  eth0: {arrived} 1 0 0 0 0 0 0 {left} 1 0 0 0 0 0 0\n")
