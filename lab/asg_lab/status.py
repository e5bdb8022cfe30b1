"""What a lab holds right now, for `lab status`."""

from typing import Any

from asg_lab.world import World


def report(world: World) -> dict[str, Any]:
    """Instances (terminated ones last), AMIs and active faults."""
    faults = world.faults.active()
    with world.lock:
        instances = [_instance(world, each) for each in world.instances()]
        amis = [{"id": ami.id, "name": ami.name, "state": ami.state} for ami in world.backend.amis.values()]
    for shown in instances:
        shown["faults"] = [fault.kind.value for fault in faults if fault.instance_id == shown["id"]]
    instances.sort(key=lambda each: (each["state"] == "terminated", each["launched_at"]))
    return {
        "name": world.name,
        "instances": instances,
        "images": amis,
        "faults": [fault.describe() for fault in faults],
    }


def _instance(world: World, instance: Any) -> dict[str, Any]:
    known = world.pool.get(instance.id)
    tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
    return {
        "id": instance.id,
        "name": tags.get("Name"),
        "state": instance._state.name,
        "address": instance.private_ip,
        "type": instance.instance_type,
        "zone": instance.availability_zone,
        "image": instance.image_id,
        "status_checks": instance.instance_status["Status"],
        "container": known.spec.container if known else None,
        "pid": known.pid if known else None,
        "launched_at": instance.launch_time.isoformat(),
        "tags": tags,
    }
