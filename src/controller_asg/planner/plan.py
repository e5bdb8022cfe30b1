"""What a pass will do: changes to journal, then calls to make."""

from collections.abc import Mapping
from dataclasses import dataclass

from controller_asg.model.activity import Activity, ActivityKind
from controller_asg.model.agent_order import AgentOrder
from controller_asg.model.decision import Decision
from controller_asg.model.immutable import immutable
from controller_asg.model.instance import Instance
from controller_asg.model.offering import Offering
from controller_asg.model.record import GroupRecord, LaunchTemplate
from controller_asg.planner.health import Verdict
from controller_asg.policy.serving import Fleet


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """`count` instances in one call, in one subnet (or wherever EC2 likes, when `subnet_id` is empty)."""

    template: LaunchTemplate
    count: int
    subnet_id: str
    cause: str
    offering: Offering

    @property
    def zone(self) -> str:
        return self.offering.zone


@dataclass(frozen=True, slots=True)
class TerminationPlan:
    """`keep_console`: the instance never came up, so its console's end is kept with the activity.

    `details` is what was said on the instances before.
    """

    instance_ids: tuple[str, ...]
    cause: str
    keep_console: bool = False
    details: str = ""


@dataclass(frozen=True, slots=True)
class TaggingPlan:
    """Our tags are put on an instance (ATTACH), or taken off several (DETACH)."""

    kind: ActivityKind
    instance_ids: tuple[str, ...]
    cause: str


@immutable
class Plan:
    """`instances` are those whose record changed; `gone` are to be forgotten; `activities` those that moved or ended.

    `bootstraps` are instances on which the role is to run, unless it runs already. `agent_orders` go to the agents of
    those instances, and are repeated while their effect is not seen. `conditions` are (kind, message).
    `verdicts` are those on instances that are not plainly healthy. `fleet` is what the policies were shown, None where
    they were not asked.
    """

    record: GroupRecord
    instances: tuple[Instance, ...]
    gone: tuple[str, ...]
    activities: tuple[Activity, ...]
    launches: tuple[LaunchPlan, ...]
    terminations: tuple[TerminationPlan, ...]
    taggings: tuple[TaggingPlan, ...]
    bootstraps: tuple[str, ...]
    agent_orders: tuple[tuple[str, AgentOrder], ...]
    decision: Decision
    conditions: tuple[tuple[str, str], ...]
    verdicts: Mapping[str, Verdict]
    fleet: Fleet | None
    hourly_cost: float | None  # once it is carried out; None unless all groups share a ceiling
