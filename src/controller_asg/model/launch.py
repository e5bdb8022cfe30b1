"""From a group's document to the request that is journalled and sent."""

from controller_asg.model.activity import LaunchRequest
from controller_asg.model.group import Group


def launch_request(
    group: Group,
    image_id: str,
    launch_version: str,
    client_token: str,
    count: int,
    subnet_id: str = "",
    zone: str = "",
    user_data: str = "",
) -> LaunchRequest:
    """Everything EC2 is told, so that a replay after a crash is the same request to the letter."""
    parameters = group.launch
    return LaunchRequest(
        client_token=client_token,
        group=group.name,
        launch_version=launch_version,
        count=count,
        image_id=image_id,
        instance_type=parameters.instance_type,
        subnet_id=subnet_id,
        zone=zone,
        security_groups=parameters.security_groups,
        key_pair=parameters.key_pair or "",
        instance_profile=parameters.instance_profile or "",
        disks=tuple(
            (
                disk.device,
                disk.size_gib,
                disk.type,
                disk.iops or 0,
                disk.throughput_mib or 0,
                disk.encrypted,
                disk.delete_on_termination,
            )
            for disk in parameters.disks
        ),
        tags=tuple(sorted(parameters.tags.items())),
        user_data=user_data,
        metadata_tokens=parameters.metadata_tokens,
        spot=parameters.spot,
    )
