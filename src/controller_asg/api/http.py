"""The HTTP API: the first design's /create and /kill/<id>, and /v1 for everything else. Off without a token.

Every request but /healthz and signed messages carries the token, a wrong path too, so nothing is told to who has none.
/create and /kill
take GET as in the first design; HEAD must not reach them, for Starlette answers it by running the GET.
"""

import asyncio
import contextlib
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from controller_asg.api import orders
from controller_asg.api.http_orders import ORDERS, Handle
from controller_asg.api.json_body import read_json
from controller_asg.api.message_json import to_json
from controller_asg.api.messages import (
    activity_message,
    decision_message,
    demand_message,
    forecast_message,
    group_message,
    instance_message,
    refresh_message,
    timestamp,
)
from controller_asg.api.status_codes import BUG, codes_of, faults_in
from controller_asg.api.webhooks import PATH as WEBHOOKS_PATH
from controller_asg.api.webhooks import Webhooks
from controller_asg.config import split_address
from controller_asg.engine.controller import Controller, InstanceStatus
from controller_asg.engine.lifecycle_actions import LifecycleAction
from controller_asg.model.errors import AsgError, Fault, NotFoundError, SpecError
from controller_asg.model.faults import unknown_key

log = structlog.get_logger()

ACTOR = "the HTTP API"
BODY_LIMIT_BYTES = 16_384
BODY_TIMEOUT_SECONDS = 10.0
CONNECTIONS_LIMIT = 100
LIST_LIMIT = 1_000  # entries an answer
TOKEN_LEAST_CHARACTERS = 16
SIZE_LIMIT = 2**32 - 1
CHANGES = ("cancel", "rollback", "pause", "resume")  # of an instance refresh

Endpoint = Callable[[Request], Awaitable[Response]]


def read_token(path: Path) -> bytes:
    """The bearer token that a file holds. Raises SpecError: no file, or too short to be one."""
    where = "http_token_file"
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        what = f"{path} can't be read: {error.strerror}"
        raise SpecError((Fault(where, what, "see that it exists and the service may read it"),)) from error
    if len(token) < TOKEN_LEAST_CHARACTERS or not token.isascii() or b" " in token or b"\n" in token:
        what = f"{path} holds no token of {TOKEN_LEAST_CHARACTERS} characters or more on one line"
        raise SpecError((Fault(where, what, "write one by `openssl rand -hex 32`"),))
    return token


def build_http_app(
    controller: Controller,
    token: Callable[[], bytes],
    healthy: Callable[[], bool],
    version: str,
    webhook_secrets: Callable[[], tuple[bytes, ...]] = lambda: (),
) -> ASGIApp:
    """`token` and secrets are asked at each request, so that a reload can change them; /healthz answers `healthy`."""
    api = HttpApi(controller, healthy, version)
    webhooks = Webhooks(controller, webhook_secrets)

    async def webhook(request: Request) -> Response:
        return await webhooks.receive(request, await _body(request), errors_response)

    routes = [
        _route("/healthz", api.health, "GET"),
        _route("/create", api.create, "POST", "GET"),
        _route("/kill/{instance_id}", api.kill, "POST", "GET"),
        _route("/v1/status", api.status, "GET"),
        _route("/v1/groups", api.groups, "GET"),
        _route("/v1/groups/{name}", api.group, "GET"),
        _route("/v1/groups/{name}/instances", api.instances, "GET"),
        _route("/v1/groups/{name}/activities", api.activities, "GET"),
        _route("/v1/groups/{name}/decisions", api.decisions, "GET"),
        _route("/v1/groups/{name}/demand", api.demand, "GET"),
        _route("/v1/groups/{name}/forecast", api.forecast, "GET"),
        _route("/v1/webhooks/{group}/{policy}", webhook, "POST"),
        _route("/v1/groups/{name}/desired-capacity", api.set_desired_capacity, "PUT"),
        _route("/v1/groups/{name}/instance-refresh", api.refresh, "GET", "POST"),
        _route("/v1/groups/{name}/instance-refresh/{action}", api.change_refresh, "POST"),
        _route("/v1/instances", api.instances, "GET"),
        _route("/v1/activities", api.activities, "GET"),
        _route("/v1/instances/{instance_id}/health", api.set_health, "PUT"),
        *(_route(path, api.ordered(handle), method) for path, method, handle in ORDERS),
        Route("/v1/instances/{instance_id}", InstanceEndpoint(api)),
        _route("/v1/lifecycle-actions/complete", api.complete_action, "POST"),
        _route("/v1/lifecycle-actions/heartbeat", api.record_heartbeat, "POST"),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            AsgError: _answer_asg_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )
    app.router.redirect_slashes = False  # a redirect would repeat a GET of /create
    return Guard(app, token)


