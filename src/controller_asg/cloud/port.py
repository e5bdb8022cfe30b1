"""What the engine needs of EC2, and nothing more. Errors are those of `model.errors` below CloudError.

Only what changes something raises UncertainError: a call that reads changes nothing. ThrottledError comes
after some attempts were made already; the next call waits for its turn by itself.
"""

from typing import Protocol

from controller_asg.model.activity import LaunchRequest
from controller_asg.model.errors import Fault
from controller_asg.model.group import Group, Image
from controller_asg.model.instance import CloudInstance


class Cloud(Protocol):
    async def describe_instances(self) -> tuple[CloudInstance, ...]:
        """Every instance with our tags and this controller's name, whatever its state, with its status checks.

        One paged call for all groups (plus one for status checks, which may be some seconds older). It lags: an
        instance just launched may be missing, or vanish again; one that is gone may be shown. All pages or an error,
        never half.
        `status` is INITIALIZING while an instance is pending, and UNKNOWN where EC2 has no check or would not tell.
        """

    async def run_instances(self, request: LaunchRequest) -> tuple[CloudInstance, ...]:
        """Launch up to `request.count` instances in one call; the same token gives the same instances again.

        Fewer come back where the zone has no room for all (at least one, else CapacityError), and where `count` is over
        EC2's 1,000 a call: the caller launches the rest under another token. They may have ended meanwhile when the
        call is a replay; empty then means that all of them are gone. Raises UncertainError when they may exist: replay.
        """

    async def terminate_instances(self, instance_ids: tuple[str, ...]) -> None:
        """One call for up to 1,000. Instances that EC2 no longer knows count as terminated; no id, no call.

        Raises RejectedError for those that are protected by EC2's own termination protection, after the others went.
        """

    async def instance(self, instance_id: str) -> CloudInstance | None:
        """Any instance of the account, with our tags or without; None: EC2 knows none of that id.

        `group` is the group that has it, be it one of EC2 Auto Scaling's own.
        """

    async def attach_instance(self, group: str, activity_id: str, instance_id: str) -> CloudInstance:
        """Put our tags on it, as a launch of that activity would have. The same call again changes nothing.

        Raises RejectedError when EC2 knows no such instance, and UncertainError when the tags may be there: replay.
        """

    async def detach_instances(self, instance_ids: tuple[str, ...]) -> None:
        """Take our tags off, all but `Name`; Describe may show them for a while. Those that are gone are left out."""

    async def find_image(self, image: Image) -> str:
        """The id of the image that is named. Raises RejectedError when there is none."""

    async def check_launch(self, group: Group, image_id: str) -> tuple[Fault, ...]:
        """What EC2 would refuse, asked by lookups and a dry run; empty when it would launch, now or later.

        `image_id` empty: the image is known to be wrong, and the rest is checked. A missing permission is a fault;
        CloudError is raised when EC2 can't be asked.
        """

    async def console_output(self, instance_id: str) -> str:
        """The console's last lines; empty when there are none (yet), or no such instance."""

    async def subnets(self, group: Group) -> tuple[tuple[str, str], ...]:
        """(subnet id, zone) of where the group may launch, in the document's order. Kept for some minutes.

        Named subnets that EC2 no longer knows are left out. Raises RejectedError when none is left.
        """
