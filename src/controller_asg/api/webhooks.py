"""Signed messages that execute a policy: POST /v1/webhooks/<group>/<policy>, by the scheme of Standard Webhooks.

Source: standardwebhooks.com, version 1 of the specification: the headers webhook-id, webhook-timestamp and
webhook-signature, HMAC-SHA256 over `id.timestamp.body`. Each policy has a secret of its own, derived from the
controller's, so whoever fires one can't fire another. Nothing is told before the signature is found right.
"""

import base64
import binascii
import hashlib
import hmac
import math
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controller_asg.api.json_body import read_json
from controller_asg.engine.controller import Controller
from controller_asg.model.errors import Fault, NotFoundError, SpecError
from controller_asg.model.faults import unknown_key
from controller_asg.model.scaling_policy import AlarmScaling

PATH = "/v1/webhooks/"
PREFIX = "whsec_"
SECRET_LEAST_BYTES = 24  # the specification's; it allows 64 at the most
ID_LIMIT = 200  # characters
MESSAGE_SECONDS = 300.0  # so far from the time that a message names it is taken, before and after
# Messages of one policy within so long; `execution.MESSAGES_KEPT` follows from it.
RATE, RATE_SECONDS = 30, 60.0
KEYS = ("metric_value", "breach_threshold", "honor_cooldown")

Refuse = Callable[[int, tuple[Fault, ...]], Response]
Body = Callable[[Request], Any]


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """Those of a file, one a line; the first is the newest, and all are accepted. Raises SpecError."""
    where, mend = "webhook_secret_file", f'write "{PREFIX}" and what `openssl rand -base64 32` says'
    try:
        lines = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError((Fault(where, f"{path} can't be read: {error}", mend),)) from error
    try:
        secrets = tuple(base64.b64decode(line.removeprefix(PREFIX), validate=True) for line in lines)
    except binascii.Error:
        secrets = ()
    if not secrets or any(len(secret) < SECRET_LEAST_BYTES for secret in secrets):
        what = f"{path} holds no secrets of {SECRET_LEAST_BYTES} bytes or more in base64, one a line"
        raise SpecError((Fault(where, what, mend),))
    return secrets


def secret_of(secret: bytes, group: str, policy: str) -> bytes:
    """The one of a policy, from the controller's."""
    return hmac.digest(secret, f"{group}/{policy}".encode(), hashlib.sha256)


def shown(secret: bytes) -> str:
    return PREFIX + base64.b64encode(secret).decode()


def signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = hmac.digest(secret, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed).decode()


class Webhooks:
    """`secrets` is asked at each message, so that a reload can change them; empty: none are taken."""

    def __init__(
        self,
        controller: Controller,
        secrets: Callable[[], tuple[bytes, ...]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._controller, self._secrets, self._now = controller, secrets, now
        self._taken: dict[tuple[str, str], deque[float]] = {}  # when, of policies that exist

    async def receive(self, request: Request, body: bytes, refuse: Refuse) -> Response:
        group, policy = request.path_params["group"], request.path_params["policy"]
        refused = self._unsigned(request, body, group, policy)
        if refused is not None:
            return refuse(401, (refused,))
        self._expect(group, policy)
        message = _message(body)
        now = self._now().timestamp()
        taken = self._taken.setdefault((group, policy), deque(maxlen=RATE))
        if len(taken) == RATE and 0 <= now - taken[0] < RATE_SECONDS:
            response = refuse(429, (_too_many(group, policy),))
            response.headers["Retry-After"] = str(math.ceil(RATE_SECONDS - (now - taken[0])))
            return response
        taken.append(now)
        before, after, executed = await self._controller.execute_policy(
            group, policy, "a signed message", message_id=request.headers["webhook-id"], **message
        )
        answer = {"group": group, "policy": policy, "before": before, "after": after, "executed": executed}
        return JSONResponse(answer, 202 if executed else 200)

    def _unsigned(self, request: Request, body: bytes, group: str, policy: str) -> Fault | None:
        """Why it is not what one who knows the policy's secret has sent lately."""
        secrets = self._secrets()
        if not secrets:
            return Fault("webhooks", "are switched off", "name webhook_secret_file in the settings")
        headers = {
            name: request.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
        }
        for name, value in headers.items():
            if not value or not value.isascii():
                return Fault(f"webhook-{name}", "is missing", "sign as standardwebhooks.com says")
        if len(headers["id"]) > ID_LIMIT:
            return Fault("webhook-id", "is too long", f"send {ID_LIMIT} characters at the most")
        stamp = headers["timestamp"]
        if (
            not stamp.isdigit()
            or len(stamp) > 12
            or abs(self._now().timestamp() - int(stamp)) > MESSAGE_SECONDS
        ):
            what = f"is not within {MESSAGE_SECONDS:g} s of now"
            return Fault("webhook-timestamp", what, "send Unix seconds; look at both clocks")
        right = [
            signature(secret_of(secret, group, policy), headers["id"], stamp, body).encode()
            for secret in secrets
        ]
        given = [each.encode() for each in headers["signature"].split(" ")[:8]]
        if not any(hmac.compare_digest(one, other) for one in given for other in right):
            mend = f"sign with what `controller-asg webhook-secret {group} {policy}` says"
            return Fault("webhook-signature", "is not right", mend)
        return None

    def _expect(self, group: str, policy: str) -> None:
        """Raises NotFoundError for what no message may execute."""
        for each in self._controller.groups(group)[0].record.group.policies:
            if each.name == policy and isinstance(each, AlarmScaling) and each.webhook:
                return
        where = f"groups.{group}.policies.{policy}"
        raise NotFoundError("takes no messages", where, "write `webhook: true` at a step or simple policy")


def _too_many(group: str, policy: str) -> Fault:
    return Fault(f"groups.{group}.policies.{policy}", f"{RATE} messages in {RATE_SECONDS:g} s", "send fewer")


def _message(body: bytes) -> dict[str, Any]:
    """What EC2's ExecutePolicy takes. Raises SpecError."""
    found = read_json(body or b"{}", "send an object, or nothing")
    if not isinstance(found, dict):
        raise SpecError((Fault("body", "is not a JSON object", "send an object, or nothing"),))
    faults = [unknown_key("", name, KEYS) for name in found if name not in KEYS]
    for name in KEYS[:2]:
        value = found.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            faults.append(Fault(name, "is not a number", "write one, or leave it out"))
    if not isinstance(found.get("honor_cooldown", False), bool):
        faults.append(Fault("honor_cooldown", "is neither true nor false", "write true or false"))
    if faults:
        raise SpecError(tuple(faults))
    return found


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
