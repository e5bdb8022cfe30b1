"""What the engine may rely on in a cloud, held against each EC2 endpoint that there is.

`moto` is moto's server in this process with what it lacks added: ClientToken, MaxCount, default subnets. Another
endpoint is one line in ENDPOINTS.
"""

import base64
import dataclasses
import os
import random
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode

import boto3
import pytest
from asg_lab.testing import running_lab, wait_until

from controller_asg.cloud.ec2 import Ec2Cloud
from controller_asg.cloud.port import Cloud
from controller_asg.model.activity import LaunchRequest
from controller_asg.model.clock import SystemClock
from controller_asg.model.errors import RejectedError
from controller_asg.model.group import Disk, Group, Image, LaunchParameters
from controller_asg.model.instance import CloudInstance, Ec2State, StatusCheck

REGION = "us-east-1"
GONE = (Ec2State.SHUTTING_DOWN, Ec2State.TERMINATED)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """`ec2` is the operator's own client, which knows nothing of the controller."""

    url: str
    ec2: Any
    image_id: str
    has_ssm: bool


class CompletedMoto:
    """WSGI around moto: what EC2 does and moto 5.2 doesn't."""

    def __init__(self, moto: Callable[..., Any], first_subnet: Callable[[str], str]) -> None:
        self._moto = moto
        self._first_subnet = first_subnet
        self._lock = threading.Lock()  # moto is not safe for threads, and its server has many
        self._answers: dict[str, tuple[dict[str, str], str, list[bytes]]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        with self._lock:
            if form.get("Action") == "RunInstances" and form.get("DryRun") != "true":
                return self._run_instances(environ, start_response, form)
            return self._pass_on(environ, start_response, body)

    def _run_instances(
        self, environ: dict[str, Any], start_response: Callable[..., Any], form: dict[str, str]
    ) -> list[bytes]:
        token = form.get("ClientToken", "")
        known = self._answers.get(token)
        if known is not None:
            if known[0] != form:
                error = "<Error><Code>IdempotentParameterMismatch</Code><Message>differs</Message></Error>"
                document = f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>".encode()
                start_response("400 Bad Request", [("Content-Length", str(len(document)))])
                return [document]
            start_response(known[1], [("Content-Length", str(sum(map(len, known[2]))))])
            return known[2]
        sent = {**form, "MinCount": form["MaxCount"]}
        if "SubnetId" not in sent:
            sent["SubnetId"] = self._first_subnet(sent.get("Placement.AvailabilityZone", ""))
        told: list[str] = []

        def remember(status: str, headers: Any, exc_info: Any = None) -> Any:
            told.append(status)
            return start_response(status, headers, exc_info)

        answer = self._pass_on(environ, remember, urlencode(sent).encode())
        if token and told[0].startswith("200"):
            self._answers[token] = (form, told[0], answer)
        return answer

    def _pass_on(
        self, environ: dict[str, Any], start_response: Callable[..., Any], body: bytes
    ) -> list[bytes]:
        environ["wsgi.input"] = BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        return list(self._moto(environ, start_response))


@contextmanager
def moto(patch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    patch.setenv("AWS_ACCESS_KEY_ID", secrets.token_hex(10))
    patch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_hex(20))
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.amis import Ami
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    backend = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
    image_id = "ami-0123456789abcdef0"
    backend.amis[image_id] = Ami(
        backend,
        image_id,
        name="contract-base",
        root_device_name="/dev/sda1",
        root_device_type="ebs",
        virtualization_type="hvm",
        architecture="x86_64",
    )

    def first_subnet(zone: str) -> str:
        found = [s for s in backend.describe_subnets() if str(s.default_for_az).lower() == "true"]
        return next(s.id for s in found if not zone or s.availability_zone == zone)

    application = CompletedMoto(DomainDispatcherApplication(create_backend_app), first_subnet)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield Endpoint(url, operators_client(url), image_id, has_ssm=True)
    finally:
        server.shutdown()
        server.server_close()


def operators_client(url: str) -> Any:
    return boto3.client("ec2", region_name=REGION, endpoint_url=url)


@contextmanager
def local_ec2(patch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with running_lab("cloud-contract") as lab:
        for name, value in lab.environment.items():
            patch.setenv(name, value)
        yield Endpoint(lab.endpoint_url, lab.ec2, lab.info.ami_id, has_ssm=True)


ENDPOINTS = [
    pytest.param(moto, id="moto"),
    pytest.param(local_ec2, id="lab", marks=pytest.mark.lab),
]


@pytest.fixture(scope="module", params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        yield stack.enter_context(request.param(patch))


@dataclasses.dataclass
class Site:
    """One test's controller, of a name of its own, and what its launches are made of."""

    endpoint: Endpoint
    name: str
    ec2_cloud: Ec2Cloud

    @property
    def cloud(self) -> Cloud:
        return self.ec2_cloud

    def request(self, count: int = 1, **changes: Any) -> LaunchRequest:
        request = LaunchRequest(
            client_token=uuid.uuid4().hex,
            group="web",
            launch_version="v1",
            count=count,
            image_id=self.endpoint.image_id,
            instance_type="t2.micro",
        )
        return dataclasses.replace(request, **changes)

    def group(self, bootstrap: str = "image", **launch: Any) -> Group:
        launch = {"image": Image(id=self.endpoint.image_id), **launch}
        return Group("web", LaunchParameters(**launch), bootstrap=bootstrap)  # type: ignore[arg-type]

    async def alive(self) -> dict[str, CloudInstance]:
        seen = await self.cloud.describe_instances()
        return {instance.instance_id: instance for instance in seen if instance.state not in GONE}

    def raw(self, instance_id: str) -> Any:
        answer = self.endpoint.ec2.describe_instances(InstanceIds=[instance_id])
        return answer["Reservations"][0]["Instances"][0]


@pytest.fixture
def site(endpoint: Endpoint) -> Iterator[Site]:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    cloud = Ec2Cloud(name, REGION, endpoint.url, SystemClock(), random.Random(0), status_interval_seconds=0)
    yield Site(endpoint, name, cloud)
    cloud.close()
    filters = [{"Name": "tag:controller-asg:controller", "Values": [name]}]
    answer = endpoint.ec2.describe_instances(Filters=filters)
    left = [i["InstanceId"] for r in answer["Reservations"] for i in r["Instances"]]
    if left:
        endpoint.ec2.terminate_instances(InstanceIds=left)


async def test_one_call_launches_all_and_describe_shows_them_with_what_they_are_for(site: Site) -> None:
    request = site.request(count=3)
    launched = await site.cloud.run_instances(request)
    assert len({instance.instance_id for instance in launched}) == 3
    seen = await site.alive()
    assert set(seen) == {instance.instance_id for instance in launched}
    for instance in (*seen.values(), *launched):
        assert (instance.group, instance.activity_id, instance.launch_version) == (
            "web",
            request.client_token,
            "v1",
        )
        assert instance.state in (Ec2State.PENDING, Ec2State.RUNNING)
        assert (instance.image_id, instance.instance_type) == (site.endpoint.image_id, "t2.micro")
        assert instance.zone.startswith(REGION)
        assert instance.private_ip
        assert instance.launched_at.tzinfo is not None


async def test_the_same_token_gives_the_same_instances_again(site: Site) -> None:
    request = site.request(count=2)
    first = {instance.instance_id for instance in await site.cloud.run_instances(request)}
    second = {instance.instance_id for instance in await site.cloud.run_instances(request)}
    assert first == second == set(await site.alive())


async def test_a_token_used_with_other_parameters_launches_nothing_more(site: Site) -> None:
    request = site.request()
    first = {instance.instance_id for instance in await site.cloud.run_instances(request)}
    changed = dataclasses.replace(request, launch_version="v2")
    assert {instance.instance_id for instance in await site.cloud.run_instances(changed)} == first
    assert set(await site.alive()) == first


async def test_instances_of_others_and_those_without_our_group_are_not_seen(site: Site) -> None:
    mine = (await site.cloud.run_instances(site.request()))[0].instance_id
    other = Ec2Cloud(f"{site.name}-other", REGION, site.endpoint.url, SystemClock())
    theirs = (await other.run_instances(site.request()))[0].instance_id
    stripped = (await site.cloud.run_instances(site.request()))[0].instance_id
    site.endpoint.ec2.delete_tags(Resources=[stripped], Tags=[{"Key": "controller-asg:group"}])
    assert set(await site.alive()) == {mine}
    await other.terminate_instances((theirs,))
    other.close()


async def test_an_instance_is_detached_alive_and_attached_again(site: Site) -> None:
    launched = (await site.cloud.run_instances(site.request()))[0]
    instance_id = launched.instance_id
    await site.cloud.detach_instances((instance_id, "i-0fedcba9876543210"))
    assert set(await site.alive()) == set()
    alone = await site.cloud.instance(instance_id)
    assert alone is not None
    assert (alone.group, alone.state in (Ec2State.PENDING, Ec2State.RUNNING)) == ("", True)
    for _ in range(2):  # a replay changes nothing
        attached = await site.cloud.attach_instance("jobs", "act-1", instance_id)
        assert (attached.group, attached.activity_id, attached.launch_version) == ("jobs", "act-1", "")
    assert (await site.alive())[instance_id].group == "jobs"


async def test_what_ec2_does_not_know_is_not_attached(site: Site) -> None:
    assert await site.cloud.instance("i-0fedcba9876543210") is None
    with pytest.raises(RejectedError):
        await site.cloud.attach_instance("jobs", "act-1", "i-0fedcba9876543210")


async def test_terminated_instances_go_and_unknown_ones_hold_nobody_up(site: Site) -> None:
    first, second = await site.cloud.run_instances(site.request(count=2))
    await site.cloud.terminate_instances(("i-0fedcba9876543210", first.instance_id))
    assert set(await site.alive()) == {second.instance_id}
    await site.cloud.terminate_instances((first.instance_id,))


async def test_what_was_asked_for_is_what_the_instance_has(site: Site) -> None:
    subnet_id, zone = (await site.cloud.subnets(site.group()))[-1]
    group_id = site.endpoint.ec2.create_security_group(GroupName=site.name, Description="contract")["GroupId"]
    site.endpoint.ec2.create_key_pair(KeyName=site.name)
    request = site.request(
        subnet_id=subnet_id,
        security_groups=(group_id,),
        key_pair=site.name,
        disks=(("/dev/sda1", 12, "gp3", 0, 0, None, True),),
        tags=(("team", "blue"),),
        user_data="#!/bin/sh\nexit 0\n",
    )
    launched = (await site.cloud.run_instances(request))[0]
    assert launched.zone == zone
    raw = site.raw(launched.instance_id)
    tags = {tag["Key"]: tag["Value"] for tag in raw["Tags"]}
    assert (tags["team"], tags["Name"], tags["controller-asg:controller"]) == ("blue", "web", site.name)
    assert raw["SubnetId"] == subnet_id
    assert [found["GroupId"] for found in raw["SecurityGroups"]] == [group_id]
    assert raw["KeyName"] == site.name
    assert raw["MetadataOptions"]["HttpTokens"] == "required"
    volumes = [{"Name": "attachment.instance-id", "Values": [launched.instance_id]}]
    volume = site.endpoint.ec2.describe_volumes(Filters=volumes)["Volumes"][0]
    assert volume["Size"] == 12
    assert {"Key": "controller-asg:group", "Value": "web"} in volume["Tags"]
    user_data = site.endpoint.ec2.describe_instance_attribute(
        InstanceId=launched.instance_id, Attribute="userData"
    )
    assert base64.b64decode(user_data["UserData"]["Value"]).decode() == request.user_data


async def test_spot_and_a_zone_without_a_subnet(site: Site) -> None:
    zone = (await site.cloud.subnets(site.group()))[1][1]
    launched = (await site.cloud.run_instances(site.request(zone=zone, spot=True)))[0]
    assert launched.zone == zone
    assert site.raw(launched.instance_id)["InstanceLifecycle"] == "spot"


async def test_a_running_instance_has_a_status_and_a_console(site: Site) -> None:
    launched = (await site.cloud.run_instances(site.request()))[0]
    seen = (await site.alive())[launched.instance_id]
    assert seen.status in (StatusCheck.OK, StatusCheck.INITIALIZING)
    assert isinstance(await site.cloud.console_output(launched.instance_id), str)
    assert await site.cloud.console_output("i-0fedcba9876543210") == ""


async def test_an_unknown_subnet_is_rejected_at_the_launch(site: Site) -> None:
    with pytest.raises(RejectedError):
        await site.cloud.run_instances(site.request(subnet_id="subnet-0fedcba9876543210"))
    assert await site.alive() == {}


async def test_images_are_found_by_id_and_the_newest_by_name(site: Site) -> None:
    ec2, image_id = site.endpoint.ec2, site.endpoint.image_id
    assert await site.cloud.find_image(Image(id=image_id)) == image_id
    source = (await site.cloud.run_instances(site.request()))[0].instance_id
    wait_until(lambda: site.raw(source)["State"]["Name"] == "running", f"{source} runs")
    made = [ec2.create_image(InstanceId=source, Name=f"{site.name}-{n}")["ImageId"] for n in (1, 2)]

    def described() -> list[Any]:
        images: list[Any] = ec2.describe_images(ImageIds=made)["Images"]
        return images

    wait_until(lambda: all(image["State"] == "available" for image in described()), "both images")
    newest = max(described(), key=lambda image: (image["CreationDate"], image["ImageId"]))["ImageId"]
    assert await site.cloud.find_image(Image(name=f"{site.name}-*")) == newest
    assert await site.cloud.find_image(Image(name=f"{site.name}-1")) == made[0]


@pytest.mark.parametrize(
    "image", [Image(id="ami-0fedcba9876543210"), Image(name="nobody-*"), Image(ssm_parameter="/nobody")]
)
async def test_an_image_that_is_not_there_is_rejected(site: Site, image: Image) -> None:
    if image.ssm_parameter and not site.endpoint.has_ssm:
        pytest.skip("this endpoint has no parameter store")
    with pytest.raises(RejectedError) as caught:
        await site.cloud.find_image(image)
    assert caught.value.mend


async def test_an_image_is_found_by_parameter(site: Site) -> None:
    if not site.endpoint.has_ssm:
        pytest.skip("this endpoint has no parameter store")
    ssm = boto3.client("ssm", region_name=REGION, endpoint_url=site.endpoint.url)
    ssm.put_parameter(Name=f"/{site.name}", Value=site.endpoint.image_id, Type="String")
    assert await site.cloud.find_image(Image(ssm_parameter=f"/{site.name}")) == site.endpoint.image_id
    ssm.put_parameter(Name=f"/{site.name}", Value="nonsense", Type="String", Overwrite=True)
    with pytest.raises(RejectedError):
        await site.cloud.find_image(Image(ssm_parameter=f"/{site.name}"))


async def test_subnets_are_the_named_ones_in_order_or_the_default_of_each_zone(site: Site) -> None:
    default = await site.cloud.subnets(site.group())
    assert len(default) >= 3
    assert [zone for _, zone in default] == sorted({zone for _, zone in default})
    named = (default[2][0], default[0][0])
    assert await site.cloud.subnets(site.group(subnets=named)) == (default[2], default[0])
    zones = (default[1][1], default[0][1])
    assert await site.cloud.subnets(site.group(zones=zones)) == (default[1], default[0])
    with pytest.raises(RejectedError):
        await site.cloud.subnets(site.group(subnets=("subnet-0fedcba9876543210",)))


async def test_good_launch_parameters_have_no_fault_and_the_check_launches_nothing(site: Site) -> None:
    default = await site.cloud.subnets(site.group())
    group_id = site.endpoint.ec2.create_security_group(GroupName=site.name, Description="contract")["GroupId"]
    site.endpoint.ec2.create_key_pair(KeyName=site.name)
    group = site.group(
        bootstrap="role",
        subnets=(default[0][0], default[1][0]),
        security_groups=(group_id,),
        key_pair=site.name,
        disks=(Disk("/dev/sda1", 20),),
        tags={"team": "blue"},
        user_data="#!/bin/sh\n",
    )
    assert await site.cloud.check_launch(group, site.endpoint.image_id) == ()
    assert await site.cloud.check_launch(site.group(), site.endpoint.image_id) == ()
    assert await site.alive() == {}


async def test_all_faults_of_the_launch_parameters_come_in_one_report(site: Site) -> None:
    default = await site.cloud.subnets(site.group())
    group = site.group(
        instance_type="t9.enormous",
        subnets=(default[0][0], "subnet-0fedcba9876543210"),
        security_groups=("sg-0fedcba9876543210",),
        key_pair="nobody",
        tags={"Name": "mine", "a/b": "c"},
    )
    for image_id in ("ami-0fedcba9876543210", ""):
        faults = await site.cloud.check_launch(group, image_id)
        found = [fault.where.partition(".launch.")[2] for fault in faults]
        assert found == [
            *(["image"] if image_id else []),
            "instance_type",
            "subnets[1]",
            "security_groups[0]",
            "key_pair",
            "tags[Name]",
            "tags[a/b]",
        ]
        assert all(fault.what and fault.mend for fault in faults)


async def test_what_does_not_go_together_is_a_fault(site: Site) -> None:
    ec2 = site.endpoint.ec2
    default = await site.cloud.subnets(site.group())
    vpc_id = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    # A zone is named because moto calls the first subnet of any zone a default one, in whatever VPC.
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.99.0.0/24", AvailabilityZone=default[0][1])
    elsewhere = subnet["Subnet"]["SubnetId"]
    foreign = ec2.create_security_group(GroupName=site.name, Description="x", VpcId=vpc_id)["GroupId"]

    async def places(group: Group) -> list[str]:
        faults = await site.cloud.check_launch(group, site.endpoint.image_id)
        return [fault.where.partition(".launch.")[2] for fault in faults]

    assert await places(site.group(security_groups=(foreign,))) == ["security_groups[0]"]
    assert await places(site.group(subnets=(elsewhere, default[0][0]))) == ["subnets"]
    assert await places(site.group(zones=(default[0][1], "us-east-1z"))) == ["zones"]
    assert await places(site.group(bootstrap="role")) == ["key_pair"]
    assert await places(site.group(instance_type="t4g.micro")) == ["instance_type"]
    assert await places(site.group(disks=(Disk("/dev/sda1", 1),))) == ["disks[0].size_gib"]