class Guard:
    """In front of every route: the token, and the traceback where a bug of ours broke the call."""

    def __init__(self, app: ASGIApp, token: Callable[[], bytes]) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        signed = (
            scope["path"].startswith(WEBHOOKS_PATH) and scope["method"] == "POST"
        )  # that asks for a signature
        if scope["path"] != "/healthz" and not signed and (refused := self._refusal(scope)) is not None:
            await refused(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Exception:
            # The edge of a request. Starlette has answered by `_answer_bug`, and raises it once more.
            log.exception("request_failed", path=scope["path"])

    def _refusal(self, scope: Scope) -> Response | None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token()):
            return None
        challenge = 'Bearer realm="controller-asg"' + (', error="invalid_token"' if given else "")
        what = "is not the controller's token" if given else "is missing"
        fault = Fault("Authorization", what, "send `Authorization: Bearer` with what http_token_file holds")
        response = errors_response(401, (fault,))
        response.headers["WWW-Authenticate"] = challenge
        return response


class HttpApi:
    """A method a route."""

    def __init__(self, controller: Controller, healthy: Callable[[], bool], version: str) -> None:
        self._controller = controller
        self._healthy = healthy
        self._version = version

    async def health(self, request: Request) -> Response:
        healthy = self._healthy()
        return JSONResponse({"healthy": healthy}, 200 if healthy else 503)

    async def create(self, request: Request) -> Response:
        """One more instance, of `?group=` where there is more than one."""
        group = self._group_meant(_query(request, "group").get("group", ""))
        desired = await self._controller.launch_instances(group, 1, ACTOR)
        body = {"group": group, "desired_capacity": desired, "message": f"{group} grows to {desired}"}
        return JSONResponse(body, 202)

    async def kill(self, request: Request) -> Response:
        """The instance goes. The group shrinks with it, unless it is at its min_size: then it is replaced."""
        _query(request)
        return await self.terminate(request.path_params["instance_id"])

    async def terminate(self, instance_id: str, decrement: bool = True) -> Response:
        group = self.found(instance_id).instance.group
        before = self._controller.groups(group)[0].record.desired_capacity
        group, after, changed = await self._controller.terminate_instance(instance_id, decrement, ACTOR)
        replaced = changed and after >= before
        body = {
            "instance_id": instance_id,
            "group": group,
            "desired_capacity": after,
            "changed": changed,
            "replaced": replaced,
            "message": _end(instance_id, group, before, after, changed, decrement),
        }
        return JSONResponse(body, 202 if changed else 200)

    async def status(self, request: Request) -> Response:
        _query(request)
        status = self._controller.status()
        hourly_cost, ceiling = self._controller.hourly_cost()
        stamp = timestamp(status.started_at)
        body = {
            "version": self._version,
            "started_at": stamp.ToJsonString() if stamp else None,
            "epoch": status.epoch,
            "summary": status.summary,
            "cloud_fault": status.cloud_fault,
            "store_fault": status.store_fault,
            "hourly_cost": hourly_cost,
            "max_hourly_cost": ceiling,
        }
        return JSONResponse(body)

    async def groups(self, request: Request) -> Response:
        _query(request)
        return _listing("groups", map(group_message, self._controller.groups()))

    async def group(self, request: Request) -> Response:
        _query(request)
        (status,) = self._controller.groups(request.path_params["name"])
        return JSONResponse(to_json(group_message(status)))

    async def instances(self, request: Request) -> Response:
        query = _query(request, *_group_key(request))
        name = request.path_params.get("name", "") or query.get("group", "")
        return _listing("instances", map(instance_message, self._controller.instances(name)))

    async def activities(self, request: Request) -> Response:
        query = _query(request, *_group_key(request), "limit", "open_only")
        name = request.path_params.get("name", "") or query.get("group", "")
        found = await self._controller.activities(name, _limit(query, 50), _flag(query, "open_only", False))
        return _listing("activities", map(activity_message, found))

    async def decisions(self, request: Request) -> Response:
        limit = _limit(_query(request, "limit"), 20)
        found = await self._controller.decisions(request.path_params["name"], limit)
        return _listing("decisions", map(decision_message, found))

    async def demand(self, request: Request) -> Response:
        query = _query(request, "since", "until")
        until = _time(query, "until") or datetime.now(UTC)
        since = _time(query, "since") or until - timedelta(days=1)
        found = await self._controller.demand(request.path_params["name"], since, until)
        return _listing("minutes", map(demand_message, found))

    async def forecast(self, request: Request) -> Response:
        _query(request)
        (status,) = self._controller.groups(request.path_params["name"])
        found = await self._controller.forecast(status.record.group.name)
        return JSONResponse(to_json(forecast_message(found, status.record.group)))

    async def set_desired_capacity(self, request: Request) -> Response:
        _query(request)
        wanted = _desired_capacity(await _json_body(request))
        before, after = await self._controller.set_desired_capacity(
            request.path_params["name"], wanted, ACTOR
        )
        return JSONResponse({"group": request.path_params["name"], "before": before, "after": after})

    async def set_health(self, request: Request) -> Response:
        _query(request)
        healthy = _healthy(await _json_body(request))
        instance_id = request.path_params["instance_id"]
        changed = await self._controller.set_instance_health(instance_id, healthy, ACTOR)
        return JSONResponse({"instance_id": instance_id, "healthy": healthy, "changed": changed})

    async def complete_action(self, request: Request) -> Response:
        _query(request)
        body = _action(await _json_body(request), "lifecycle_action_result")
        result = body.pop("lifecycle_action_result", "")
        instance_id, hook = await self._controller.complete_lifecycle_action(_meant(body), result, ACTOR)
        return JSONResponse({"instance_id": instance_id, "lifecycle_hook_name": hook, "result": result})

    async def record_heartbeat(self, request: Request) -> Response:
        _query(request)
        body = _action(await _json_body(request))
        instance_id, hook = await self._controller.record_lifecycle_action_heartbeat(_meant(body))
        return JSONResponse({"instance_id": instance_id, "lifecycle_hook_name": hook})

    async def refresh(self, request: Request) -> Response:
        """Start one by POST, whose body may be empty; GET tells of the last one."""
        _query(request)
        name, code = request.path_params["name"], 200
        if request.method == "POST":
            body = await _json_body(request, {})
            if not isinstance(body, dict):
                raise SpecError((Fault("body", "is not a JSON object", "write preferences, or nothing"),))
            await self._controller.start_instance_refresh(name, body, ACTOR, False)
            code = 202
        return JSONResponse(to_json(refresh_message(self._controller.instance_refresh(name))), code)

    async def change_refresh(self, request: Request) -> Response:
        _query(request)
        name, action = request.path_params["name"], request.path_params["action"]
        if action not in CHANGES:
            raise HTTPException(404)
        changed = await self._controller.change_instance_refresh(name, action, ACTOR, False)
        return JSONResponse({"group": name, "changed": changed}, 202 if changed else 200)

    def ordered(self, handle: Handle) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            _query(request)
            body = await _json_body(request)
            return JSONResponse(await handle(self._controller, request.path_params, body))

        return endpoint

    def found(self, instance_id: str) -> InstanceStatus:
        for status in self._controller.instances():
            if status.instance.instance_id == instance_id:
                return status
        raise NotFoundError("is no instance of ours", f"instances.{instance_id}", "see /v1/instances")

    def _group_meant(self, name: str) -> str:
        if name:
            return name
        names = [status.record.group.name for status in self._controller.groups()]
        if not names:
            raise NotFoundError("there is no group", "group", "apply one with the module asg_group")
        if len(names) > 1:
            fault = Fault(
                "group", "is missing, and there is more than one", f"add ?group= with {_any(names)}"
            )
            raise SpecError((fault,))
        return names[0]


