"""The name server of a private subnet: 169.254.169.253, as in a VPC.

It knows the instances' own names (ip-172-31-0-4.ec2.internal) and says at once that there is no other. That "at once"
is why it exists: cloud-init looks three names up before it asks for metadata, and a resolver that hears nothing waits
5 s for each (refusing by nft is not enough, for the kernel sends few ICMP errors a second).
"""

import ipaddress
import re
import socketserver
import struct

from asg_lab.network import Network

ADDRESS = "169.254.169.253"
INSTANCE = re.compile(
    r"ip-(\d+)-(\d+)-(\d+)-(\d+)\.(ec2\.internal|[a-z0-9-]+\.compute\.internal)", re.IGNORECASE
)
TYPE_A, CLASS_IN = 1, 1
TTL_SECONDS = 60
NO_SUCH_NAME = 3


def serve(network: Network) -> socketserver.ThreadingUDPServer:
    """A bound server; the caller filters its port before it runs `serve_forever`."""
    cidr = ipaddress.ip_network(network.cidr)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, connection = self.request
            if (reply := answer(data, cidr)) is not None:
                connection.sendto(reply, self.client_address)

    server = socketserver.ThreadingUDPServer(("0.0.0.0", 0), Handler)
    server.daemon_threads = True
    return server


def answer(query: bytes, cidr: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes | None:
    """The reply to a DNS message; None when it is no question."""
    try:
        number, flags, questions = struct.unpack_from("!HHH", query)
        name, end = _name(query, 12)
        kind, family = struct.unpack_from("!HH", query, end)
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
    if flags & 0x8000 or questions != 1:
        return None
    question = query[12 : end + 4]
    address = _address(name, cidr)
    found = address is not None and kind == TYPE_A and family == CLASS_IN
    code = 0 if address is not None else NO_SUCH_NAME
    # 0x8480: an authoritative answer, recursion offered (else glibc tries the next server); the query's own RD bit.
    head = struct.pack("!HHHHHH", number, 0x8480 | flags & 0x0100 | code, 1, int(found), 0, 0)
    if not found or address is None:
        return head + question
    record = struct.pack("!HHHIH", 0xC00C, TYPE_A, CLASS_IN, TTL_SECONDS, 4) + address.packed
    return head + question + record


def _name(message: bytes, at: int) -> tuple[str, int]:
    """The name that begins at an offset, and the offset behind it."""
    labels = []
    while (length := message[at]) != 0:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), at + 1


def _address(name: str, cidr: ipaddress.IPv4Network | ipaddress.IPv6Network) -> ipaddress.IPv4Address | None:
    match = INSTANCE.fullmatch(name)
    if match is None:
        return None
    try:
        address = ipaddress.IPv4Address(".".join(match.groups()[:4]))
    except ValueError:
        return None
    return address if address in cidr else None
