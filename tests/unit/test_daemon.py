"""The daemon as systemd runs it: a process, a real SQLite store, an EC2 endpoint (moto's), and a socket it notifies."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import grpc
import pytest
from moto.server import ThreadedMotoServer

from asg.admin.v1 import admin_pb2 as pb
from asg.admin.v1 import admin_pb2_grpc
from asg.register.v1 import register_pb2, register_pb2_grpc
from controller_asg.store.migrate import migrate
from controller_asg.store.sql import SqlStore

pytestmark = pytest.mark.process

TIMEOUT_SECONDS = 120  # far beyond any run; the test machine may be busy
IMAGE = {"launch": {"image": {"name": "web"}}}


class Daemon:
    """One process of `controller-asg serve`, and what it tells systemd."""

    def __init__(self, folder: Path, notified: socket.socket, ec2: str) -> None:
        self.folder = folder
        self.settings = folder / "controller.toml"
        self.socket = folder / "admin.sock"
        self.agents_port, self.admin_port = free_port(), free_port()
        self._notified = notified
        self.text = f"""
            advertised_address = "127.0.0.1:{self.agents_port}"
            agents_listen = "127.0.0.1:{self.agents_port}"
            admin_listen = "127.0.0.1:{self.admin_port}"
            admin_socket = "{self.socket}"
            store_url = "sqlite:///{folder}/store.db"
            region = "eu-central-1"
            ec2_endpoint_url = "{ec2}"
            user_data_template = "{folder}/user-data.j2"
        """
        self.settings.write_text(self.text)
        (folder / "user-data.j2").write_text("#cloud-config\n# {{ group }} of {{ controller_address }}\n")
        migrate(f"sqlite:///{folder}/store.db")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": "30000000",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }
        code = "from controller_asg.cli import main; main()"
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, "serve", "--config", str(self.settings)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )

    async def told(self, beginning: str) -> str:
        """The next notification that begins so; the ones before it are passed over."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                message = (await loop.sock_recv(self._notified, 65_536)).decode()
                if message.startswith(beginning):
                    return message

    async def ended(self) -> tuple[int, str]:
        """(exit code, log)"""
        assert self.process is not None
        async with asyncio.timeout(TIMEOUT_SECONDS):
            out, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self.socket}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def ec2() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "ec2", region_name="eu-central-1", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.register_image(Name="web", RootDeviceName="/dev/sda1", Architecture="x86_64")
    yield url
    server.stop()


