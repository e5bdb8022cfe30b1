"""One lab's network: a /16 with a bridge, and the nft table that answers for metadata, faults and who may call.

The nft table is the lab's own and goes with it. Faults of the network are elements of its set `cut`; never a link
of the host or of a machine: taking eth0 down loses the default route for good, and a wrong ifindex is the host's eth0.
"""

import ipaddress
import json
from dataclasses import dataclass

from asg_lab.command import podman, run
from asg_lab.errors import LabError

LABEL = "asg-lab"
# The first is EC2's default VPC. Each lab beside another takes the next that nothing on the host uses.
CANDIDATES = tuple(f"172.{second}.0.0/16" for second in range(31, 19, -1))


@dataclass(frozen=True, slots=True)
class Network:
    """A lab's network as podman made it."""

    name: str
    cidr: str
    gateway: str
    bridge: str


@dataclass(frozen=True, slots=True)
class Ports:
    """What the lab's process listens on, on every interface."""

    api: int
    imds: int
    dns: int


def network_name(lab: str) -> str:
    """podman's name of the network, and the nft table's."""
    return f"asg-lab-{lab}"


def free_candidates(used: list[str]) -> list[str]:
    """The candidates that overlap none of the `used` networks, in order."""
    taken = [ipaddress.ip_network(network) for network in used]
    return [
        candidate
        for candidate in CANDIDATES
        if not any(ipaddress.ip_network(candidate).overlaps(network) for network in taken)
    ]


def create(lab: str) -> Network:
    """Make the lab's network on the first /16 that is free here."""
    for cidr in free_candidates(_used_networks()):
        gateway = str(ipaddress.ip_network(cidr)[1])
        name = network_name(lab)
        try:
            podman(
                *("network", "create", "--subnet", cidr, "--gateway", gateway, "--disable-dns"),
                *("--label", f"{LABEL}={lab}", name),
            )
        except LabError as error:
            if "already used" in str(error):  # by a podman network without a machine: no route shows it
                continue
            raise
        bridge = podman("network", "inspect", "-f", "{{.NetworkInterface}}", name).strip()
        return Network(name, cidr, gateway, bridge)
    raise LabError(f"no free network among {CANDIDATES[0]} … {CANDIDATES[-1]}; end another lab first")


def _used_networks() -> list[str]:
    """Networks this host routes to, its own addresses among them (on a real EC2 instance 172.31 is one)."""
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "main"]) or "[]")
    used = [route["dst"] for route in routes if route["dst"] != "default"]
    return [network if "/" in network else f"{network}/32" for network in used]


def ruleset(network: Network, ports: Ports, *, egress: bool) -> str:
    """The nft table. nft wants a newline between closing braces."""
    bridge = network.bridge
    private = (
        ""
        if egress
        else f'''
    iifname "{bridge}" oifname != "{bridge}" ct state new reject with icmp type admin-prohibited'''
    )
    return f"""\
table ip {network.name} {{
  set cut {{ type ipv4_addr; }}
  chain prerouting {{
    type nat hook prerouting priority -110;
    iifname "{bridge}" ip daddr 169.254.169.254 tcp dport 80 redirect to :{ports.imds}
    iifname "{bridge}" ip daddr 169.254.169.253 udp dport 53 redirect to :{ports.dns}
  }}
  chain input {{
    type filter hook input priority -150;
    tcp dport {{ {ports.api}, {ports.imds} }} iifname != {{ "lo", "{bridge}" }} drop
    udp dport {ports.dns} iifname != "{bridge}" drop
    ip saddr @cut drop
  }}
  chain output {{
    type filter hook output priority -150;
    ip daddr @cut drop
  }}
  chain forward {{
    type filter hook forward priority -150;
    ip saddr @cut drop
    ip daddr @cut drop{private}
  }}
}}
"""


def bridge_ruleset(network: Network) -> str:
    """The same cut between two machines of one bridge, for hosts whose bridges don't pass the ip tables."""
    return f"""\
table bridge {network.name} {{
  set cut {{ type ipv4_addr; }}
  chain forward {{
    type filter hook forward priority -200;
    ip saddr @cut drop
    ip daddr @cut drop
  }}
}}
"""


def filter_traffic(network: Network, ports: Ports, *, egress: bool) -> None:
    """Load the lab's nft tables. Before it, nothing may be served: the servers are bound to every interface."""
    run(["nft", "-f", "-"], input_text=ruleset(network, ports, egress=egress))
    # Not every kernel has the bridge family; where it lacks, bridge-nf-call-iptables does the work.
    run(["nft", "-f", "-"], input_text=bridge_ruleset(network), check=False)


def cut(lab: str, address: str, *, mend: bool = False) -> None:
    """Cut a machine off, or let it back."""
    verb, name = ("delete" if mend else "add"), network_name(lab)
    run(["nft", verb, "element", "ip", name, "cut", f"{{ {address} }}"], check=not mend)
    run(["nft", verb, "element", "bridge", name, "cut", f"{{ {address} }}"], check=False)


def remove(lab: str) -> None:
    """Remove network and tables, whatever of them is there."""
    name = network_name(lab)
    podman("network", "rm", "-f", name, check=False)
    for family in ("ip", "bridge"):
        run(["nft", "delete", "table", family, name], check=False)
