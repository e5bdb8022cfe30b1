"""The private addresses of running instances with a tag: one signed DescribeInstances, without botocore's 40 MiB.

The signature is AWS Signature Version 4 ("Signing AWS API requests", IAM User Guide); a test holds it to botocore's.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

from monitor_agent.http_client import HttpError, fetch
from monitor_agent.identity import Imds, ImdsError

API_VERSION = "2016-11-15"
CONTENT_TYPE = "application/x-www-form-urlencoded; charset=utf-8"
TIMEOUT_SECONDS = 5.0
ANSWER_BYTES = 1_048_576  # an instance is about 6 KB of XML, and a tag names one controller or a few


class Ec2LookupError(Exception):
    """EC2 did not answer the question; the message holds EC2's own code where there is one."""


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


async def find_by_tag(
    key: str, value: str, *, endpoint_url: str | None, region: str, credentials: Credentials
) -> tuple[str, ...]:
    """Private addresses, the longest running instance first; empty when none carries the tag. Raises Ec2LookupError."""
    url = endpoint_url or default_endpoint(region)
    query = {
        "Action": "DescribeInstances",
        "Version": API_VERSION,
        "Filter.1.Name": f"tag:{key}",
        "Filter.1.Value.1": value,
        "Filter.2.Name": "instance-state-name",
        "Filter.2.Value.1": "running",
    }
    body = urlencode(query).encode()
    headers = signed_headers(url, body, region=region, credentials=credentials, at=datetime.now(UTC))
    try:
        response = await fetch(
            url,
            method="POST",
            headers=headers,
            body=body,
            timeout_seconds=TIMEOUT_SECONDS,
            limit_bytes=ANSWER_BYTES,
        )
    except HttpError as error:
        raise Ec2LookupError(str(error)) from error
    return _addresses(response.status, response.body)


async def find_credentials(imds: Imds, environment: Mapping[str, str] = os.environ) -> Credentials:
    """From the environment, else of the instance's role. Raises Ec2LookupError."""
    key_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key_id and secret:
        return Credentials(key_id, secret, environment.get("AWS_SESSION_TOKEN"))
    path = "meta-data/iam/security-credentials/"
    try:
        role = (await imds.get(path)).splitlines()[0]
        document = json.loads(await imds.get(path + role))
        return Credentials(document["AccessKeyId"], document["SecretAccessKey"], document.get("Token"))
    except ImdsError as error:
        raise Ec2LookupError(f"no credentials: the instance has no profile, or {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Ec2LookupError("no credentials: instance metadata gave a broken document") from error


def default_endpoint(region: str) -> str:
    """EC2's endpoint of a region."""
    return f"https://ec2.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def signed_headers(
    url: str, body: bytes, *, region: str, credentials: Credentials, at: datetime
) -> dict[str, str]:
    """The headers of a POST to EC2, Authorization among them; Host is left to the client."""
    parts = urlsplit(url)
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    signed = {"content-type": CONTENT_TYPE, "host": parts.netloc, "x-amz-date": stamp}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            "POST",
            parts.path or "/",
            "",
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/ec2/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"{credentials.access_key_id}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return {name: value for name, value in signed.items() if name != "host"} | {
        "authorization": authorization
    }


def _addresses(status: int, body: bytes) -> tuple[str, ...]:
    from xml.etree import ElementTree  # not at the top: only the tag lookup needs expat

    try:
        root = ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError as error:
        raise Ec2LookupError(f"HTTP {status}: the answer is not XML") from error
    for element in root.iter():  # names without "{http://ec2.amazonaws.com/doc/2016-11-15/}"
        element.tag = element.tag.rpartition("}")[2]
    if status != 200:
        code = root.findtext(".//Code") or f"HTTP {status}"
        raise Ec2LookupError(f"DescribeInstances: {code}: {root.findtext('.//Message') or 'no message'}")
    instances = root.findall("./reservationSet/item/instancesSet/item")
    found = [
        (item.findtext("launchTime") or "", item.findtext("privateIpAddress") or "") for item in instances
    ]
    return tuple(address for _, address in sorted(found) if address)