class InstanceEndpoint:
    """GET and DELETE of one instance: two methods of one path, so that 405 names both."""

    def __init__(self, api: HttpApi) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        instance_id = request.path_params["instance_id"]
        match request.method:
            case "GET":
                _query(request)
                response: Response = JSONResponse(to_json(instance_message(self._api.found(instance_id))))
            case "DELETE":
                query = _query(request, "should_decrement_desired_capacity")
                decrement = _flag(query, "should_decrement_desired_capacity", True)
                response = await self._api.terminate(instance_id, decrement)
            case _:
                raise HTTPException(405, headers={"Allow": "GET, DELETE"})
        await response(scope, receive, send)


class HttpServer(uvicorn.Server):
    """uvicorn inside of the daemon's loop: signals are the daemon's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: ASGIApp) -> HttpServer:
    """Run it by `serve(sockets=[…])`; `should_exit = True` ends it."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_LIMIT,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
    )
    return HttpServer(config)


def bind_http(address: str) -> socket.socket:
    """The socket to serve on. uvicorn would end the process where it is taken; this raises SpecError."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        fault = Fault("http_listen", f"{address} can't be listened at: {error.strerror}", "see what holds it")
        raise SpecError((fault,)) from error
    return sock


def errors_response(code: int, faults: Sequence[Fault]) -> JSONResponse:
    body = {"errors": [{"where": f.where, "what": f.what, "mend": f.mend} for f in faults]}
    return JSONResponse(body, code)


def _route(path: str, endpoint: Endpoint, *methods: str) -> Route:
    route = Route(path, endpoint, methods=list(methods))
    assert route.methods is not None
    route.methods.discard("HEAD")
    return route


def _listing(name: str, messages: Any) -> JSONResponse:
    return JSONResponse({name: [to_json(message) for message in _typed(messages)]})


def _typed(messages: Any) -> Iterator[Message]:
    yield from messages


async def _answer_asg_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AsgError)
    _, code = codes_of(error)
    return errors_response(code, faults_in(error))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "")
    mends = {404: "see /v1/groups", 405: f"use {allowed}" if allowed else ""}
    whats = {404: "is no path of this API", 405: f"does not take {request.method}"}
    what = whats.get(error.status_code, error.detail)
    fault = Fault(request.url.path, what, mends.get(error.status_code, ""))
    response = errors_response(error.status_code, (fault,))
    response.headers.update(error.headers or {})
    return response


async def _answer_bug(request: Request, error: Exception) -> Response:
    return errors_response(500, (BUG,))


def _query(request: Request, *known: str) -> dict[str, str]:
    """The query's values; an unknown key is refused, for a mistyped one would be silently without effect."""
    faults = [unknown_key("", key, known) for key in request.query_params if key not in known]
    if faults and not known:
        faults = [
            Fault(fault.where, "is no known key", "leave it out: this path takes none") for fault in faults
        ]
    if faults:
        raise SpecError(tuple(faults))
    return dict(request.query_params)


