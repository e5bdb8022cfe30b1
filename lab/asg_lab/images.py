"""AMIs: the base image, and those made by CreateImage from a machine's disk (`podman commit`)."""

from collections.abc import Callable
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami, AmiBackend

from asg_lab import machine
from asg_lab.command import podman
from asg_lab.pool import State
from asg_lab.state import ACCOUNT_ID, AMI_NAME, AMI_PARAMETER, REGION
from asg_lab.world import World

ROOT_DEVICE = "/dev/sda1"


def register_base(world: World, reference: str) -> str:
    """Make the base image an AMI, with the parameter that names it; returns its id."""
    from moto.ec2.utils import random_ami_id
    from moto.ssm.models import ssm_backends

    ami_id = str(random_ami_id())
    world.backend.amis[ami_id] = Ami(
        world.backend,
        ami_id,
        name=AMI_NAME,
        description="Debian 12 with cloud-init, of the local EC2",
        owner_alias="amazon",
        public=True,
        root_device_name=ROOT_DEVICE,
        root_device_type="ebs",
        virtualization_type="hvm",
        architecture="x86_64",
        hypervisor="xen",
        tags={"Name": AMI_NAME},
    )
    world.images[ami_id] = reference
    ssm_backends[ACCOUNT_ID][REGION].put_parameter(
        name=AMI_PARAMETER,
        description="The lab's base AMI",
        value=ami_id,
        parameter_type="String",
        allowed_pattern="",
        keyid="",
        overwrite=True,
        tags=[],
        data_type="text",
        tier=None,
        policies=None,
    )
    return ami_id


def install(world: World) -> None:
    """Wrap moto's calls on images."""
    moto_create: Callable[..., Any] = AmiBackend.create_image
    moto_copy: Callable[..., Any] = AmiBackend.copy_image
    moto_deregister: Callable[..., Any] = AmiBackend.deregister_image

    def create_image(
        backend: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
    ) -> Any:
        instance = backend.get_instance(instance_id)
        if instance._state.name not in (State.RUNNING, State.STOPPED):
            raise EC2ClientError("IncorrectInstanceState", f"The instance is {instance._state.name}")
        if any(each.name == name for each in backend.amis.values()):
            raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by an AMI")
        # moto knows no tags for the snapshot, and amazon.aws always sends them.
        of_image = [each for each in tag_specifications if each["ResourceType"] != "snapshot"]
        ami = moto_create(backend, instance_id, name, description, tag_specifications=of_image)
        for each in tag_specifications:
            if each["ResourceType"] == "snapshot":
                ami.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for tag in each["Tags"]})
        ami.root_device_type, ami.root_device_name = "ebs", ROOT_DEVICE
        ami.virtualization_type, ami.architecture, ami.hypervisor = "hvm", "x86_64", "xen"
        ami.state = "pending"
        reference = f"{world.image_repository()}:{ami.id}"
        _make(world, ami, reference, lambda: machine.commit(_container(world, instance_id), reference))
        return ami

    def copy_image(backend: Any, source_image_id: str, *positional: Any, **named: Any) -> Any:
        ami = moto_copy(backend, source_image_id, *positional, **named)
        ami.state = "pending"
        source, reference = world.images[source_image_id], f"{world.image_repository()}:{ami.id}"
        _make(world, ami, reference, lambda: podman("tag", source, reference))
        return ami

    def deregister_image(backend: Any, ami_id: str) -> None:
        moto_deregister(backend, ami_id)
        reference = world.images.pop(ami_id, None)
        if reference and reference.startswith(world.image_repository()):
            # While a machine runs from it podman keeps it, and the end of the lab removes it.
            world.pool.background("remove image", lambda: podman("rmi", reference, check=False))

    AmiBackend.create_image = create_image
    AmiBackend.copy_image = copy_image
    AmiBackend.deregister_image = deregister_image


def _container(world: World, instance_id: str) -> str:
    return machine.container_name(world.name, instance_id)


def _make(world: World, ami: Any, reference: str, make: Callable[[], object]) -> None:
    """Fill a pending image in the background."""

    def job() -> None:
        state = "failed"
        try:
            make()
            state = "available"
        finally:
            with world.lock:
                ami.state = state
                if state == "available":
                    world.images[ami.id] = reference

    world.pool.background(f"make {ami.id}", job)
