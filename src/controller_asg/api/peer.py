"""Who is calling: the one place that turns a gRPC peer into an identity and judges whom it may speak for.

Today the identity is the address a call comes from. With mutual TLS it will be the instance id in the certificate.
"""

import ipaddress
from typing import Protocol
from urllib.parse import unquote

from controller_asg.monitor.fleet import Member


class CallContext(Protocol):
    """What is needed of a `grpc.aio.ServicerContext`."""

    def peer(self) -> str: ...


def peer_address(context: CallContext) -> str:
    """The caller's IP address in its plain form; empty for one that has none, such as a Unix socket's."""
    kind, _, rest = unquote(context.peer()).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def may_speak_for(context: CallContext, member: Member) -> bool:
    """Whether the caller is that instance. An instance whose address is not known has no speaker."""
    return bool(member.private_ip) and peer_address(context) == member.private_ip
