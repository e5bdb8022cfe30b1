"""A lab's network stands beside what the host has, and its servers answer nobody else."""

import ipaddress
import struct

from asg_lab.network import CANDIDATES, Network, Ports, free_candidates, ruleset
from asg_lab.resolver import NO_SUCH_NAME, answer

NETWORK = Network("asg-lab-x", "172.31.0.0/16", "172.31.0.1", "podman7")
CIDR = ipaddress.ip_network(NETWORK.cidr)


def test_a_network_the_host_uses_is_left_alone() -> None:
    assert free_candidates([])[0] == "172.31.0.0/16"
    assert free_candidates(["172.31.16.0/20", "172.30.0.7/32"])[0] == "172.29.0.0/16"
    assert free_candidates(["172.16.0.0/12"]) == []
    assert len(free_candidates(["10.0.0.0/8"])) == len(CANDIDATES)


def test_servers_answer_loopback_and_the_own_bridge_only() -> None:
    text = ruleset(NETWORK, Ports(4000, 4001, 4002), egress=False)
    assert 'tcp dport { 4000, 4001 } iifname != { "lo", "podman7" } drop' in text
    assert 'udp dport 4002 iifname != "podman7" drop' in text
    assert "admin-prohibited" in text
    assert "admin-prohibited" not in ruleset(NETWORK, Ports(1, 2, 3), egress=True)


def _query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_an_instances_own_name_is_known() -> None:
    reply = answer(_query("ip-172-31-0-4.ec2.internal"), CIDR)
    assert reply is not None
    assert reply.endswith(ipaddress.ip_address("172.31.0.4").packed)
    other_kind = answer(_query("ip-172-31-0-4.ec2.internal", kind=28), CIDR)
    assert other_kind is not None
    assert struct.unpack_from("!HHHH", other_kind)[1] & 0xF == 0


def test_other_names_are_denied_at_once() -> None:
    for name in ("example.invalid", "ip-10-0-0-1.ec2.internal", "ip-999-1-1-1.ec2.internal"):
        reply = answer(_query(name), CIDR)
        assert reply is not None
        assert struct.unpack_from("!HH", reply)[1] & 0xF == NO_SUCH_NAME


def test_garbage_gets_no_answer() -> None:
    assert answer(b"", CIDR) is None
    assert answer(b"\0" * 12, CIDR) is None
    assert answer(b"\xff" * 40, CIDR) is None
