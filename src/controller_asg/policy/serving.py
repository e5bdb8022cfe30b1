"""What a policy is shown: the instances whose metrics count, and the size they are to be compared with."""

from controller_asg.model.immutable import immutable
from controller_asg.model.instance import AgentView


@immutable
class Fleet:
    """`desired` is the group's desired capacity, `warming` how many instances are launched and don't count yet.

    `serving` are InService, not unhealthy, and past their warmup. One without samples counts, and says nothing.
    """

    serving: tuple[AgentView, ...]
    desired: int
    warming: int
