"""The fixtures of the agent's tests; what they are made of is in agent_world."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agent_world import (
    DEADLINE_SECONDS,
    INSTANCE_ID,
    Ask,
    FakeController,
    FakeHttp,
    FakeProc,
    RunAgent,
    until,
)

from monitor_agent.agent import Agent
from monitor_agent.notify import Notifier
from monitor_agent.settings import Address, Settings


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    fake = FakeController()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def fake_http() -> Iterator[FakeHttp]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            fake.requests.append((f"{self.command} {self.path}", headers, body))
            status, page = fake.pages.get(f"{self.command} {self.path}", (404, b"not found"))
            if (
                fake.wants_token
                and self.command == "GET"
                and headers.get("x-aws-ec2-metadata-token") != "the-token"
            ):
                status, page = 401, b"no token"
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_GET = do_PUT = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeHttp(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def imds(fake_http: FakeHttp) -> FakeHttp:
    """Instance metadata that wants a token, as IMDSv2 does."""
    fake_http.wants_token = True
    fake_http.pages |= {
        "PUT /latest/api/token": (200, b"the-token"),
        "GET /latest/meta-data/instance-id": (200, INSTANCE_ID.encode()),
        "GET /latest/meta-data/placement/region": (200, b"eu-west-1"),
    }
    return fake_http


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


@pytest.fixture
def run_agent(proc: FakeProc, tmp_path: Path) -> RunAgent:
    """`async with run_agent(controller_port, drain_command=…) as agent`: a whole agent, stopped at the end."""

    @asynccontextmanager
    async def run(
        controller_port: int,
        *,
        token: str | None = None,
        config_path: Path | None = None,
        notifier: Notifier | None = None,
        **settings: Any,
    ) -> AsyncIterator[Agent]:
        values: dict[str, Any] = {
            "controller_address": Address("127.0.0.1", controller_port),
            "instance_id": INSTANCE_ID,
            "monitor_listen": Address("127.0.0.1", 0),
            "http_listen": Address("127.0.0.1", 0),
            "state_dir": tmp_path,
            "busy_directory": tmp_path / "busy.d",
            "sample_interval_seconds": 0.1,
        }
        agent = Agent(
            Settings(**(values | settings)),
            token=token,
            config_path=config_path,
            notifier=notifier,
            proc=proc.path,
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(agent.run())
            await until(lambda: agent.http_port != 0 or running.done())
            try:
                yield agent
            finally:
                agent.stop.set()

    return run


@pytest.fixture
def ask() -> Ask:
    """`await ask(port, "POST /set-metric", body, headers)`: the status, headers and body of one raw exchange."""

    async def exchange(
        port: int, line: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        fields = {"Host": "localhost", "Content-Length": str(len(body))} | (headers or {})
        head = f"{line} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return await send(port, head.encode() + b"\r\n" + body)

    async def send(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await reader.read()
        writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), dict(item.lower().split(": ", 1) for item in lines), content

    exchange.send = send  # type: ignore[attr-defined]  # the same for a request that is not well formed
    return exchange
