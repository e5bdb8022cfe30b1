"""The instance metadata service: http://169.254.169.254/ as a machine of the lab sees it.

The caller's address says which instance asks; nothing else may, and a token holds for the address it was made for. Each
path answers at once, if only with 404: cloud-init waits 30 s for a path that hangs, and sshd waits for cloud-init.
"""

import base64
import logging
import secrets
import time
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from asg_lab import metadata
from asg_lab.metadata import InstanceView
from asg_lab.state import ACCOUNT_ID, REGION
from asg_lab.world import World

log = logging.getLogger(__name__)

TOKEN_TTL_MAX = 21600
TOKENS_KEPT = 10_000
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105  a header's name


class Tokens:
    """IMDSv2 session tokens. The oldest are dropped beyond a bound."""

    def __init__(self) -> None:
        self._issued: dict[str, tuple[str, float]] = {}

    def issue(self, address: str, ttl_seconds: int) -> str:
        """A token that holds for an address, for a while."""
        token = secrets.token_urlsafe(40)
        self._issued[token] = (address, time.monotonic() + ttl_seconds)
        while len(self._issued) > TOKENS_KEPT:
            self._issued.pop(next(iter(self._issued)), None)
        return token

    def holds(self, token: str, address: str) -> bool:
        """True for a token of this address that has not run out."""
        owner, until = self._issued.get(token, ("", 0.0))
        return owner == address and time.monotonic() < until


def serve(world: World) -> ThreadingHTTPServer:
    """A bound server; the caller filters its port before it runs `serve_forever`."""
    tokens = Tokens()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "EC2ws"
        sys_version = ""
        timeout = 20

        def do_PUT(self) -> None:
            status, text = put(tokens, self.path, self.headers, self.client_address[0])
            headers = {TTL_HEADER: self.headers.get(TTL_HEADER, "")} if status is HTTPStatus.OK else {}
            self._send(status, text.encode(), headers)

        def do_GET(self) -> None:
            try:
                status, content = get(world, tokens, self.path, self.headers, self.client_address[0])
            except Exception:
                log.exception("metadata %s failed", self.path)
                status, content = HTTPStatus.INTERNAL_SERVER_ERROR, b""
            self._send(status, content, {})

        do_HEAD = do_GET

        def _send(self, status: HTTPStatus, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing: a boot asks some 50 times."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """A machine that was killed in the middle of a request is no news."""

    return Server(("0.0.0.0", 0), Handler)


def put(tokens: Tokens, path: str, headers: Any, address: str) -> tuple[HTTPStatus, str]:
    """PUT /latest/api/token."""
    if path.rstrip("/") != "/latest/api/token":
        return HTTPStatus.NOT_FOUND, ""
    if headers.get("X-Forwarded-For"):
        return HTTPStatus.FORBIDDEN, ""
    ttl = headers.get(TTL_HEADER, "")
    if not ttl.isdigit() or not 1 <= int(ttl) <= TOKEN_TTL_MAX:
        return HTTPStatus.BAD_REQUEST, ""
    return HTTPStatus.OK, tokens.issue(address, int(ttl))


def get(world: World, tokens: Tokens, path: str, headers: Any, address: str) -> tuple[HTTPStatus, bytes]:
    """GET of any path, for whichever instance has the address."""
    known = world.pool.at(address)
    if known is None:
        return HTTPStatus.NOT_FOUND, b""
    with world.lock:
        instance = world.find(known.spec.instance_id)
        if instance is None:
            return HTTPStatus.NOT_FOUND, b""
        options = instance.metadata_options
        if options.http_endpoint == "disabled":
            return HTTPStatus.FORBIDDEN, b""
        token = headers.get(TOKEN_HEADER)
        if token is None and options.http_tokens == "required":
            return HTTPStatus.UNAUTHORIZED, b""
        if token is not None and not tokens.holds(token, address):
            return HTTPStatus.UNAUTHORIZED, b""
        view = view_of(world, instance)
    world.pool.mark(known, "imds")
    content = content_at(view, path)
    return (HTTPStatus.NOT_FOUND, b"") if content is None else (HTTPStatus.OK, content)


def content_at(view: InstanceView, path: str) -> bytes | None:
    """What a path holds; any version stands for the latest."""
    parts = [part for part in path.split("?")[0].split("/") if part]
    if not parts:
        return b"1.0\n2009-04-04\n2016-09-02\n2021-03-23\nlatest"
    top, rest = (parts[1] if len(parts) > 1 else ""), "/".join(parts[2:])
    if top == "user-data":
        return view.user_data
    trees = {
        "meta-data": metadata.metadata_tree(view, datetime.now(UTC)),
        "dynamic": {"instance-identity": {"document": metadata.identity_document(view)}},
    }
    if not top:
        names = ["dynamic", "meta-data", *(["user-data"] if view.user_data is not None else [])]
        return "\n".join(names).encode()
    text = metadata.lookup(trees[top], rest) if top in trees else None
    return None if text is None else text.encode()


def view_of(world: World, instance: Any) -> InstanceView:
    """A snapshot of moto's instance; call it under the world's lock."""
    backend, nic = world.backend, instance.nics[0]
    subnet = backend.get_subnet(instance.subnet_id)
    key = backend.key_pairs.get(instance.key_name)
    association = backend.iam_instance_profile_associations.get(instance.id)
    profile = association.iam_instance_profile if association else None
    with_tags = instance.metadata_options.instance_metadata_tags == "enabled"
    return InstanceView(
        instance_id=instance.id,
        image_id=instance.image_id,
        instance_type=instance.instance_type,
        account_id=ACCOUNT_ID,
        region=REGION,
        zone=subnet.availability_zone,
        zone_id=subnet.availability_zone_id,
        private_ip=nic.private_ip_address,
        public_ip=nic.public_ip,
        mac_address=nic.mac_address,
        hostname=instance.private_dns_name,
        subnet_id=subnet.id,
        subnet_cidr=subnet.cidr_block,
        vpc_id=subnet.vpc_id,
        vpc_cidr=backend.get_vpc(subnet.vpc_id).cidr_block,
        reservation_id=instance.reservation_id,
        launch_index=instance.ami_launch_index,
        launched_at=instance.launch_time.replace(tzinfo=UTC),
        security_groups=tuple((group.id, group.name) for group in instance.security_groups),
        user_data=base64.b64decode(str(instance.user_data)) if instance.user_data else None,
        key_name=instance.key_name,
        public_key=key.public_key.strip() if key else None,
        lifecycle=instance.lifecycle or "on-demand",
        role=(profile.roles[0].name if profile.roles else profile.name) if profile else None,
        profile_arn=profile.arn if profile else None,
        profile_id=profile.id if profile else None,
        tags={tag["key"]: tag["value"] for tag in instance.get_tags()} if with_tags else None,
        interrupted_at=getattr(instance, "lab_interrupted_at", None),
        access_key_id=world.credentials.access_key_id,
        secret_access_key=world.credentials.secret_access_key,
    )
