"""The agent's HTTP/1.1 server for the machine itself: /metrics, /healthz, /busy, /set-metric, /unregister.

One request a connection, everything bounded: an HTTP framework would cost more memory than the rest of the agent.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from monitor_agent.faults import Fault, FaultsError
from monitor_agent.log import EventLog
from monitor_agent.settings import Address

HEAD_BYTES, BODY_BYTES = 8192, 4096
REQUEST_SECONDS = 5.0  # to send a whole request, so that a slow client holds a connection no longer
ANSWER_SECONDS = 15.0  # the longest handler, /unregister, looks the controller up and waits 5 s for it
MAX_CONNECTIONS = 16

log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[bytes], Awaitable[Reply]]  # takes the request's body


@dataclass(frozen=True, slots=True)
class Route:
    handler: Handler
    changes: bool  # wants the token, when there is one


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _ReplyError(Exception):
    """The request ends here, with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class LocalHttp:
    """Serves routes by path and method. `token` is read at each request, so that a reload can change it."""

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Route]],
        token: Callable[[], str | None],
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._routes, self._token, self._request_seconds = routes, token, request_seconds
        # In the order of their arrival; True while the request has not come.
        self._connections: dict[asyncio.StreamWriter, bool] = {}
        self._server: asyncio.Server | None = None

    async def start(self, listen: Address) -> int:
        """Listen, and return the port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, listen.host, listen.port, limit=HEAD_BYTES)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from asyncio's own task: it may not raise."""
        self._make_room()
        self._connections[writer] = True
        try:
            async with asyncio.timeout(self._request_seconds + ANSWER_SECONDS):
                reply = await self._reply(reader, writer)
                writer.write(_encode(reply))
                await writer.drain()
                writer.write_eof()
                # Closing on unread input resets the connection, and the client would never see why it was refused.
                async with asyncio.timeout(1):
                    for _ in range(64):
                        if not await reader.read(65536):
                            break
        except (OSError, TimeoutError):
            pass  # the client left
        except Exception as error:
            log.error("http_request_failed", exc_info=error)
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    def _make_room(self) -> None:
        """Let the one go that has waited longest without a request: whoever opens many must not keep the others out."""
        if len(self._connections) < MAX_CONNECTIONS:
            return
        for writer, waits in self._connections.items():
            if waits:
                del self._connections[writer]
                writer.transport.abort()
                return

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply:
        if len(self._connections) > MAX_CONNECTIONS:
            return failure(
                HTTPStatus.SERVICE_UNAVAILABLE, "connection", f"more than {MAX_CONNECTIONS} at once"
            )
        try:
            async with asyncio.timeout(self._request_seconds):
                request = await _read_request(reader)
            self._connections[writer] = False
            return await self._route(request).handler(request.body)
        except TimeoutError:
            return failure(
                HTTPStatus.REQUEST_TIMEOUT, "request", f"not sent within {self._request_seconds:g} s"
            )
        except _ReplyError as error:
            return error.reply
        except FaultsError as error:
            return faults(HTTPStatus.BAD_REQUEST, *error.faults)

    def _route(self, request: _Request) -> Route:
        methods = self._routes.get(request.path)
        if methods is None:
            mend = "known are " + ", ".join(sorted(self._routes))
            raise _ReplyError(failure(HTTPStatus.NOT_FOUND, request.path[:64], "no such route", mend))
        route = methods.get(request.method)
        if route is None:
            what, allowed = f"{request.method[:16]} is not served here", ", ".join(methods)
            reply = failure(HTTPStatus.METHOD_NOT_ALLOWED, request.path, what, f"use {allowed}")
            raise _ReplyError(Reply(reply.status, reply.body, headers={"Allow": allowed}))
        token = self._token()
        sent = request.headers.get("authorization", "")
        if route.changes and token is not None and not is_bearer(sent, token):
            mend = "send Authorization: Bearer and the token of http_token_file"
            reply = failure(HTTPStatus.UNAUTHORIZED, "Authorization", "missing or wrong", mend)
            raise _ReplyError(Reply(reply.status, reply.body, headers={"WWW-Authenticate": "Bearer"}))
        return route


def is_bearer(authorization: str, token: str) -> bool:
    """Whether the text of an Authorization header holds the token."""
    import hmac  # with OpenSSL: only where there is a token

    sent = authorization.encode("latin-1", "replace")
    return hmac.compare_digest(sent, f"Bearer {token}".encode())


def document(status: HTTPStatus, content: Mapping[str, object]) -> Reply:
    """A reply with a JSON object."""
    return Reply(status, json.dumps(content).encode() + b"\n")


def faults(status: HTTPStatus, *found: Fault) -> Reply:
    """A reply that says what was wrong: `{"errors": [{"where", "what", "mend"}]}`."""
    return document(status, {"errors": [fault.document() for fault in found]})


def failure(status: HTTPStatus, where: str, what: str, mend: str = "") -> Reply:
    return faults(status, Fault(where, what, mend))


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise _ReplyError(failure(status, "headers", f"more than {HEAD_BYTES} bytes")) from error
    except asyncio.IncompleteReadError as error:
        raise _bad_request() from error
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _bad_request()
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or name.lower() in headers:
            raise _bad_request()
        headers[name.lower()] = value.strip()
    path = words[1].partition("?")[0]
    return _Request(words[0], path, headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        mend = "send Content-Length"
        raise _ReplyError(failure(HTTPStatus.LENGTH_REQUIRED, "Transfer-Encoding", "not served here", mend))
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise _bad_request()
    if len(length) > 9 or int(length) > BODY_BYTES:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise _ReplyError(failure(status, "body", f"more than {BODY_BYTES} bytes", "send less"))
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as error:
        raise _bad_request() from error


def _bad_request() -> _ReplyError:
    return _ReplyError(failure(HTTPStatus.BAD_REQUEST, "request", "not a whole HTTP/1.1 request"))


def _encode(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status.value} {reply.status.phrase}",
        f"Content-Type: {reply.content_type}",
        f"Content-Length: {len(reply.body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + reply.body
