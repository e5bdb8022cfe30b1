"""One HTTP/1.1 request on asyncio's streams: instance metadata, the EC2 API and an OpenMetrics page need no more.

It follows no redirect, keeps no connection and reads no proxy settings: each of the three answers where it is asked.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from monitor_agent.https import has_https

HEADER_BYTES = 16384


class HttpError(Exception):
    """No answer came, or none that can be read. The message names the URL."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_seconds: float,
    limit_bytes: int = 262144,
) -> Response:
    """The answer of any status. Raises HttpError when none came in time or it is larger than the limit."""
    parts = urlsplit(url)
    name = f"{method} {parts.scheme}://{parts.netloc}{parts.path}"  # without the query: it may hold a secret
    if parts.scheme == "https" and not has_https():
        raise HttpError(f"{name}: https was not configured at the agent's start; restart it")
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(
                parts.hostname,
                parts.port or (443 if parts.scheme == "https" else 80),
                ssl=True if parts.scheme == "https" else None,
                limit=HEADER_BYTES,
            )
            try:
                writer.write(
                    _request(method, parts.netloc, _target(parts.path, parts.query), headers or {}, body)
                )
                await writer.drain()
                return await _response(reader, limit_bytes)
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise HttpError(f"{name}: no answer within {timeout_seconds:g} s") from error
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise HttpError(f"{name}: {error or type(error).__name__}") from error


def _target(path: str, query: str) -> str:
    return (path or "/") + (f"?{query}" if query else "")


def _request(method: str, host: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _response(reader: asyncio.StreamReader, limit_bytes: int) -> Response:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("the answer is not HTTP/1")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    status = int(rest[:3])
    if status in (204, 304):
        return Response(status, headers, b"")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return Response(status, headers, await _chunks(reader, limit_bytes))
    length = int(headers["content-length"]) if "content-length" in headers else None
    if length is not None:
        if not 0 <= length <= limit_bytes:
            raise ValueError(f"the answer is larger than {limit_bytes} bytes")
        return Response(status, headers, await reader.readexactly(length))
    body = bytearray()
    while part := await reader.read(65536):
        body += part
        if len(body) > limit_bytes:
            raise ValueError(f"the answer is larger than {limit_bytes} bytes")
    return Response(status, headers, bytes(body))


async def _chunks(reader: asyncio.StreamReader, limit_bytes: int) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size < 0 or len(body) + size > limit_bytes:
            raise ValueError(f"the answer is larger than {limit_bytes} bytes")
        part = await reader.readexactly(size + 2)
        if size == 0:
            return bytes(body)
        body += part[:-2]
