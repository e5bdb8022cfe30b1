"""The API endpoint: moto's application, with the call log, the injected faults and the lock around it.

A call is answered under the world's lock; delays are waited for outside of it. A lost answer does the work first, then
closes the connection, which is what a client cannot tell from a launch that never happened.
"""

import io
import json
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from asg_lab.faults import Fault, Kind
from asg_lab.records import Call
from asg_lab.world import World

StartResponse = Callable[..., Any]
READS = ("Describe", "Get", "List")
ERROR_STATUS = {  # EC2's server errors and its throttling; the rest are 400
    "RequestLimitExceeded": "503 Service Unavailable",
    "Unavailable": "503 Service Unavailable",
    "ServiceUnavailable": "503 Service Unavailable",
    "InternalError": "500 Internal Server Error",
    "InsufficientInstanceCapacity": "500 Internal Server Error",
    "InsufficientCapacity": "500 Internal Server Error",
}


class Api:
    """A WSGI application around moto's."""

    def __init__(self, world: World, moto_application: Any) -> None:
        self._world = world
        self._moto = moto_application

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = _read_call(environ)
        self._world.records.call(call)
        met = self._world.faults.take(call.action)
        if met:
            call.fault = ",".join(fault.kind.value for fault in met)
        for fault in met:
            if fault.kind is Kind.DELAY:
                time.sleep(fault.seconds or 0.0)
        try:
            for fault in met:
                if fault.kind in (Kind.THROTTLE, Kind.ERROR):
                    return _error(call, fault, start_response)
            answer = self._answer(environ, call)
            if any(fault.kind is Kind.LOST_ANSWER for fault in met):
                call.status = None
                return _lose(environ, start_response)
            status, headers, body = answer
            start_response(status, headers)
            return [body]
        finally:
            call.seconds = time.time() - call.at

    def _answer(self, environ: dict[str, Any], call: Call) -> tuple[str, list[tuple[str, str]], bytes]:
        """moto's answer, with EC2's HTTP status for errors that moto sends as 400."""
        caught: list[Any] = []

        def catch(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            caught[:] = [status, headers]

        with self._world.lock:
            body = b"".join(self._moto(environ, catch))
            if not call.action.startswith(READS):
                self._world.remember()
        status, headers = caught
        if not status.startswith("2"):
            call.error_code = _error_code(body)
            status = ERROR_STATUS.get(call.error_code or "", status)
        call.status = int(status.split()[0])
        return status, headers, body


def _read_call(environ: dict[str, Any]) -> Call:
    """What is asked for; leaves the body to be read again."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(body)
    call = Call(at=time.time(), action="?", source=environ.get("REMOTE_ADDR", ""))
    if target := environ.get("HTTP_X_AMZ_TARGET"):  # the JSON protocol, for instance SSM's
        call.action = target.rpartition(".")[2]
        return call
    form = parse_qs(body.decode(errors="replace") or environ.get("QUERY_STRING", ""), keep_blank_values=True)
    call.action = form.get("Action", ["?"])[0]
    call.client_token = form.get("ClientToken", [None])[0]
    most = form.get("MaxCount", [""])[0]
    ids = sum(key.startswith("InstanceId.") for key in form)
    call.count = int(most) if most.isdigit() else ids or None
    return call


def _error(call: Call, fault: Fault, start_response: StartResponse) -> list[bytes]:
    code = fault.error_code or "RequestLimitExceeded"
    status = ERROR_STATUS.get(code, "400 Bad Request")
    call.status, call.error_code = int(status.split()[0]), code
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(code)}</Code><Message>Injected by lab fault {escape(fault.id)}</Message>"
        "</Error></Errors><RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
    )
    start_response(status, [("Content-Type", "text/xml")])
    return [text.encode()]


def _lose(environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    """Close the connection instead of answering."""
    connection = environ.get("werkzeug.socket")
    if isinstance(connection, socket.socket):
        connection.shutdown(socket.SHUT_RDWR)
    start_response("200 OK", [("Content-Length", "0")])
    return []


def _error_code(body: bytes) -> str | None:
    """The error's code, out of EC2's XML or SSM's JSON."""
    text = body.decode(errors="replace")
    if "<Code>" in text:
        return text.split("<Code>", 1)[1].split("</Code>", 1)[0]
    try:
        return str(json.loads(text).get("__type", "")).rpartition("#")[2] or None
    except (ValueError, AttributeError):
        return None
