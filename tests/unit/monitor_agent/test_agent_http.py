"""The local HTTP routes, over real connections."""

import asyncio
import contextlib
import json
from http import HTTPStatus

import grpc
import pytest
from agent_world import INSTANCE_ID, Ask, FakeController, FakeProc, RunAgent, until

from asg.register.v1 import register_pb2
from monitor_agent.local_http import MAX_CONNECTIONS, LocalHttp, Reply, Route
from monitor_agent.session import SessionState
from monitor_agent.settings import Address

TOKEN = "0123456789abcdef"


async def test_healthz_is_200_in_session_and_says_why_when_not(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    async with run_agent(controller.port) as agent:
        await until(lambda: agent.session.state is SessionState.UP)
        status, headers, body = await ask(agent.http_port, "GET /healthz")
        assert (status, headers["content-type"]) == (200, "application/json")
        content = json.loads(body)
        assert content["healthy"] is True
        assert (content["instance_id"], content["group"]) == (INSTANCE_ID, "web")
        await controller.stop()
        await until(lambda: agent.session.state is SessionState.WAITING)
        status, _, body = await ask(agent.http_port, "GET /healthz")
        assert status == 503
        assert "no session with 127.0.0.1" in json.loads(body)["reasons"][0]


async def test_metrics_are_prometheus_text(
    controller: FakeController, run_agent: RunAgent, proc: FakeProc, ask: Ask
) -> None:
    async with run_agent(controller.port) as agent:
        await until(lambda: agent.session.state is SessionState.UP)
        agent.latest.set_application("command", {'queue{name="mail"}': 3.0})
        status, headers, body = await ask(agent.http_port, "GET /metrics?x=1")
    assert status == 200
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = body.decode().splitlines()
    assert "monitor_agent_memory_percent 25.0" in lines
    assert "# TYPE monitor_agent_memory_percent gauge" in lines
    assert 'monitor_agent_application{name="queue{name=\\"mail\\"}"} 3.0' in lines
    assert "monitor_agent_session_up 1" in lines
    assert "monitor_agent_sessions_total 1" in lines
    assert body.endswith(b"\n")


async def test_set_metric_overrides_and_a_wrong_body_changes_nothing(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    async with run_agent(controller.port) as agent:
        status, _, body = await ask(agent.http_port, "POST /set-metric", b'{"metric": 90, "seconds": 60}')
        assert (status, json.loads(body)) == (200, {"metric": 90.0, "seconds": 60.0})
        for wrong in (b'{"metric": 101}', b'{"metric": NaN}', b"load", b"", b'{"metric": 5, "x": 1}'):
            status, _, body = await ask(agent.http_port, "POST /set-metric", wrong)
            assert status == 400
            (error,) = json.loads(body)["errors"]
            assert set(error) == {"where", "what", "mend"}
        assert agent.latest.override.cpu_percent == 90


async def test_unregister_is_passed_on_as_requested(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    async with run_agent(controller.port) as agent:
        await until(lambda: agent.session.state is SessionState.UP)
        status, _, body = await ask(agent.http_port, "POST /unregister")
        assert (status, json.loads(body)) == (202, {"unregistered": INSTANCE_ID})
        request = controller.unregistered.get_nowait()
        assert request.reason == register_pb2.UNREGISTER_REASON_REQUESTED
        controller.refuse = (grpc.StatusCode.NOT_FOUND, "no such instance")
        status, _, body = await ask(agent.http_port, "POST /unregister")
        assert status == 502
        assert "no such instance" in json.loads(body)["errors"][0]["what"]


async def test_unregister_without_a_controller_is_503_with_the_reason(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    await controller.stop()
    async with run_agent(controller.port) as agent:
        await until(lambda: agent.session.state is SessionState.WAITING)
        status, _, body = await ask(agent.http_port, "POST /unregister")
        assert status == 503
        assert "UNAVAILABLE" in json.loads(body)["errors"][0]["what"]


async def test_routes_that_change_something_want_the_token_and_the_others_do_not(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    async with run_agent(controller.port, token=TOKEN) as agent:
        body = b'{"metric": 90}'
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            status, answer, _ = await ask(agent.http_port, "POST /set-metric", body, headers)
            assert (status, answer["www-authenticate"]) == (401, "bearer")
            assert (await ask(agent.http_port, "POST /unregister", b"", headers))[0] == 401
            assert (await ask(agent.http_port, "POST /busy", b'{"owner": "a"}', headers))[0] == 401
            assert (await ask(agent.http_port, "DELETE /busy", b'{"owner": "a"}', headers))[0] == 401
        assert agent.latest.override.cpu_percent is None
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert (await ask(agent.http_port, "POST /set-metric", body, right))[0] == 200
        assert (await ask(agent.http_port, "GET /metrics"))[0] == 200
        assert (await ask(agent.http_port, "GET /busy"))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /set-metric HTTP/1.1\r\n\r\n", 405),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"PUT /busy HTTP/1.1\r\n\r\n", 405),
        (b"POST /set-metric HTTP/1.1\r\nContent-Length: 4097\r\n\r\n" + b" " * 4097, 413),
        (b"POST /set-metric HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n", 413),
        (b"POST /set-metric HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /set-metric HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}", 400),
        (b"POST /set-metric HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics SMTP\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400),
    ],
)
async def test_what_is_not_served_gets_its_status(
    controller: FakeController, run_agent: RunAgent, ask: Ask, request_bytes: bytes, status: int
) -> None:
    async with run_agent(controller.port) as agent:
        got, headers, body = await ask.send(agent.http_port, request_bytes)  # type: ignore[attr-defined]
    assert got == status
    assert json.loads(body)["errors"]
    assert ("allow" in headers) == (status == 405)


async def test_one_connection_too_many_ends_the_one_that_waited_longest(
    controller: FakeController, run_agent: RunAgent, ask: Ask
) -> None:
    async with run_agent(controller.port) as agent:
        idle = [await asyncio.open_connection("127.0.0.1", agent.http_port) for _ in range(MAX_CONNECTIONS)]
        assert (await ask(agent.http_port, "GET /metrics"))[0] == 200
        first, last = idle[0], idle[-1]
        with contextlib.suppress(ConnectionError):
            assert await first[0].read() == b""
        last[1].write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await last[0].read()).startswith(b"HTTP/1.1 200")
        for _, writer in idle:
            writer.close()


async def test_more_requests_than_can_be_answered_at_once_are_refused(ask: Ask) -> None:
    go = asyncio.Event()
    running = 0

    async def wait(body: bytes) -> Reply:
        nonlocal running
        running += 1
        await go.wait()
        return Reply(HTTPStatus.OK, b"")

    http = LocalHttp({"/wait": {"GET": Route(wait, changes=False)}}, lambda: None)
    port = await http.start(Address("127.0.0.1", 0))
    waiting = [asyncio.ensure_future(ask(port, "GET /wait")) for _ in range(MAX_CONNECTIONS)]
    await until(lambda: running == MAX_CONNECTIONS)
    assert (await ask(port, "GET /wait"))[0] == 503
    go.set()
    assert {status for status, _, _ in await asyncio.gather(*waiting)} == {200}
    await http.stop()


async def test_a_client_that_sends_no_whole_request_is_let_go(ask: Ask) -> None:
    http = LocalHttp({}, lambda: None, request_seconds=0.05)
    port = await http.start(Address("127.0.0.1", 0))
    status, _, _ = await ask.send(port, b"GET /metr")  # type: ignore[attr-defined]
    assert status == 408
    await http.stop()