def _group_key(request: Request) -> tuple[str, ...]:
    """The query's key for a group, where the path names none."""
    return () if "name" in request.path_params else ("group",)


def _limit(query: dict[str, str], default: int) -> int:
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= LIST_LIMIT):
        raise SpecError((Fault("limit", f"{text!r} is no such number", f"write 1 to {LIST_LIMIT}"),))
    return int(text)


def _time(query: dict[str, str], name: str) -> datetime | None:
    """None when it is absent."""
    return orders.time(query[name], name) if name in query else None


def _flag(query: dict[str, str], name: str, default: bool) -> bool:
    text = query.get(name, str(default).lower())
    if text not in ("true", "false"):
        raise SpecError((Fault(name, f"{text!r} is neither true nor false", "write true or false"),))
    return text == "true"


async def _json_body(request: Request, empty: Any = None) -> Any:
    """`empty` is what no body at all means."""
    body = await _body(request)
    if not body and empty is not None:
        return empty
    return read_json(body, 'write it like {"desired_capacity": 3}')


async def _body(request: Request) -> bytes:
    """Read no further than the limit and no longer than the time."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    raise HTTPException(413, f"is over {BODY_LIMIT_BYTES} bytes")
    except TimeoutError as error:
        raise HTTPException(408, f"did not arrive within {BODY_TIMEOUT_SECONDS:g} s") from error
    return bytes(body)


def _healthy(body: Any) -> bool:
    if not (isinstance(body, dict) and body.keys() == {"healthy"} and isinstance(body["healthy"], bool)):
        raise SpecError((Fault("body", "is not one key, healthy", 'write it like {"healthy": false}'),))
    healthy: bool = body["healthy"]
    return healthy


ACTION_KEYS = ("instance_id", "lifecycle_hook_name", "lifecycle_action_token")


def _action(body: Any, *more: str) -> dict[str, str]:
    """Which lifecycle action is meant, as texts by those keys and `more`."""
    keys = (*ACTION_KEYS, *more)
    if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()):
        mend = 'write texts, like {"lifecycle_action_token": "…"}'
        raise SpecError((Fault("body", "is not a JSON object of texts", mend),))
    faults = [unknown_key("", str(name), keys) for name in body if name not in keys]
    if faults:
        raise SpecError(tuple(faults))
    return body


def _meant(body: dict[str, str]) -> LifecycleAction:
    return LifecycleAction(*(body.get(key, "") for key in ACTION_KEYS))


def _desired_capacity(body: Any) -> int:
    key, mend = "desired_capacity", 'write it like {"desired_capacity": 3}'
    if not isinstance(body, dict):
        raise SpecError((Fault("body", "is not a JSON object", mend),))
    faults = [unknown_key("", str(name), (key,)) for name in body if name != key]
    value = body.get(key)
    if key not in body:
        faults.append(Fault(key, "is missing", mend))
    elif not isinstance(value, int) or isinstance(value, bool):
        faults.append(Fault(key, f"{json.dumps(value)[:60]} is not a whole number", mend))
    elif not 0 <= value <= SIZE_LIMIT:
        faults.append(
            Fault(key, f"{str(value)[:30]} can't be a size", "write a size between the group's bounds")
        )
    if faults:
        raise SpecError(tuple(faults))
    assert isinstance(value, int)
    return value


def _end(instance_id: str, group: str, before: int, after: int, changed: bool, decrement: bool) -> str:
    if not changed:
        return f"{instance_id} was already on its way out"
    if after < before:
        return f"{instance_id} is terminated; {group} shrinks to {after}"
    why = f", as {group} stays at its min_size" if decrement else ""
    return f"{instance_id} is terminated and replaced{why}"


def _any(names: Sequence[str]) -> str:
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
