"""An EC2 that says what a test tells it to, over real HTTP."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from controller_asg.model.clock import SystemClock

Form = dict[str, str]
Reply = tuple[int, str]  # status and body; status 0: the connection is closed without a word
NS = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'


class InstantClock(SystemClock):
    """Backoffs take no time here; how long they are is the limiter's own test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.ahead += seconds
        await super().sleep(0)


class Server:
    """Answers each request with what `reply` says to its form."""

    def __init__(self, reply: Callable[[Form], Reply]) -> None:
        self.asked: list[Form] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {key: values[0] for key, values in parse_qs(body).items()}
                server.asked.append(form)
                status, text = reply(form)
                if not status:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def fault(code: str, status: int = 400, message: str = "why") -> Reply:
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"


def item(instance_id: str, state: str = "running", token: str = "act-1") -> str:
    tags = {"group": "web", "activity": token, "launch-version": "v1", "controller": "main"}
    listed = "".join(
        f"<item><key>controller-asg:{key}</key><value>{value}</value></item>" for key, value in tags.items()
    )
    return (
        f"<item><instanceId>{instance_id}</instanceId><instanceState><name>{state}</name></instanceState>"
        f"<launchTime>2030-01-01T00:00:00Z</launchTime><tagSet>{listed}</tagSet></item>"
    )


def instances(*items: str, next_token: str = "") -> Reply:
    reservation = (
        f"<item><reservationId>r-1</reservationId><instancesSet>{''.join(items)}</instancesSet></item>"
    )
    body = f"<reservationSet>{reservation}</reservationSet>"
    body += f"<nextToken>{next_token}</nextToken>" if next_token else ""
    return 200, f"<DescribeInstancesResponse {NS}>{body}</DescribeInstancesResponse>"


def launched(*items: str) -> Reply:
    body = f"<reservationId>r-1</reservationId><instancesSet>{''.join(items)}</instancesSet>"
    return 200, f"<RunInstancesResponse {NS}>{body}</RunInstancesResponse>"


def statuses(**checks: tuple[str, str]) -> Reply:
    items = "".join(
        f"<item><instanceId>{key.replace('_', '-')}</instanceId>"
        f"<instanceStatus><status>{of_instance}</status></instanceStatus>"
        f"<systemStatus><status>{of_system}</status></systemStatus></item>"
        for key, (of_instance, of_system) in checks.items()
    )
    body = f"<instanceStatusSet>{items}</instanceStatusSet>"
    return 200, f"<DescribeInstanceStatusResponse {NS}>{body}</DescribeInstanceStatusResponse>"


def terminated() -> Reply:
    return 200, f"<TerminateInstancesResponse {NS}><instancesSet/></TerminateInstancesResponse>"
