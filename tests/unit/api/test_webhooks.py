"""Signed messages that execute a policy: who may, and what each one else is told."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller_asg.api.http import build_http_app
from controller_asg.api.webhooks import RATE, read_secrets, secret_of, signature
from controller_asg.model.errors import ConflictError, SpecError
from controller_asg.model.scaling_policy import SimpleScaling
from tests.fake_controller import FakeController

SECRET, OLD = b"0123456789abcdef01234567", b"an older one of 24 bytes"


@pytest.fixture
def controller() -> FakeController:
    fake = FakeController()
    web = fake.records["web"]
    policies = (
        SimpleScaling(adjustment=1, webhook=True, name="burst"),
        SimpleScaling(adjustment=1, name="quiet"),
    )
    fake.records["web"] = replace(web, group=replace(web.group, policies=policies))
    return fake


@pytest.fixture
async def client(controller: FakeController) -> AsyncIterator[httpx.AsyncClient]:
    app = build_http_app(
        controller, lambda: b"a token of many letters", lambda: True, "9", lambda: (SECRET, OLD)
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        yield client


def signed(
    body: bytes = b"",
    policy: str = "burst",
    group: str = "web",
    secret: bytes = SECRET,
    ago: float = 0,
    **keys: str,
) -> dict[str, Any]:
    message_id, stamp = "msg_1", str(int(datetime.now(UTC).timestamp() - ago))
    right = signature(secret_of(secret, group, policy), message_id, stamp, body)
    headers = {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": right}
    return {
        "content": body,
        "headers": {**headers, **{f"webhook-{key}": value for key, value in keys.items()}},
    }


def test_a_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks' own libraries.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body) == right


@pytest.mark.parametrize("secret", [SECRET, OLD])
async def test_a_signed_message_executes_its_policy_without_the_token(client, controller, secret) -> None:
    body = b'{"metric_value": 59, "breach_threshold": 50.5, "honor_cooldown": true}'
    answer = await client.post("/v1/webhooks/web/burst", **signed(body, secret=secret))
    assert (answer.status_code, answer.json()["after"]) == (202, 4)
    keys = {"metric_value": 59, "breach_threshold": 50.5, "honor_cooldown": True}
    assert controller.orders == [("execute", "web", "burst", "a signed message", "msg_1", keys)]


async def test_several_signatures_may_be_sent_while_a_secret_is_changed(client) -> None:
    both = "v1,AAAA v2,x " + signed()["headers"]["webhook-signature"]
    assert (await client.post("/v1/webhooks/web/burst", **signed(signature=both))).status_code == 202


async def test_a_message_that_comes_again_is_answered_well_and_not_carried_out(client, controller) -> None:
    stamp = str(int(datetime.now(UTC).timestamp()))
    right = signature(secret_of(SECRET, "web", "burst"), "msg_known", stamp, b"")
    headers = {"webhook-id": "msg_known", "webhook-timestamp": stamp, "webhook-signature": right}
    answer = await client.post("/v1/webhooks/web/burst", headers=headers)
    assert (answer.status_code, answer.json()["executed"]) == (200, False)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({}, "webhook-id"),
        (signed(id=""), "webhook-id"),
        (signed(id="m" * 201), "webhook-id"),
        (signed(id="msg_2"), "webhook-signature"),
        (signed(timestamp="soon"), "webhook-timestamp"),
        (signed(signature="v1,"), "webhook-signature"),
        (signed(signature="v1,äö".encode("latin-1").decode("latin-1")), "webhook-signature"),
        (signed(secret=b"somebody else's 24 bytes"), "webhook-signature"),
        (signed(policy="quiet"), "webhook-signature"),  # another policy's secret
        (signed(group="jobs"), "webhook-signature"),
        ({**signed(), "content": b"{}"}, "webhook-signature"),
    ],
)
async def test_what_is_not_signed_right_is_told_nothing_and_changes_nothing(
    client, controller, message, where
) -> None:
    if "headers" in message:
        message = {
            **message,
            "headers": {key: value.encode("latin-1") for key, value in message["headers"].items()},
        }
    answer = await client.post("/v1/webhooks/web/burst", **message)
    assert (answer.status_code, [each["where"] for each in answer.json()["errors"]]) == (401, [where])
    assert controller.orders == []


@pytest.mark.parametrize("ago", [301, -302])
async def test_a_message_of_another_time_is_refused(client, controller, ago) -> None:
    answer = await client.post("/v1/webhooks/web/burst", **signed(ago=ago))
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (401, "webhook-timestamp")
    assert controller.orders == []


@pytest.mark.parametrize(
    ("group", "policy", "body", "code"),
    [
        ("web", "quiet", b"", 404),
        ("web", "none", b"", 404),
        ("nowhere", "burst", b"", 404),
        ("web", "burst", b"[]", 400),
        ("web", "burst", b"{", 400),
        ("web", "burst", b'{"metric_valu": 1}', 400),
        ("web", "burst", b'{"\\ud800": 1}', 400),
        ("web", "burst", b'{"metric_value": true}', 400),
        ("web", "burst", b'{"metric_value": NaN}', 400),
        ("web", "burst", b'{"metric_value": 1' + b"0" * 400 + b"}", 400),
        ("web", "burst", b'{"honor_cooldown": 1}', 400),
        ("web", "burst", b" " * 20_000, 413),
    ],
)
async def test_a_signed_message_that_makes_no_sense_is_refused(
    client, controller, group, policy, body, code
) -> None:
    answer = await client.post(f"/v1/webhooks/{group}/{policy}", **signed(body, policy, group))
    assert answer.status_code == code
    assert len(answer.json()["errors"]) == 1
    assert controller.orders == []


async def test_what_the_controller_refuses_is_told(client, controller) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ConflictError(
            "is in its cooldown for another 9 s", "groups.web.policies.burst", "ask again after that"
        )

    controller.execute_policy = refuse
    assert (await client.post("/v1/webhooks/web/burst", **signed())).status_code == 409


async def test_more_messages_than_its_rate_wait(client, controller) -> None:
    codes = [(await client.post("/v1/webhooks/web/burst", **signed())).status_code for _ in range(RATE + 1)]
    assert codes == [202] * RATE + [429]


async def test_without_a_secret_no_message_is_taken(controller) -> None:
    app = build_http_app(controller, lambda: b"a token of many letters", lambda: True, "9")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        assert (await client.post("/v1/webhooks/web/burst", **signed())).status_code == 401
        assert (await client.get("/v1/webhooks/web/burst")).status_code == 401


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "no base64!", f"{'A' * 32}\nwhsec_x"])
def test_a_file_without_proper_secrets_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(SpecError):
        read_secrets(tmp_path / "secret")
    with pytest.raises(SpecError):
        read_secrets(tmp_path / "missing")
