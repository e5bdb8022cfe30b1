"""Where moto's EC2 is changed so that its instances are machines and its answers EC2's.

moto answers well for what is only data (subnets, groups, keys, tags). What is wrapped here is what has a machine behind
it, and what moto leaves out (tried with moto 5.2.5). Call `prepare_moto` before anything imports moto, and
`install` once.
"""

import os
from collections.abc import Callable
from typing import Any

from asg_lab import describe, images, launch, machine
from asg_lab.pool import State
from asg_lab.state import ACCOUNT_ID, REGION, ZONES
from asg_lab.world import World


def prepare_moto() -> None:
    """moto's own switches; read when it is imported."""
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    for check in (
        "ENABLE_AMI_VALIDATION",
        "ENABLE_KEYPAIR_VALIDATION",
        "EC2_ENABLE_INSTANCE_TYPE_VALIDATION",
    ):
        os.environ[f"MOTO_{check}"] = "true"


def install(world: World) -> None:
    """Wrap moto's EC2 for this lab and make its default VPC."""
    _default_vpc(world)
    from moto.ec2.models import ec2_backends

    world.backend = ec2_backends[ACCOUNT_ID][REGION]
    _instances(world)
    _launches(world)
    _addresses()
    describe.install(world)
    images.install(world)
    _console(world)


def _default_vpc(world: World) -> None:
    """moto's default VPC is always 172.31.0.0/16 with six zones; a lab has its own /16 and three."""
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
    from moto.ec2.models.vpcs import VPCBackend

    zones = RegionsAndZonesBackend.zones
    zones[REGION] = [zone for zone in zones[REGION] if zone.name in ZONES]

    def create_default_vpc(backend: Any) -> Any:
        vpc = backend.create_vpc(cidr_block=world.network.cidr, is_default=True)
        for zone in ZONES:
            subnet = backend.create_default_subnet(zone)
            subnet.map_public_ip_on_launch = False  # moto's public addresses lead nowhere
        return vpc

    VPCBackend.create_default_vpc = create_default_vpc


def _instances(world: World) -> None:
    """Start, stop, reboot and terminate do it to the machine, and the state follows."""
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.models.instances import Instance

    world.moto_terminate = Instance.terminate

    def refuse(instance: Any, verb: str) -> None:
        raise EC2ClientError(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which it can be {verb}: {instance._state.name}",
        )

    def start(instance: Any) -> Any:
        state = instance._state.name
        if state in (State.RUNNING, State.PENDING):
            return instance._state
        if state != State.STOPPED:
            refuse(instance, "started")
        before = world.set_state(instance, State.PENDING)
        world.pool.start(instance.id)
        return before

    def stop(instance: Any, *_: Any, **__: Any) -> Any:
        state = instance._state.name
        if state in (State.STOPPED, State.STOPPING):
            return instance._state
        if state not in (State.RUNNING, State.PENDING):
            refuse(instance, "stopped")
        before = world.set_state(instance, State.STOPPING)
        world.pool.stop(instance.id)
        return before

    def reboot(instance: Any) -> None:
        if instance._state.name != State.RUNNING:
            refuse(instance, "rebooted")
        world.pool.reboot(instance.id)

    def terminate(instance: Any) -> Any:
        if instance._state.name in (State.SHUTTING_DOWN, State.TERMINATED):
            return instance._state
        before = world.set_state(
            instance,
            State.SHUTTING_DOWN,
            "Client.UserInitiatedShutdown",
            "Client.UserInitiatedShutdown: User initiated shutdown",
        )
        world.pool.terminate(instance.id)
        return before

    Instance.start, Instance.stop, Instance.reboot, Instance.terminate = start, stop, reboot, terminate
    # moto frees the address when an instance is collected; the lab does when its machine is gone.
    del Instance.__del__


def _launches(world: World) -> None:
    """Whatever makes instances (RunInstances, spot requests, fleets) boots them."""
    from moto.ec2.models.instances import InstanceBackend
    from moto.ec2.responses.instances import InstanceResponse

    moto_run: Callable[..., Any] = InstanceBackend.run_instances

    def run_and_boot(backend: Any, image_id: str, count: int, *positional: Any, **named: Any) -> Any:
        if not named.get("subnet_id") and not named.get("nics"):
            subnets = backend.get_default_subnets()
            named["subnet_id"] = subnets[named.get("placement") or min(subnets)].id
        reservation = moto_run(backend, image_id, count, *positional, **named)
        for instance in reservation.instances:
            instance.reservation_id = reservation.id
            if instance.client_token == "ABCDE":  # noqa: S105  what moto says for "no token"
                instance.client_token = None
            if instance.associate_public_ip:
                instance.nics[0].public_ip = instance.nics[0].private_ip_address  # one that can be reached
            world.boot(instance)
        return reservation

    InstanceBackend.run_instances = run_and_boot
    InstanceResponse.run_instances = lambda response: launch.run_instances(world, response)
    # It shows every instance of a RunInstances answer as pending, also in the answer to a token's second use.
    InstanceResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER.pop(
        "RunInstances.Reservation.Instances.Instance.State", None
    )


def _addresses() -> None:
    """A terminated instance has no interface; moto's properties would fail on it."""
    from moto.ec2.models.instances import Instance

    for name in ("private_ip", "private_ip_address", "public_ip", "public_ip_address"):
        attribute = name if name.endswith("address") else f"{name}_address"
        attribute = "public_ip" if attribute.startswith("public") else attribute

        def of_primary(instance: Any, attribute: str = attribute) -> Any:
            return getattr(instance.nics[0], attribute) if 0 in instance.nics else None

        setattr(Instance, name, property(of_primary))
    named = Instance.private_dns_name.fget
    Instance.private_dns_name = property(lambda instance: named(instance) if instance.private_ip else "")


def _console(world: World) -> None:
    """GetConsoleOutput shows the machine's console, also for a while after its end."""
    from moto.core.responses import ActionResult
    from moto.core.utils import utcnow
    from moto.ec2.responses.general import General
    from moto.ec2.utils import Base64EncodedString

    def get_console_output(response: Any) -> Any:
        instance = response.ec2_backend.get_instance(response._get_param("InstanceId"))
        text = machine.console(world.folder / "machines" / instance.id)
        shown = Base64EncodedString.from_raw_string(text)
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": shown})

    General.get_console_output = get_console_output
