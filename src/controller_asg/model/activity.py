"""A scaling activity: one intended change of the cloud, journalled before any call and ended with its result."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controller_asg.model.offering import Market, Offering


class ActivityKind(StrEnum):
    LAUNCH = "launch"
    TERMINATE = "terminate"
    ATTACH = "attach"  # tags are put on an instance; from then on it comes up as a launched one does
    DETACH = "detach"  # our tags are taken off, and the instance runs on


class ActivityStatus(StrEnum):
    """EC2 Auto Scaling's codes that we use."""

    IN_PROGRESS = "InProgress"
    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Everything RunInstances is told. Journalled whole: a replay with other parameters is refused by EC2.

    `client_token` is the activity's id. `zone` is where the instances will be: the subnet's own, or the one that is
    asked for without a subnet. Neither: EC2 chooses.
    """

    client_token: str
    group: str
    launch_version: str
    count: int
    image_id: str
    instance_type: str
    subnet_id: str = ""
    zone: str = ""
    security_groups: tuple[str, ...] = ()
    key_pair: str = ""
    instance_profile: str = ""
    # (device, size_gib, type, iops or 0, throughput_mib or 0, encrypted or None, delete_on_termination)
    disks: tuple[tuple[str, int, str, int, int, bool | None, bool], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    user_data: str = ""
    metadata_tokens: str = "required"
    spot: bool = False

    @property
    def offering(self) -> Offering:
        return Offering(self.zone, self.instance_type, Market.SPOT if self.spot else Market.ON_DEMAND)


@dataclass(frozen=True, slots=True)
class Activity:
    """`launch` is set for launches, and for no other kind. `instance_ids` are filled as they become known."""

    activity_id: str
    group: str
    kind: ActivityKind
    status: ActivityStatus
    cause: str
    instance_count: int
    started_at: datetime
    instance_ids: tuple[str, ...] = ()
    ended_at: datetime | None = None
    status_message: str = ""
    decision_id: int | None = None
    launch: LaunchRequest | None = None
    # What machines said: the console's end, the role's output. Bounded to 16 KiB.
    details: str = ""
    # The call was answered: the instances exist. A launch stays open until all are in service or gone.
    acknowledged: bool = False
