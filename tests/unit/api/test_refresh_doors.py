"""Instance refreshes through each door: the admin service, HTTP and the command line say the same."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from controller_asg.api.admin_service import build_admin_server
from controller_asg.api.http import build_http_app
from controller_asg.model.refresh import RefreshStatus
from tests.fake_controller import A, FakeController, FakeDaemon

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
async def address(controller: FakeController, tmp_path: Path) -> AsyncIterator[str]:
    server = build_admin_server(controller, FakeDaemon())
    server.listen(tmp_path / "admin.sock", "")
    await server.server.start()
    yield f"unix:{tmp_path}/admin.sock"
    await server.stop(0)


async def test_the_admin_service_starts_one_at_a_time_and_refuses_bad_preferences(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        for text, code in (
            ('{"min_healthy": 3}', grpc.StatusCode.INVALID_ARGUMENT),
            ("[]", grpc.StatusCode.INVALID_ARGUMENT),
            ('{"min_healthy_percentage": 1e999}', grpc.StatusCode.INVALID_ARGUMENT),
            ('{"\\ud800": 1}', grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.StartInstanceRefresh(
                    pb.StartInstanceRefreshRequest(group="web", preferences_json=text)
                )
            assert caught.value.code() is code
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DescribeInstanceRefresh(pb.DescribeInstanceRefreshRequest(group="web"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        asked = pb.StartInstanceRefreshRequest(group="web", preferences_json='{"auto_rollback": true}')
        assert (await stub.StartInstanceRefresh(asked)).instance_refresh_id == "r-1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StartInstanceRefresh(asked)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        answer = await stub.DescribeInstanceRefresh(pb.DescribeInstanceRefreshRequest(group="web"))
        found = answer.instance_refresh
        assert (found.status, json.loads(found.preferences_json)["min_healthy_percentage"]) == (
            "InProgress",
            90,
        )
        assert {each.instance_id: each.progress for each in found.instances}[A] == "Outdated"
        assert (await stub.PauseInstanceRefresh(pb.PauseInstanceRefreshRequest(group="web"))).changed
        assert not (await stub.ResumeInstanceRefresh(pb.ResumeInstanceRefreshRequest(group="web"))).changed
        assert (await stub.CancelInstanceRefresh(pb.CancelInstanceRefreshRequest(group="web"))).changed
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RollbackInstanceRefresh(pb.RollbackInstanceRefreshRequest(group="web"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_http_starts_tells_and_changes_it(controller: FakeController) -> None:
    app = build_http_app(controller, TOKEN.encode, lambda: True, version="9.9.9")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://c", headers=headers
    ) as client:
        path = "/v1/groups/web/instance-refresh"
        assert (await client.get(path)).status_code == 404
        assert (await client.post(path, json={"bake_time_seconds": 200_000})).status_code == 400
        assert (await client.post(path, content='{"min_healthy_percentage": 1e999}')).status_code == 400
        started = await client.post(path)
        assert (started.status_code, started.json()["status"]) == (202, "InProgress")
        assert (await client.post(path)).status_code == 409
        assert (await client.get(path)).json()["group"] == "web"
        assert (await client.post(f"{path}/pause")).json() == {"group": "web", "changed": True}
        assert (await client.post(f"{path}/stop")).status_code == 404


@pytest.mark.process
async def test_the_command_line_starts_follows_and_says_how_it_ended(
    controller: FakeController, address: str
) -> None:
    code, out, _ = await run(
        address,
        *("start-instance-refresh", "web", "--min-healthy-percentage", "50", "--skip-matching"),
        *("--instance-warmup-seconds", "2.5"),
    )
    assert (code, out.splitlines()[0].startswith("web: InProgress, 0 %")) == (0, True)
    assert "Outdated" in out
    of = controller.records["web"].refresh
    assert of is not None
    assert (of.preferences.min_healthy_percentage, of.preferences.skip_matching) == (50, True)
    assert of.preferences.instance_warmup_seconds == 2.5
    assert of.actor == "ann at the command line"
    paused = await run(address, "pause-instance-refresh", "web")
    assert paused[1] == "the instance refresh of web is paused\n"
    controller.refresh_becomes = [{"status": RefreshStatus.FAILED, "status_reason": "3 in a row"}]
    code, out, _ = await run(address, "instance-refresh", "web", "--wait")
    assert (code, "Failed" in out, "3 in a row" in out) == (1, True, True)


@pytest.mark.process
async def test_one_that_was_rolled_back_is_a_success_of_the_rollback_alone(
    controller: FakeController, address: str
) -> None:
    controller.refresh_becomes = [{"status": RefreshStatus.ROLLBACK_SUCCESSFUL}]
    code, out, _ = await run(address, "start-instance-refresh", "web", "--auto-rollback", "--wait")
    assert (code, "web: RollbackSuccessful" in out) == (1, True)
    assert (await run(address, "instance-refresh", "web", "--wait"))[0] == 1
    assert (await run(address, "rollback-instance-refresh", "web", "--wait"))[0] == 0


@pytest.mark.process
async def test_waiting_ends_by_its_timeout_and_says_what_is_paused(
    controller: FakeController, address: str
) -> None:
    controller.refresh_becomes = [{"paused": True}]
    code, out, err = await run(address, "start-instance-refresh", "web", "--wait", "--timeout", "0", "--json")
    assert (code, out) == (1, "")
    assert "paused until `controller-asg resume-instance-refresh web`" in err
    assert err.endswith(
        "groups.web: refresh r-1 goes on, and nobody waits any longer; controller-asg resume-instance-refresh web\n"
    )


@pytest.mark.process
async def test_who_waits_for_one_refresh_does_not_follow_the_next(
    controller: FakeController, address: str
) -> None:
    controller.refresh_becomes = [{"refresh_id": "r-2", "status": RefreshStatus.SUCCESSFUL}]
    code, _, err = await run(address, "start-instance-refresh", "web", "--wait")
    assert (code, "refresh r-1 was followed by r-2" in err) == (1, True)


async def run(address: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from controller_asg.cli import main; main()", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "CONTROLLER_ASG_ADDRESS": address, "LOGNAME": "ann"},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()
