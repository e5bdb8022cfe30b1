"""The lab's own control: a Unix socket that takes one line of JSON and answers with one.

Only root can open it. Requests are {"do": NAME, …arguments}; answers {"ok": …} or {"error": "…"}.
"""

import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from typing import Any

from asg_lab import paths
from asg_lab.errors import LabError

log = logging.getLogger(__name__)

ANSWER_SECONDS = 60.0  # the slowest is a freeze on a busy host

Handlers = Mapping[str, Callable[..., Any]]


def serve(name: str, handlers: Handlers) -> socketserver.ThreadingUnixStreamServer:
    """Answer on the lab's socket, in a thread."""
    path = paths.control_socket(name)
    path.unlink(missing_ok=True)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if line:
                self.wfile.write(json.dumps(_answer(handlers, line)).encode() + b"\n")

    before = os.umask(0o077)
    try:
        server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
    finally:
        os.umask(before)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()
    return server


def _answer(handlers: Handlers, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        handler = handlers[request.pop("do")]
        return {"ok": handler(**request)}
    except LabError as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("control request failed: %s", line[:200])
        return {"error": f"{type(error).__name__}: {error}"}


def ask(name: str, do: str, **arguments: Any) -> Any:
    """Have a running lab do something. Raises LabError when it can't or is not there."""
    request = json.dumps({"do": do} | arguments).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(str(paths.control_socket(name)))
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                line = stream.readline()
        except (FileNotFoundError, ConnectionError) as error:
            raise LabError(f"lab {name} is not running; start it with: lab start --name {name}") from error
        except TimeoutError as error:
            raise LabError(f"lab {name} did not answer within {ANSWER_SECONDS:g} s") from error
    if not line:
        raise LabError(f"lab {name} ended while it was asked")
    answer = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["ok"]
