"""The signed DescribeInstances: the signature against botocore's, the call against moto's EC2."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import boto3
import pytest
from agent_world import FakeHttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from monitor_agent.ec2_lookup import (
    Credentials,
    Ec2LookupError,
    default_endpoint,
    find_by_tag,
    find_credentials,
    signed_headers,
)
from monitor_agent.identity import Imds

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


@pytest.mark.parametrize("token", [None, "a-session/token+with=signs"])
@pytest.mark.parametrize(
    "url", ["https://ec2.us-east-1.amazonaws.com", "http://10.0.0.1:5000", "http://10.0.0.1:5000/ec2/"]
)
def test_the_signature_is_botocores(url: str, token: str | None) -> None:
    body = b"Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3Arole"
    keys = Credentials(KEYS.access_key_id, KEYS.secret_access_key, token)
    at = datetime(2026, 11, 23, 12, 34, 56, tzinfo=UTC)
    ours = signed_headers(url, body, region="us-east-1", credentials=keys, at=at)

    headers = {name: value for name, value in ours.items() if name != "authorization"}
    request = AWSRequest("POST", url, data=body, headers=headers)
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    signer = SigV4Auth(
        BotocoreCredentials(keys.access_key_id, keys.secret_access_key, token), "ec2", "us-east-1"
    )
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    assert ours["authorization"].endswith(f"Signature={signer.signature(to_sign, request)}")
    assert f"Credential={signer.scope(request)}, " in ours["authorization"]
    signed = signer.signed_headers(signer.headers_to_sign(request))
    assert f"SignedHeaders={signed}, " in ours["authorization"]


@pytest.fixture(scope="module")
def ec2_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    # Other tests of this process want moto's images.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


async def test_running_instances_with_the_tag_are_found_and_no_others(ec2_url: str) -> None:
    ec2 = boto3.client(
        "ec2",
        endpoint_url=ec2_url,
        region_name="us-east-1",
        aws_access_key_id="k" * 20,
        aws_secret_access_key="s" * 40,
    )

    def launch(role: str) -> dict[str, str]:
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "asg role & more", "Value": role}]}]
        answer = ec2.run_instances(
            ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1, TagSpecifications=tags
        )
        return answer["Instances"][0]

    first, stopped, _ = launch("controller"), launch("controller"), launch("worker")
    ec2.stop_instances(InstanceIds=[stopped["InstanceId"]])
    found = await find_by_tag(
        "asg role & more", "controller", endpoint_url=ec2_url, region="us-east-1", credentials=KEYS
    )
    assert found == (first["PrivateIpAddress"],)
    assert (
        await find_by_tag(
            "asg role & more", "nobody", endpoint_url=ec2_url, region="us-east-1", credentials=KEYS
        )
        == ()
    )


async def test_ec2s_own_error_is_shown(fake_http: FakeHttp) -> None:
    error = b"<Error><Code>AuthFailure</Code><Message>clock is off</Message></Error>"
    body = b"<Response><Errors>" + error + b"</Errors></Response>"
    fake_http.pages["POST /"] = (401, body)
    with pytest.raises(Ec2LookupError, match="AuthFailure: clock is off"):
        await find_by_tag("a", "b", endpoint_url=fake_http.url, region="us-east-1", credentials=KEYS)
    fake_http.pages["POST /"] = (502, b"bad gateway")
    with pytest.raises(Ec2LookupError, match="HTTP 502: the answer is not XML"):
        await find_by_tag("a", "b", endpoint_url=fake_http.url, region="us-east-1", credentials=KEYS)


async def test_credentials_come_from_the_environment_else_of_the_role(imds: FakeHttp) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    assert await find_credentials(Imds(imds.url), environment) == Credentials("a", "b", "c")
    with pytest.raises(Ec2LookupError, match="no profile"):
        await find_credentials(Imds(imds.url), {})
    imds.pages["GET /latest/meta-data/iam/security-credentials/"] = (200, b"the-role")
    document = {"AccessKeyId": "k", "SecretAccessKey": "s", "Token": "t"}
    page = "GET /latest/meta-data/iam/security-credentials/the-role"
    imds.pages[page] = (200, json.dumps(document).encode())
    assert await find_credentials(Imds(imds.url), {}) == Credentials("k", "s", "t")
    imds.pages[page] = (200, b'{"Code": "Failed"}')
    with pytest.raises(Ec2LookupError, match="broken document"):
        await find_credentials(Imds(imds.url), {})


def test_a_region_has_its_endpoint() -> None:
    assert default_endpoint("eu-west-1") == "https://ec2.eu-west-1.amazonaws.com"
    assert default_endpoint("cn-north-1") == "https://ec2.cn-north-1.amazonaws.com.cn"
