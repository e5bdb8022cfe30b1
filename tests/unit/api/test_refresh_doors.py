"""Instance refreshes through each door: the admin service, HTTP and the command line say the same."""

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
    import asyncio
    from dataclasses import replace

    async def run(*arguments: str) -> tuple[int | None, str]:
        command = "from controller_asg.cli import main; main()"
        environment = {**os.environ, "CONTROLLER_ASG_ADDRESS": address, "LOGNAME": "ann"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", command, *arguments, stdout=asyncio.subprocess.PIPE, env=environment
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    code, out = await run(
        "start-instance-refresh", "web", "--min-healthy-percentage", "50", "--skip-matching"
    )
    assert (code, out.splitlines()[0].startswith("web: InProgress, 0 %")) == (0, True)
    assert "Outdated" in out
    of = controller.records["web"].refresh
    assert of is not None
    assert (of.preferences.min_healthy_percentage, of.preferences.skip_matching) == (50, True)
    assert of.actor == "ann at the command line"
    assert (await run("pause-instance-refresh", "web"))[1] == "the instance refresh of web is paused\n"
    failed = replace(of, status=RefreshStatus.FAILED, status_reason="3 in a row")
    controller.records["web"] = replace(controller.records["web"], refresh=failed)
    code, out = await run("instance-refresh", "web", "--wait")
    assert (code, "Failed" in out, "3 in a row" in out) == (1, True, True)
