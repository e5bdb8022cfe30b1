"""The HTTP API: its routes as an application, and what only shows on a socket over a real uvicorn."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from controller_asg.api.http import bind_http, build_http_app, http_server, read_token
from controller_asg.model.errors import SpecError, StoreError, ThrottledError
from controller_asg.model.instance import Lease
from controller_asg.planner.snapshot import Attach, Detach, EnterStandby, ExitStandby
from tests.fake_controller import HOOK, NOW, A, B, C, FakeController

TOKEN = "0123456789abcdef0123"


class Served:
    """The server's test side: the controller behind it, and what it is told to say of its health and token."""

    def __init__(self) -> None:
        self.controller = FakeController()
        self.healthy = True
        self.token = TOKEN
        self.port = 0


@pytest.fixture
def served() -> Served:
    return Served()


def application(served: Served):
    return build_http_app(
        served.controller, lambda: served.token.encode(), lambda: served.healthy, version="9.9.9"
    )


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(served))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://c", headers=headers) as client:
        yield client


@pytest.fixture
async def stranger(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(served))
    async with httpx.AsyncClient(transport=transport, base_url="http://c") as client:
        yield client


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token, over a socket."""
    server = http_server(application(served))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    # As uvicorn does once it runs; a client that is earlier waits in the queue instead of being refused.
    sock.listen()
    sock.setblocking(False)
    served.port = sock.getsockname()[1]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    base = f"http://127.0.0.1:{served.port}"
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[sock]), name="http")
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=20) as client:
            yield client
        server.should_exit = True


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": TOKEN},
    ],
)
@pytest.mark.parametrize("path", ["/create?group=web", f"/kill/{A}", "/v1/groups", "/nowhere"])
async def test_without_the_token_nothing_is_told_and_nothing_done(stranger, served, headers, path):
    answer = await stranger.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="controller-asg"')
    assert ("invalid_token" in answer.headers["www-authenticate"]) is bool(headers)
    assert answer.json()["errors"][0]["where"] == "Authorization"
    assert served.controller.orders == []


async def test_a_new_token_counts_from_the_next_request_on(client, served):
    assert (await client.get("/v1/groups")).status_code == 200
    served.token = "another-token-entirely"
    assert (await client.get("/v1/groups")).status_code == 401


async def test_health_needs_no_token_and_says_503_when_it_is_bad(stranger, served):
    assert (await stranger.get("/healthz")).status_code == 200
    served.healthy = False
    answer = await stranger.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"healthy": False})


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_create_launches_one_instance(client, served, method):
    answer = await client.request(method, "/create?group=web")
    assert (answer.status_code, answer.json()["desired_capacity"]) == (202, 3)
    assert served.controller.orders == [("launch", "web", 1, "the HTTP API")]


async def test_create_needs_no_group_where_there_is_one(client, served):
    del served.controller.records["jobs"]
    assert (await client.post("/create")).json()["group"] == "web"


async def test_create_without_a_group_names_those_there_are(client, served):
    answer = await client.post("/create")
    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {
            "where": "group",
            "what": "is missing, and there is more than one",
            "mend": "add ?group= with web or jobs",
        }
    ]
    assert served.controller.orders == []


async def test_create_at_max_size_is_a_conflict(client, served):
    for _ in range(3):
        assert (await client.post("/create?group=web")).status_code == 202
    answer = await client.post("/create?group=web")
    assert answer.status_code == 409
    assert "max_size" in answer.json()["errors"][0]["what"]


async def test_create_in_an_unknown_group_is_404(client):
    assert (await client.post("/create?group=wep")).status_code == 404


async def test_a_mistyped_query_is_refused_with_the_near_name(client, served):
    answer = await client.post("/create?gruop=web")
    assert answer.status_code == 400
    assert answer.json()["errors"][0] == {
        "where": "gruop",
        "what": "is no known key",
        "mend": "write group",
    }
    assert served.controller.orders == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_kill_above_min_size_shrinks_the_group(client, served, method):
    answer = await client.request(method, f"/kill/{C}")
    assert answer.status_code == 202
    assert answer.json() == {
        "instance_id": C,
        "group": "jobs",
        "desired_capacity": 0,
        "changed": True,
        "replaced": False,
        "message": f"{C} is terminated; jobs shrinks to 0",
    }
    assert served.controller.orders == [("terminate", C, True, "the HTTP API")]


async def test_kill_at_min_size_says_that_the_instance_is_replaced(client):
    answer = (await client.post(f"/kill/{A}")).json()
    assert (answer["desired_capacity"], answer["replaced"]) == (2, True)
    assert answer["message"] == f"{A} is terminated and replaced, as web stays at its min_size"


async def test_a_second_kill_changes_nothing_and_says_so(client, served):
    await client.post(f"/kill/{C}")
    answer = await client.post(f"/kill/{C}")
    assert (answer.status_code, answer.json()["changed"]) == (200, False)
    assert len(served.controller.orders) == 1


@pytest.mark.parametrize("name", ["i-00000000", "..%2F..%2Fetc", "%00", "null", "x" * 2000])
async def test_kill_of_what_is_not_ours_is_404_and_touches_nothing(client, served, name):
    answer = await client.post(f"/kill/{name}")
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["what"]
    assert served.controller.orders == []


@pytest.mark.parametrize("path", ["/create", f"/kill/{A}", "/v1/groups"])
async def test_head_is_refused_for_it_would_run_the_get(client, served, path):
    answer = await client.head(path)
    assert answer.status_code == 405
    assert "HEAD" not in answer.headers["allow"]
    assert served.controller.orders == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/create", {"GET", "POST"}),
        ("DELETE", f"/kill/{A}", {"GET", "POST"}),
        ("POST", "/v1/groups", {"GET"}),
        ("GET", "/v1/groups/web/desired-capacity", {"PUT"}),
        ("GET", f"/v1/instances/{A}/health", {"PUT"}),
        ("PATCH", f"/v1/instances/{A}", {"GET", "DELETE"}),
        ("HEAD", f"/v1/instances/{A}", {"GET", "DELETE"}),
    ],
)
async def test_a_wrong_method_is_405_with_the_right_ones(client, served, method, path, allowed):
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].replace(" ", "").split(",")) == allowed
    assert served.controller.orders == []


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/groups/", "/create/", "/kill/", "/v2/groups"])
async def test_a_wrong_path_is_404_and_redirects_nowhere(client, path):
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.json()["errors"][0]["where"] == path


async def test_v1_tells_groups_instances_activities_and_decisions(client):
    groups = (await client.get("/v1/groups")).json()["groups"]
    assert [(each["name"], each["desired_capacity"]) for each in groups] == [("web", 2), ("jobs", 1)]
    web = (await client.get("/v1/groups/web")).json()
    assert web["document"]["launch"]["instance_type"] == "t2.micro"
    assert web["conditions"][0]["kind"] == "MetricMissing"
    instances = (await client.get("/v1/groups/web/instances")).json()["instances"]
    assert [each["instance_id"] for each in instances] == [A, B]
    assert instances[0]["metrics"] == {"cpu_percent": 41.25}
    assert instances[1]["silent_seconds"] is None
    assert len((await client.get("/v1/instances")).json()["instances"]) == 3
    activities = (await client.get("/v1/groups/web/activities?limit=1")).json()["activities"]
    assert [each["activity_id"] for each in activities] == ["11111111"]
    decisions = (await client.get("/v1/groups/web/decisions")).json()["decisions"]
    assert [vote["capacity"] for vote in decisions[0]["votes"]] == [6, None]
    assert (await client.get("/v1/status")).json()["summary"] == "2 groups, 3 of 3 in service"


async def test_a_busy_instance_says_so(client, served):
    served.controller.leases = (Lease("nightly", "a report", 90.0), Lease("shell", "", None, True))
    busy, idle = (await client.get("/v1/groups/web/instances")).json()["instances"]
    assert busy["busy"] == [
        {
            "owner": "nightly",
            "reason": "a report",
            "until": "2028-02-28T12:01:30Z",
            "protect_from_scale_in": False,
        },
        {"owner": "shell", "reason": "", "until": None, "protect_from_scale_in": True},
    ]
    assert idle["busy"] == []


async def test_demand_is_told_between_two_times(client):
    begin, end = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)
    asked = {"since": begin.isoformat(), "until": f"{end:%Y-%m-%dT%H:%M}Z"}
    (minute,) = (await client.get("/v1/groups/web/demand", params=asked)).json()["minutes"]
    assert (minute["demand"], minute["in_service"]) == (1.5, 2.0)
    assert (await client.get("/v1/groups/web/demand")).json() == {"minutes": []}, "of the last day"
    refused = await client.get("/v1/groups/web/demand", params={"since": "yesterday"})
    assert refused.status_code == 400
    assert "'yesterday' is no time" in refused.json()["errors"][0]["what"]


async def test_the_forecast_is_told_with_its_basis_and_error(client, served):
    told = (await client.get("/v1/groups/web/forecast")).json()
    assert (len(told["steps"]), told["steps"][0]["demand"], told["steps"][0]["capacity"]) == (24, 1.5, None)
    assert (told["basis"], told["error_ratio"]) == ("14.0 days", 0.125)
    served.controller.foretold = None
    assert (await client.get("/v1/groups/web/forecast")).json()["steps"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/groups/wep",
        "/v1/groups/wep/forecast",
        "/v1/groups/wep/instances",
        "/v1/groups/wep/decisions",
        "/v1/instances/i-1",
    ],
)
async def test_an_unknown_name_is_404(client, path):
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("until", "mend"),
    [
        ("0001-01-01T00:00:00Z", "write one of the years 1970 to 8999"),
        ("2028-02-28T12:00", "write it like 2028-02-28T12:00:00Z, or with an offset such as +01:00"),
        ("2028-02-28", "write it like 2028-02-28T00:00:00Z, or with an offset such as +01:00"),
    ],
)
async def test_a_time_that_is_out_of_range_or_names_no_zone_is_refused(client, until, mend):
    answer = await client.get("/v1/groups/web/demand", params={"until": until})
    assert answer.status_code == 400
    assert answer.json()["errors"][0] | {"what": ""} == {"where": "until", "what": "", "mend": mend}


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "9" * 5000, "\u0661"])
async def test_a_limit_outside_of_its_range_is_refused(client, limit):
    answer = await client.get("/v1/groups/web/decisions", params={"limit": limit})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["mend"] == "write 1 to 1000"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/groups/web/instances?group=jobs",
        "/v1/groups/web/instances?limit=1",
        "/v1/groups/web/activities?group=jobs",
        "/v1/instances?grp=jobs",
    ],
)
async def test_a_list_takes_no_query_that_it_would_not_go_by(client, path):
    answer = await client.get(path)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["what"] == "is no known key"


async def test_desired_capacity_is_set_within_the_bounds(client, served):
    path = "/v1/groups/web/desired-capacity"
    answer = await client.put(path, json={"desired_capacity": 4})
    assert (answer.status_code, answer.json()) == (200, {"group": "web", "before": 2, "after": 4})
    answer = await client.put(path, json={"desired_capacity": 6})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["mend"] == "write 2 to 5"
    assert served.controller.orders == [("set_desired", "web", 4, "the HTTP API")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[3]",
        b"3",
        b"{}",
        b'{"desired_capacity": "3"}',
        b'{"desired_capacity": 2.5}',
        b'{"desired_capacity": true}',
        b'{"desired_capacity": null}',
        b'{"desired_capacity": NaN}',
        b'{"desired_capacity": -1}',
        b'{"desired_capacity": 99999999999}',
        b'{"desired_capacity": 3, "force": true}',
        b"\xff\xfe",
        b"[" * 10_000,
    ],
)
async def test_a_body_that_is_no_size_is_refused(client, served, body):
    answer = await client.put("/v1/groups/web/desired-capacity", content=body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["mend"]
    assert served.controller.orders == []


async def test_an_instance_is_marked_unhealthy(client, served):
    answer = await client.put(f"/v1/instances/{A}/health", json={"healthy": False})
    assert (answer.status_code, answer.json()["changed"]) == (200, True)
    assert served.controller.orders == [("health", A, False, "the HTTP API")]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"healthy": 1}', b'{"healthy": true, "why": "x"}', b"{}"])
async def test_a_body_that_is_no_health_is_refused(client, served, body):
    answer = await client.put(f"/v1/instances/{A}/health", content=body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["mend"]
    assert served.controller.orders == []


async def test_members_are_moved_and_protected(client, served):
    at = f"/v1/instances/{A}"
    moved = await client.post(f"{at}/enter-standby", json={"should_decrement_desired_capacity": False})
    assert moved.json() == {"group": "web", "changed_instance_ids": [A], "desired_capacity": 2}
    assert (await client.post(f"{at}/exit-standby", json={})).status_code == 200
    assert (await client.post(f"{at}/detach", json={})).status_code == 200
    assert (await client.post("/v1/groups/jobs/attach", json={"instance_ids": [A]})).json()["group"] == "jobs"
    protection = {"protected_from_scale_in": True, "seconds": 60, "reason": "a job"}
    assert (await client.put(f"{at}/protection", json=protection)).json()["changed"]
    by = "the HTTP API"
    assert served.controller.orders[:4] == [
        ("move", EnterStandby((A,), False, by), ""),
        ("move", ExitStandby((A,), by), ""),
        ("move", Detach((A,), True, by), ""),
        ("move", Attach((A,), by), "jobs"),
    ]
    assert served.controller.orders[4][4] == "a job"


async def test_a_protection_without_a_proper_end_is_refused(client, served):
    body = {"protected_from_scale_in": True, "seconds": int("9" * 400)}
    answer = await client.put(f"/v1/instances/{A}/protection", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (400, "seconds")
    assert served.controller.orders == []


async def test_processes_are_suspended_and_resumed(client, served):
    body = {"group": "web", "processes": ["Terminate"], "until": "2099-01-01T00:00:00Z", "reason": "look"}
    answer = await client.post("/v1/suspend-processes", json=body)
    assert answer.json() == {"changed_groups": ["web"]}
    (_, group, processes, hold) = served.controller.orders[0]
    assert (group, processes, hold.owner, hold.everywhere) == ("web", ("Terminate",), "the HTTP API", False)
    assert (await client.post("/v1/resume-processes", json={})).json() == {"changed_groups": ["web", "jobs"]}


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/suspend-processes", {"processes": ["Lunch"]}, "processes"),
        ("/v1/suspend-processes", {"proceses": []}, "proceses"),
        ("/v1/suspend-processes", {"seconds": True}, "seconds"),
        ("/v1/suspend-processes", {"seconds": 0}, "seconds"),
        ("/v1/suspend-processes", {"seconds": 9, "until": "2099-01-01T00:00:00Z"}, "until"),
        ("/v1/suspend-processes", {"until": "2001-01-01T00:00:00Z"}, "until"),
        ("/v1/suspend-processes", {"until": "noon"}, "until"),
        ("/v1/suspend-processes", {"until": "2099-01-01T00:00:00"}, "until"),
        ("/v1/suspend-processes", {"until": "9999-12-31T23:59:59-12:00"}, "until"),
        ("/v1/suspend-processes", {"seconds": int("9" * 400)}, "seconds"),
        ("/v1/suspend-processes", {"reason": "x" * 201}, "reason"),
        ("/v1/suspend-processes", {"reason": "\x1b[2J"}, "reason"),
        ("/v1/suspend-processes", [], "body"),
        ("/v1/groups/web/attach", {"instance_ids": []}, "instance_ids"),
        ("/v1/groups/web/attach", {"instance_ids": [f"i-{n:017x}" for n in range(21)]}, "instance_ids"),
        ("/v1/instances/web-1/detach", {}, "instance_ids"),
    ],
)
async def test_a_wrong_order_is_refused_with_its_place(client, served, path, body, where):
    answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (400, where)
    assert served.controller.orders == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/suspend-processes", {"reason": "\ud800"}),
        ("/v1/suspend-processes", {"group": "\udfff"}),
        ("/v1/suspend-processes", {"processes": ["\ud800"]}),
        ("/v1/suspend-processes", {"\ud800": 1}),
        ("/v1/lifecycle-actions/complete", {"lifecycle_action_token": "\ud800"}),
        ("/v1/lifecycle-actions/heartbeat", {"instance_id": "\ud800"}),
    ],
)
async def test_half_a_character_is_refused_wherever_it_stands(client, served, path, body):
    answer = await client.post(path, content=json.dumps(body))
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (400, "body")
    assert "holds half of a character" in answer.json()["errors"][0]["what"]
    assert served.controller.orders == []


async def test_a_body_over_the_limit_is_413(client, served):
    answer = await client.put("/v1/groups/web/desired-capacity", content=b" " * 20_000)
    assert answer.status_code == 413
    assert served.controller.orders == []


async def test_one_instance_can_be_read_and_deleted(client, served):
    assert (await client.get(f"/v1/instances/{A}")).json()["instance_id"] == A
    answer = await client.delete(f"/v1/instances/{A}?should_decrement_desired_capacity=false")
    assert answer.json()["message"] == f"{A} is terminated and replaced"
    assert served.controller.orders == [("terminate", A, False, "the HTTP API")]
    answer = await client.delete(f"/v1/instances/{C}?should_decrement_desired_capacity=no")
    assert answer.status_code == 400


async def test_a_store_that_is_gone_is_503_and_says_why(client, served):
    served.controller.failing = StoreError("the disk is full", "store", "give it room")
    answer = await client.post("/create?group=web")
    assert answer.status_code == 503
    assert answer.json()["errors"] == [{"where": "store", "what": "the disk is full", "mend": "give it room"}]
    served.controller.failing = ThrottledError("too many calls", "EC2")
    assert (await client.post("/create?group=web")).status_code == 503


async def test_a_bug_of_ours_is_500_in_json_and_the_next_request_is_served(client, served):
    served.controller.failing = ZeroDivisionError("hunter2")
    answer = await client.get("/v1/groups")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.json()["errors"][0]["mend"] == "look at `journalctl -u controller-asg`"
    assert (await client.get("/v1/groups")).status_code == 200


async def test_over_a_socket_orders_bodies_and_refusals_arrive_as_they_do_inside(wire, served):
    assert (await wire.get("/healthz")).json() == {"healthy": True}
    assert (await wire.post("/create?group=web")).json()["desired_capacity"] == 3
    path = "/v1/groups/web/desired-capacity"
    assert (await wire.put(path, json={"desired_capacity": 4})).json()["after"] == 4
    assert (await wire.head("/create?group=web")).status_code == 405
    assert (await wire.put(path, content=b" " * 200_000)).status_code == 413
    assert (await wire.get("/v1/groups", headers={"Authorization": "Bearer no"})).status_code == 401
    assert len(served.controller.orders) == 2


async def test_garbage_on_the_socket_ends_its_own_connection_only(wire, served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(bytes(range(256)) * 16 + b"\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    assert (await wire.get("/v1/groups")).status_code == 200


def test_an_address_that_is_taken_is_a_fault_of_the_settings():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SpecError) as caught:
        bind_http(f"127.0.0.1:{taken.getsockname()[1]}")
    assert caught.value.faults[0].where == "http_listen"


@pytest.mark.parametrize(
    "text", ["", "short", "two words are not a token", "line-one-is-long\nline-two-is-long"]
)
def test_a_file_without_a_proper_token_is_refused(tmp_path, text):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_token(path)
    assert "openssl rand" in caught.value.faults[0].mend
    assert "two words" not in str(caught.value)


def test_a_token_is_read_without_its_line_end(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN.encode()
    with pytest.raises(SpecError):
        read_token(tmp_path / "missing")


async def test_a_lifecycle_hook_is_completed_and_its_heartbeat_recorded(client, served):
    member = served.controller.members[A]
    served.controller.members[A] = replace(member, hooks=(HOOK,))
    named = {"instance_id": A, "lifecycle_hook_name": "save-logs"}
    path = "/v1/lifecycle-actions"
    answer = await client.post(f"{path}/complete", json={**named, "lifecycle_action_result": "ABANDON"})
    assert answer.json() == {**named, "result": "ABANDON"}
    assert (await client.post(f"{path}/heartbeat", json=named)).json() == named
    assert [order[0] for order in served.controller.orders] == ["complete", "heartbeat"]
    for wrong, where in (({"token": "x"}, "token"), ({"instance_id": 1}, "body"), ({}, "lifecycle_action")):
        answer = await client.post(f"{path}/heartbeat", json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["where"]) == (400, where)
    assert len(served.controller.orders) == 2
