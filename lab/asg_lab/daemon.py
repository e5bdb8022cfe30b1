"""A lab's process: the API, the metadata service, the control socket, the machines and their prober.

Started by `lifecycle` with the lab's lock as an open file, which it keeps open for life. Order of the start: bind the
ports, filter them, then serve; lab.json is written last.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from asg_lab import breaking, control, ec2_patches, imds, paths, resolver, status
from asg_lab.network import Network, Ports, filter_traffic
from asg_lab.state import (
    ACCOUNT_ID,
    AMI_NAME,
    AMI_PARAMETER,
    REGION,
    ZONES,
    LabInfo,
    Options,
    credentials,
)

log = logging.getLogger("asg_lab.daemon")


def main() -> None:
    """Run a lab until it is told to end; the one argument is its name, the rest is in daemon.json."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    name = sys.argv[1]
    folder = paths.state_directory(name)
    settings = json.loads((folder / "daemon.json").read_text())
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    info = _serve(name, folder, settings, end)
    info.save()
    log.info("ready: %s", info.endpoint_url)
    end.wait()
    log.info("ending")
    logging.shutdown()
    os._exit(0)  # threads may be in podman calls; what they leave is swept by `lab stop`


def _serve(name: str, folder: Path, settings: dict[str, Any], end: threading.Event) -> LabInfo:
    ec2_patches.prepare_moto()
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from asg_lab import images
    from asg_lab.api import Api
    from asg_lab.prober import Prober
    from asg_lab.world import World

    options = Options(**settings["options"])
    network = Network(**settings["network"])
    world = World(
        name=name,
        network=network,
        options=options,
        folder=folder,
        host_options=settings["host_options"],
        host_memory_mib=settings["host_memory_mib"],
        credentials=credentials(name),
        images={},
    )
    ec2_patches.install(world)
    ami_id = images.register_base(world, settings["base_image"])

    application = Api(world, DomainDispatcherApplication(create_backend_app))
    # Bound wide since the bridge comes and goes with the machines; nothing is served before nft filters the ports.
    everywhere = "0.0.0.0"
    api = make_server(everywhere, options.api_port, application, threaded=True)
    # Its threaded server has it (socketserver.ThreadingMixIn); the declared base has not.
    api.daemon_threads = True  # type: ignore[attr-defined]  # its stubs lack it
    metadata = imds.serve(world)
    names = resolver.serve(network)
    ports = Ports(api.server_port, int(metadata.server_address[1]), int(names.server_address[1]))
    filter_traffic(network, ports, egress=options.egress)
    for title, server in (("api", api), ("imds", metadata), ("dns", names)):
        threading.Thread(target=server.serve_forever, name=title, daemon=True).start()

    prober = Prober(world.pool, options.probe_seconds)
    prober.also(world.drop_terminated)
    prober.start()
    breaker = breaking.Breaker(world)
    control.serve(
        name,
        {
            "ping": lambda: "pong",
            "status": lambda: status.report(world),
            "calls": world.records.calls_since,
            "events": world.records.events_since,
            "find": lambda instance: breaker.find(instance).spec.container,
            "fault_add": breaker.add,
            "fault_undo": breaker.undo,
            "fault_list": lambda: [fault.describe() for fault in world.faults.active()],
            "fault_clear": breaker.clear,
            "shutdown": end.set,
        },
    )
    vpc = world.backend.get_default_vpc()
    subnets = world.backend.get_default_subnets()
    return LabInfo(
        name=name,
        pid=os.getpid(),
        endpoint_url=f"http://127.0.0.1:{ports.api}",
        machine_endpoint_url=f"http://{network.gateway}:{ports.api}",
        region=REGION,
        zones=ZONES,
        account_id=ACCOUNT_ID,
        vpc_id=vpc.id,
        vpc_cidr=vpc.cidr_block,
        subnet_ids={zone: subnets[zone].id for zone in ZONES},
        default_security_group_id=world.backend.get_security_group_from_name("default", vpc_id=vpc.id).id,
        ami_id=ami_id,
        ami_name=AMI_NAME,
        ami_parameter=AMI_PARAMETER,
        network=network.name,
        bridge=network.bridge,
        gateway=network.gateway,
        api_port=ports.api,
        imds_port=ports.imds,
        started_unix=time.time(),
    )


if __name__ == "__main__":
    main()
