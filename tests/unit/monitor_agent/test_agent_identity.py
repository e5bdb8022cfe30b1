"""Who the instance is, from instance metadata; and the HTTP client that asks."""

import asyncio

import pytest
from agent_world import INSTANCE_ID, FakeHttp, FakeProc

from monitor_agent.http_client import HttpError, fetch
from monitor_agent.identity import Imds, ImdsError, read_boot_id


async def test_the_instance_id_is_asked_with_a_token(imds: FakeHttp) -> None:
    assert await Imds(imds.url).instance_id() == INSTANCE_ID
    assert [request for request, _, _ in imds.requests] == [
        "PUT /latest/api/token",
        "GET /latest/meta-data/instance-id",
    ]
    assert imds.requests[0][1]["x-aws-ec2-metadata-token-ttl-seconds"] == "300"


async def test_metadata_that_is_switched_off_or_silent_is_an_error_with_its_url(fake_http: FakeHttp) -> None:
    with pytest.raises(ImdsError, match=r"PUT http://127\.0\.0\.1:.*/latest/api/token: HTTP 404"):
        await Imds(fake_http.url).instance_id()
    with pytest.raises(ImdsError, match=r"token: .*Connect call failed"):
        await Imds("http://127.0.0.1:1").instance_id()


async def test_an_answer_that_is_no_instance_id_is_refused(imds: FakeHttp) -> None:
    imds.pages["GET /latest/meta-data/instance-id"] = (200, b"<html>captive portal</html>")
    with pytest.raises(ImdsError, match="as instance id"):
        await Imds(imds.url).instance_id()


def test_the_boot_id_is_the_kernels(proc: FakeProc) -> None:
    assert read_boot_id(proc.path) == "11111111-2222-3333-4444-555555555555"
    assert read_boot_id(proc.path / "nowhere") == ""


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", b"abc"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_each_way_to_frame_a_body_is_read(answer: bytes, body: bytes) -> None:
    assert (await ask_raw(answer)).body == body


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "0 bytes read"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", "larger than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101, "larger than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", "larger than 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "5 bytes read"),
        (b"x" * 100_000, "limit"),
    ],
)
async def test_a_broken_or_too_large_answer_is_an_error(answer: bytes, why: str) -> None:
    with pytest.raises(HttpError, match=why):
        await ask_raw(answer)


async def ask_raw(answer: bytes):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await fetch(f"http://127.0.0.1:{port}/", timeout_seconds=10, limit_bytes=100)
