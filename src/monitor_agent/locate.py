"""Where the controller is: the settings' way (address, SRV name or EC2 tag) made into addresses to connect to.

Names are resolved here and not by gRPC, so that the machine's own resolver decides, a failure has words, and the agent
knows which addresses are the controller's when one of them asks for a drain.
"""

import asyncio
import ipaddress
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from monitor_agent.identity import Imds, ImdsError
from monitor_agent.settings import Address, ControllerTag, Settings

TIMEOUT_SECONDS = 5.0
# The answer of a tag lookup is used again for 20 to 40 s: 500 agents that lost their controller would otherwise ask for
# 100 DescribeInstances a second, and EC2 refills about 20 (EC2 Developer Guide, "Request throttling").
TAG_ANSWER_SECONDS = (20.0, 40.0)


class LocateError(Exception):
    """The controller's address can't be found now; the message says which lookup failed and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A controller to try: its address as found, and the IP addresses (of one family) behind it."""

    address: Address
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SrvRecord:
    priority: int
    weight: int
    address: Address


class Locator:
    """Finds the controller anew at each call."""

    def __init__(
        self,
        settings: Settings,
        imds: Imds,
        *,
        lookup_srv: Callable[[str], Awaitable[Sequence[SrvRecord]]] | None = None,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._imds = settings, imds
        self._lookup_srv = lookup_srv or query_srv
        self._chance, self._monotonic = chance, monotonic
        self._tagged: tuple[Address, ...] = ()
        self._tagged_until = 0.0

    @property
    def described(self) -> str:
        """How the controller is looked for, in a few words."""
        settings = self._settings
        if settings.controller_address is not None:
            return str(settings.controller_address)
        if settings.controller_srv_name is not None:
            return f"SRV {settings.controller_srv_name}"
        assert settings.controller_tag is not None  # the settings hold one of the three
        return f"tag {settings.controller_tag.key}={settings.controller_tag.value}"

    async def locate(self) -> tuple[Target, ...]:
        """The targets in the order in which to try them, at least one. Raises LocateError."""
        faults, targets = [], []
        for address in await self._addresses():
            try:
                targets.append(Target(address, await resolve(address)))
            except LocateError as error:
                faults.append(str(error))
        if not targets:
            raise LocateError("; ".join(faults))
        return tuple(targets)

    async def _addresses(self) -> Sequence[Address]:
        settings = self._settings
        if settings.controller_address is not None:
            return [settings.controller_address]
        if settings.controller_srv_name is not None:
            return by_priority(await self._lookup_srv(settings.controller_srv_name), self._chance)
        assert settings.controller_tag is not None
        if self._monotonic() >= self._tagged_until:
            self._tagged = await self._by_tag(settings.controller_tag)
            low, high = TAG_ANSWER_SECONDS
            self._tagged_until = self._monotonic() + low + (high - low) * self._chance()
        return self._tagged

    async def _by_tag(self, tag: ControllerTag) -> tuple[Address, ...]:
        # Not at the top: hashing imports OpenSSL, 4 MiB that an agent with an address never needs.
        from monitor_agent.ec2_lookup import Ec2LookupError, find_by_tag, find_credentials

        settings = self._settings
        try:
            found = await find_by_tag(
                tag.key,
                tag.value,
                endpoint_url=settings.ec2_endpoint_url,
                region=settings.region or await self._imds.get("meta-data/placement/region"),
                credentials=await find_credentials(self._imds),
            )
        except (Ec2LookupError, ImdsError) as error:
            raise LocateError(f"{self.described}: {error}") from error
        if not found:
            raise LocateError(f"{self.described}: no running instance has it")
        return tuple(Address(ip, tag.port) for ip in found)


def by_priority(records: Sequence[SrvRecord], chance: Callable[[], float]) -> list[Address]:
    """The order of RFC 2782: lowest priority first, by chance in proportion to weight among equals."""
    ordered: list[Address] = []
    left = sorted(records, key=lambda record: (record.priority, record.weight))
    while left:
        peers = [record for record in left if record.priority == left[0].priority]
        point = chance() * sum(record.weight for record in peers)
        for record in peers:
            point -= record.weight
            if point <= 0:
                break
        ordered.append(record.address)
        left.remove(record)
    return ordered


async def query_srv(name: str, nameservers: Sequence[str] = (), port: int = 53) -> Sequence[SrvRecord]:
    """The SRV records of a name, from the system's name servers or the given ones. Raises LocateError."""
    import dns.asyncresolver  # 4 MiB, for those who use it
    import dns.exception

    resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    if nameservers:
        resolver.nameservers, resolver.port = list(nameservers), port
    try:
        answer = await resolver.resolve(name, "SRV", lifetime=TIMEOUT_SECONDS)
    except dns.exception.DNSException as error:
        raise LocateError(f"SRV {name}: {error or type(error).__name__}") from error
    records = [
        SrvRecord(item.priority, item.weight, Address(item.target.to_text(omit_final_dot=True), item.port))
        for item in answer
        if item.target.to_text() != "."  # "decidedly not available at this domain", RFC 2782
    ]
    if not records:
        raise LocateError(f"SRV {name}: the domain says that it has no such service")
    return records


async def resolve(address: Address) -> tuple[str, ...]:
    """The IP addresses of a host, all of the family that the machine prefers. Raises LocateError."""
    try:
        return (str(ipaddress.ip_address(address.host)),)
    except ValueError:
        pass
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
    except TimeoutError as error:
        raise LocateError(f"{address.host}: no answer from DNS within {TIMEOUT_SECONDS:g} s") from error
    except (OSError, UnicodeError) as error:
        raise LocateError(f"{address.host}: {error}") from error
    family = found[0][0]
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found if entry[0] == family))
