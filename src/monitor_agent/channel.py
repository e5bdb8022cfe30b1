"""What secures the wire: credentials of the channel to the controller, of the agent's own server, and who a peer is.

Today there are none and a peer is its address. Mutual TLS comes in here: both credentials, and a peer that is the
name in its certificate. Nothing else in the agent knows how a channel is secured.
"""

import ipaddress
from collections.abc import Iterable

import grpc.aio

from monitor_agent.locate import Target
from monitor_agent.settings import Address

MESSAGE_BYTES = 65536  # a sample with 64 metrics of 200 characters is 14 KB

# A ping after 10 s of silence from the controller and 5 s for its answer; the same 5 s bound unacknowledged data
# (TCP_USER_TIMEOUT). So a dead machine is noticed within 6 s (measured), a frozen process within 15. The controller's
# server has to allow such pings (grpc.http2.min_ping_interval_without_data_ms below 10,000), or it ends the connection.
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 10_000, 5_000

_LIMITS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16384),
]


def open_channel(
    target: Target, keepalive_ms: int = KEEPALIVE_MS, timeout_ms: int = KEEPALIVE_TIMEOUT_MS
) -> grpc.aio.Channel:
    """A channel to a controller. It connects at the first call; close it when the session is over."""
    options: list[tuple[str, object]] = [
        *_LIMITS,
        ("grpc.default_authority", str(target.address)),
        ("grpc.enable_http_proxy", 0),  # the controller is on the private network
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Seen with grpc 1.85: a controller that is frozen while TCP lives is noticed by this one only (default 60 s).
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),  # the session's own backoff decides when to try again
        # Without it a new channel to the same address shares the old one's connection attempt and its backoff.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    family = "ipv6" if ":" in target.ips[0] else "ipv4"
    addresses = ",".join(str(Address(ip, target.address.port)) for ip in target.ips)
    return grpc.aio.insecure_channel(f"{family}:{addresses}", options=options)


def make_server() -> grpc.aio.Server:
    """A server for a handful of callers: the controller, and an operator with a gRPC client."""
    options: list[tuple[str, object]] = [
        *_LIMITS,
        ("grpc.so_reuseport", 0),  # a second agent on the port must fail, not share it
        ("grpc.max_concurrent_streams", 32),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]
    return grpc.aio.server(options=options, maximum_concurrent_rpcs=64)


def bind(server: grpc.aio.Server, listen: Address) -> int:
    """Listen, and return the port. Raises OSError."""
    try:
        return server.add_insecure_port(str(listen))
    except RuntimeError as error:
        raise OSError(f"can't listen on {listen} for gRPC: is another agent running?") from error


def may_command(peer: str, controllers: Iterable[str], networks: Iterable[str], is_local_free: bool) -> bool:
    """Whether a peer (`ipv4:10.0.0.4:51234`) may change something: the controller, and a named network.

    This machine is every user and program on it: only where `is_local_free`.
    """
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return is_local_free
    try:
        ip = ipaddress.ip_address(rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]"))
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if (ip.is_loopback and is_local_free) or str(ip) in set(controllers):
        return True
    return any(ip in ipaddress.ip_network(network) for network in networks)