@pytest.fixture
async def daemon(tmp_path: Path, ec2: str) -> AsyncIterator[Daemon]:
    """Not started."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        daemon = Daemon(tmp_path, notified, ec2)
        yield daemon
        if daemon.process is not None and daemon.process.returncode is None:
            daemon.process.kill()
            await daemon.process.wait()


async def test_it_is_ready_once_ec2_was_observed_and_stops_cleanly_at_sigterm(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    assert await daemon.told("STATUS=") == "STATUS=0 groups, 0 of 0 in service"
    await daemon.told("WATCHDOG=1")  # without a group, too
    daemon.signal(signal.SIGTERM)
    await daemon.told("STOPPING=1")
    code, out = await daemon.ended()
    assert code == 0
    assert "Traceback" not in out
    assert not daemon.socket.exists()


async def test_without_an_answer_of_ec2_it_is_not_ready_and_its_status_says_why(daemon):
    daemon.settings.write_text(daemon.text.replace("ec2_endpoint_url", "# ec2_endpoint_url").replace(
        "region", f'ec2_endpoint_url = "http://127.0.0.1:{free_port()}"\n            region'
    ))  # fmt: skip
    await daemon.start()
    assert "EC2 has not answered yet" in await daemon.told("STATUS=")
    assert "; EC2: " in await daemon.told("STATUS=")
    daemon.signal(signal.SIGTERM)
    assert (await daemon.ended())[0] == 0


async def test_a_broken_file_at_reload_keeps_the_old_settings_and_says_so_until_it_is_mended(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    async with daemon.channel() as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        daemon.settings.write_text(daemon.text + "\nsilence_secnds = 3.0\n")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Reload(pb.ReloadRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "write silence_seconds" in caught.value.details()
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert "silence_secnds" in status.settings_fault
        assert status.settings["silence_seconds"] == "2.5"
        assert "the last reload was refused" in await daemon.told("STATUS=0 groups, 0 of 0 in service;")
        daemon.settings.write_text(daemon.text + '\nsilence_seconds = 3.0\ncontroller_name = "other"\n')
        answer = await stub.Reload(pb.ReloadRequest())
        assert (list(answer.changed), list(answer.needs_restart)) == (
            ["silence_seconds"],
            ["controller_name"],
        )
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert status.settings_fault == ""
        assert status.settings["silence_seconds"] == "3"
        assert status.settings["controller_name"] == "controller-asg"
    assert await daemon.told("STATUS=") == "STATUS=0 groups, 0 of 0 in service"


async def test_sighup_reloads_and_a_broken_file_does_not_end_it(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    daemon.settings.write_text(daemon.text + "\nnonsense = 1\n")
    daemon.signal(signal.SIGHUP)
    assert "nonsense" in await daemon.told("STATUS=0 groups, 0 of 0 in service; the last reload was refused")
    daemon.settings.write_text(daemon.text)
    daemon.signal(signal.SIGHUP)
    assert await daemon.told("STATUS=") == "STATUS=0 groups, 0 of 0 in service"
    daemon.signal(signal.SIGTERM)
    assert (await daemon.ended())[0] == 0


async def test_a_user_data_template_that_cannot_be_read_is_refused_at_start_and_at_reload(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    (daemon.folder / "user-data.j2").unlink()
    async with daemon.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin_pb2_grpc.AdminServiceStub(channel).Reload(pb.ReloadRequest())
    assert "user_data_template" in caught.value.details()
    daemon.signal(signal.SIGTERM)
    assert (await daemon.ended())[0] == 0
    await daemon.start()
    code, out = await daemon.ended()
    assert code == 2
    assert "user_data_template" in out


async def test_after_a_sigkill_the_next_one_takes_over_with_a_greater_epoch_and_the_same_groups(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    async with daemon.channel() as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        before = await stub.GetStatus(pb.GetStatusRequest())
        group = pb.GroupDocument(name="web", document_json=json.dumps({**IMAGE, "min_size": 0}))
        await stub.ApplyGroups(pb.ApplyGroupsRequest(documents=[group]))
        await daemon.told("STATUS=1 group, 0 of 0 in service")
    daemon.signal(signal.SIGKILL)
    await daemon.ended()
    await daemon.start()
    await daemon.told("READY=1")
    async with daemon.channel() as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        after = await stub.GetStatus(pb.GetStatusRequest())
        assert after.epoch > before.epoch
        assert [each.name for each in (await stub.ListGroups(pb.ListGroupsRequest())).groups] == ["web"]
        await daemon.told("WATCHDOG=1")  # by the passes of the group


async def test_an_agent_of_no_group_reaches_the_agents_port_and_is_not_found(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.agents_port}") as channel:
        stub = register_pb2_grpc.RegisterServiceStub(channel)
        identity = register_pb2.AgentIdentity(
            instance_id="i-0123456789abcdef0", monitor_port=7401, agent_version="1", boot_id="b"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Register(register_pb2.RegisterRequest(identity=identity), timeout=TIMEOUT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_port_that_is_taken_ends_the_start_with_the_settings_name(daemon):
    with socket.create_server(("127.0.0.1", daemon.agents_port)):
        await daemon.start()
        code, out = await daemon.ended()
    assert code == 2
    assert f"agents_listen: 127.0.0.1:{daemon.agents_port} can't be listened at" in out
    assert not daemon.socket.exists()


async def test_a_store_that_was_not_migrated_ends_the_start_with_the_mend(daemon):
    (daemon.folder / "store.db").unlink()
    await daemon.start()
    code, out = await daemon.ended()
    assert code == 1
    assert "controller-asg migrate" in out
    assert "Traceback" not in out


async def test_a_controller_whose_store_another_one_took_over_stops_and_says_so(daemon):
    await daemon.start()
    await daemon.told("READY=1")
    group = pb.GroupDocument(name="web", document_json=json.dumps({**IMAGE, "min_size": 0}))
    async with daemon.channel() as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        await stub.ApplyGroups(pb.ApplyGroupsRequest(documents=[group]))
        other = SqlStore(f"sqlite:///{daemon.folder}/store.db")
        await other.open()
        await other.close()
        request = pb.SetDesiredCapacityRequest(group="web", desired_capacity=1)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.SetDesiredCapacity(request, timeout=TIMEOUT_SECONDS)
    code, out = await daemon.ended()
    assert code == 3
    assert "a store has one writer" in out.splitlines()[-1]
