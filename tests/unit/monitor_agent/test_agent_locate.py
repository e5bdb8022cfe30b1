"""Finding the controller: by address, by SRV records of a real (small) DNS server, by EC2 tag."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest
from agent_world import FakeHttp

from monitor_agent.channel import may_command
from monitor_agent.identity import Imds
from monitor_agent.locate import LocateError, Locator, SrvRecord, Target, by_priority, query_srv, resolve
from monitor_agent.settings import Address, ControllerTag, Settings

NAME = "_asg._tcp.example.com"


def locator(settings: Settings, imds_url: str = "http://127.0.0.1:1", **options: object) -> Locator:
    return Locator(settings, Imds(imds_url), **options)  # type: ignore[arg-type]


async def test_an_address_is_its_own_target() -> None:
    found = locator(Settings(controller_address=Address("10.0.0.4", 7402)))
    assert await found.locate() == (Target(Address("10.0.0.4", 7402), ("10.0.0.4",)),)
    assert found.described == "10.0.0.4:7402"


async def test_a_host_name_is_resolved_as_the_machine_does() -> None:
    assert set(await resolve(Address("localhost", 1))) <= {"127.0.0.1", "::1"}


async def test_a_name_that_does_not_resolve_is_said() -> None:
    with pytest.raises(LocateError, match=r"no-such-host\.invalid: "):
        await locator(Settings(controller_address=Address("no-such-host.invalid", 1))).locate()


async def test_srv_records_give_targets_in_order_and_are_asked_anew() -> None:
    answers = [[SrvRecord(20, 1, Address("10.0.0.2", 2)), SrvRecord(10, 1, Address("10.0.0.1", 1))]]

    async def lookup(name: str) -> list[SrvRecord]:
        assert name == NAME
        return answers[-1]

    found = locator(Settings(controller_srv_name=NAME), lookup_srv=lookup)
    assert [str(target.address) for target in await found.locate()] == ["10.0.0.1:1", "10.0.0.2:2"]
    answers.append([SrvRecord(1, 1, Address("10.0.0.9", 9))])
    assert [str(target.address) for target in await found.locate()] == ["10.0.0.9:9"]


@pytest.mark.parametrize(("chance", "first"), [(0.0, "a"), (0.2, "a"), (0.3, "b"), (0.99, "b")])
def test_among_equals_weight_decides_by_chance(chance: float, first: str) -> None:
    records = [
        SrvRecord(1, 75, Address("b", 1)),
        SrvRecord(1, 25, Address("a", 1)),
        SrvRecord(2, 1, Address("c", 1)),
    ]
    ordered = [address.host for address in by_priority(records, lambda: chance)]
    assert ordered[0] == first
    assert ordered[2] == "c"


@asynccontextmanager
async def dns_server(*records: str) -> AsyncIterator[int]:
    """A name server on UDP that answers every question with these SRV records, or NXDOMAIN when there are none."""

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            answer = dns.message.make_response(dns.message.from_wire(data))
            if records:
                answer.answer.append(dns.rrset.from_text(f"{NAME}.", 5, "IN", "SRV", *records))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self.transport.sendto(answer.to_wire(), address)  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def test_a_name_server_is_asked_for_srv_records() -> None:
    async with dns_server("10 5 7402 one.example.com.", "20 0 7403 two.example.com.") as port:
        records = await query_srv(NAME, ["127.0.0.1"], port)
    assert sorted(records, key=lambda record: record.priority) == [
        SrvRecord(10, 5, Address("one.example.com", 7402)),
        SrvRecord(20, 0, Address("two.example.com", 7403)),
    ]


async def test_a_name_without_records_is_said() -> None:
    async with dns_server() as port:
        with pytest.raises(LocateError, match=f"SRV {NAME}"):
            await query_srv(NAME, ["127.0.0.1"], port)
    async with dns_server("0 0 0 .") as port:
        with pytest.raises(LocateError, match="has no such service"):
            await query_srv(NAME, ["127.0.0.1"], port)


TAGGED = Settings(controller_tag=ControllerTag("asg:role", "controller", 7402))


def instances(*addresses: str) -> bytes:
    items = "".join(f"<item><privateIpAddress>{ip}</privateIpAddress></item>" for ip in addresses)
    return (
        f"<R><reservationSet><item><instancesSet>{items}</instancesSet></item></reservationSet></R>".encode()
    )


async def test_a_tag_gives_private_addresses_and_an_answer_is_used_again_for_a_while(
    imds: FakeHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    now = 1000.0
    settings = Settings(controller_tag=TAGGED.controller_tag, ec2_endpoint_url=imds.url)
    found = locator(settings, imds.url, monotonic=lambda: now, chance=lambda: 0.5)
    imds.pages["POST /"] = (200, instances("172.31.0.5"))
    assert await found.locate() == (Target(Address("172.31.0.5", 7402), ("172.31.0.5",)),)
    (body,) = [body for request, _, body in imds.requests if request == "POST /"]
    assert b"Filter.1.Name=tag%3Aasg%3Arole&Filter.1.Value.1=controller" in body
    assert "/eu-west-1/ec2/aws4_request" in imds.requests[-1][1]["authorization"]

    imds.pages["POST /"] = (200, instances("172.31.0.6"))
    now += 29
    assert (await found.locate())[0].ips == ("172.31.0.5",)
    now += 2
    assert (await found.locate())[0].ips == ("172.31.0.6",)


async def test_a_tag_that_nobody_carries_is_said(imds: FakeHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    imds.pages["POST /"] = (200, instances())
    settings = Settings(controller_tag=TAGGED.controller_tag, ec2_endpoint_url=imds.url, region="us-east-1")
    with pytest.raises(LocateError, match="tag asg:role=controller: no running instance has it"):
        await locator(settings).locate()


@pytest.mark.parametrize(
    ("peer", "expected", "is_local"),
    [
        ("ipv4:127.0.0.1:40000", True, True),
        ("ipv6:[::1]:40000", True, True),
        ("ipv6:%5B::1%5D:40000", True, True),
        ("ipv6:%5B::ffff:10.0.0.4%5D:40000", True, False),
        ("ipv4:10.0.0.4:40000", True, False),
        ("ipv4:10.9.1.1:40000", True, False),
        ("ipv4:10.0.0.5:40000", False, False),
        ("unix:", True, True),
        ("somewhere", False, False),
    ],
)
def test_only_the_controller_this_machine_and_named_networks_may_command(
    peer: str, expected: bool, is_local: bool
) -> None:
    assert may_command(peer, ("10.0.0.4",), ("10.9.0.0/16",), is_local_free=True) is expected
    assert may_command(peer, ("10.0.0.4",), ("10.9.0.0/16",), is_local_free=False) is (
        expected and not is_local
    )
