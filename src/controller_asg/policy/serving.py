"""What a policy is shown: the instances whose metrics count, and the size they are to be compared with."""

from dataclasses import field

from controller_asg.model.immutable import immutable
from controller_asg.model.instance import AgentView
from controller_asg.policy.readings import Readings, readings

# No group is larger, and a wish for more may be more than an integer of the store or the wire holds.
LARGEST = 10_000
LEAD_SECONDS = 120.0  # where no launch has told yet: a common AMI's boot, and its application's start


@immutable
class Fleet:
    """`desired` is the group's desired capacity, `warming` how many instances are launched and don't count yet.

    `lead_seconds` is the 90th percentile from the launch call to InService.
    `serving` are InService, not unhealthy, and past their warmup. One without samples counts, and says nothing.
    `fresh` are InService and in their warmup: no statistic counts them, and yet they carry load.
    """

    serving: tuple[AgentView, ...]
    desired: int
    warming: int
    lead_seconds: float = LEAD_SECONDS
    fresh: tuple[AgentView, ...] = ()
    _read: dict[tuple[str, float], Readings] = field(default_factory=dict, compare=False, repr=False)

    def readings(self, metric: str, window_seconds: float) -> Readings:
        """What those serving report; two policies of one metric and window share it, so it must not be changed."""
        if (metric, window_seconds) not in self._read:
            self._read[metric, window_seconds] = readings(self.serving, metric, window_seconds)
        return self._read[metric, window_seconds]

    def unreported(self, metric: str) -> str:
        """Why there is no reading at all: nobody could speak, nobody is heard, or those heard don't tell it."""
        if not self.serving:
            return "no instance is in service past its warmup"
        if not any(agent.samples for agent in self.serving):
            return "no agent is heard"
        return f"no instance in service reports {metric}"
