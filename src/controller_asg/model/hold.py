"""What somebody holds back for a while: processes of a group, or the scale-in of one instance."""

from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from controller_asg.model.immutable import immutable


class Process(StrEnum):
    """EC2 Auto Scaling's processes that a group here has, and the two directions in which policies scale."""

    LAUNCH = "Launch"
    TERMINATE = "Terminate"
    HEALTH_CHECK = "HealthCheck"
    REPLACE_UNHEALTHY = "ReplaceUnhealthy"
    AZ_REBALANCE = "AZRebalance"
    INSTANCE_REFRESH = "InstanceRefresh"
    ALARM_NOTIFICATION = "AlarmNotification"
    SCHEDULED_ACTIONS = "ScheduledActions"
    SCALE_OUT = "ScaleOut"
    SCALE_IN = "ScaleIn"


@immutable
class Hold:
    """`until_at` None: until it is taken back. `everywhere`: it holds all groups, and those that are still to come."""

    owner: str
    reason: str
    since_at: datetime
    until_at: datetime | None = None
    everywhere: bool = False

    def said(self) -> str:
        """`until 2028-02-28 14:00Z by anna: reason`, as far as it is known."""
        until = f"until {self.until_at:%Y-%m-%d %H:%MZ} " if self.until_at else ""
        return f"{until}by {self.owner}" + (f": {self.reason}" if self.reason else "")

    def over(self, now: datetime) -> bool:
        return self.until_at is not None and self.until_at <= now

    def mended(self, now: datetime) -> "Hold":
        """After the clock was set back it lasts no longer than it was asked for."""
        if self.since_at <= now:
            return self
        until_at = self.until_at and now + (self.until_at - self.since_at)
        return replace(self, since_at=now, until_at=until_at)
