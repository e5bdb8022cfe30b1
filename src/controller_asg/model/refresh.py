"""An instance refresh: how its operator wants it and how far it is, in EC2 Auto Scaling's terms.

EC2 calls its object `InstanceRefresh`. Pausing is ours; EC2 has it at checkpoints alone.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from controller_asg.model.errors import Fault, SpecError
from controller_asg.model.faults import faults_of
from controller_asg.model.group import Group, Seconds, healthy_range
from controller_asg.model.scaling_policy import STRICT

Wait = Annotated[int, Field(ge=0, le=172_800)]  # EC2's limit: two days


class RefreshStatus(StrEnum):
    """EC2's names."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    BAKING = "Baking"
    CANCELLING = "Cancelling"
    ROLLBACK_IN_PROGRESS = "RollbackInProgress"
    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    ROLLBACK_SUCCESSFUL = "RollbackSuccessful"
    ROLLBACK_FAILED = "RollbackFailed"


ACTIVE = frozenset(
    {
        RefreshStatus.PENDING,
        RefreshStatus.IN_PROGRESS,
        RefreshStatus.BAKING,
        RefreshStatus.CANCELLING,
        RefreshStatus.ROLLBACK_IN_PROGRESS,
    }
)
REPLACING = frozenset({RefreshStatus.IN_PROGRESS, RefreshStatus.ROLLBACK_IN_PROGRESS})


@dataclass(frozen=True, slots=True, config=STRICT)
class RefreshPreferences:
    """EC2's `RefreshPreferences`, with the defaults of its API (its console has others)."""

    # Of desired capacity. None: the group's instance_maintenance_policy, else its min_healthy_percentage.
    min_healthy_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    # Of desired capacity, at max_size too. None: the group's instance_maintenance_policy, else 100.
    max_healthy_percentage: Annotated[int, Field(ge=100, le=200)] | None = None
    # So long after it came into service a new instance counts. None: the group's default_instance_warmup_seconds.
    instance_warmup_seconds: Seconds | None = None
    # Of the instances to update, in ascending order; where the last is below 100, the rest is left as it is.
    checkpoint_percentages: tuple[Annotated[int, Field(ge=1, le=100)], ...] = ()
    # At each checkpoint but the last.
    checkpoint_delay_seconds: Wait = 3600
    # From the last replacement to Successful.
    bake_time_seconds: Wait = 0
    # Leave alone what was launched from the applied parameters already.
    skip_matching: bool = False
    # Back to the earlier launch parameters where it would fail.
    auto_rollback: bool = False
    # Wait: for an hour, then the refresh fails.
    scale_in_protected_instances: Literal["Refresh", "Ignore", "Wait"] = "Wait"
    standby_instances: Literal["Terminate", "Ignore", "Wait"] = "Wait"


@dataclass(frozen=True, slots=True)
class InstanceRefresh:
    """The last refresh of a group. `version` and `previous` name templates of the record; "": there is no earlier one.

    `preferences` have no None. `matching` are instances of `version` that are to be replaced all the same. `total` were
    to be updated when it began, and `to_update` still are. `sick` are new instances that fell ill during it.
    `holding_since_at` is set at a checkpoint and while baking, `waiting_since_at` while nothing can be done.
    """

    refresh_id: str
    version: str
    previous: str
    preferences: RefreshPreferences
    status: RefreshStatus
    started_at: datetime
    actor: str = ""
    ended_at: datetime | None = None
    status_reason: str = ""
    matching: tuple[str, ...] = ()
    sick: tuple[str, ...] = ()
    total: int = 0
    to_update: int = 0
    over: int = 0  # so many more than desired were wanted at the last step
    percentage_complete: int = 0
    checkpoint: int = 0  # the last that was reached, in percent
    holding_since_at: datetime | None = None
    waiting_since_at: datetime | None = None
    paused: bool = False

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


_PREFERENCES: TypeAdapter[RefreshPreferences] = TypeAdapter(RefreshPreferences)
_REFRESH: TypeAdapter[InstanceRefresh] = TypeAdapter(InstanceRefresh)


def parse_preferences(document: Mapping[str, Any], group: Group) -> RefreshPreferences:
    """What an operator wrote, with the group's values where it is silent. Raises SpecError with every fault."""
    where = f"groups.{group.name}.preferences"
    text = json.dumps(document, default=str, ensure_ascii=False)
    try:
        given = _PREFERENCES.validate_json(text.encode(errors="replace"))
    except ValidationError as error:
        raise SpecError(faults_of(error, where, RefreshPreferences)) from error
    low, high = healthy_range(group)
    warmup = given.instance_warmup_seconds
    preferences = replace(
        given,
        min_healthy_percentage=low if given.min_healthy_percentage is None else given.min_healthy_percentage,
        max_healthy_percentage=high if given.max_healthy_percentage is None else given.max_healthy_percentage,
        instance_warmup_seconds=group.default_instance_warmup_seconds if warmup is None else warmup,
    )
    faults = tuple(Fault(f"{where}.{key}", what, mend) for key, what, mend in _contradictions(preferences))
    if faults:
        raise SpecError(faults)
    return preferences


def _contradictions(preferences: RefreshPreferences) -> Iterator[tuple[str, str, str]]:
    low, high = preferences.min_healthy_percentage, preferences.max_healthy_percentage
    assert low is not None
    assert high is not None
    if high - low > 100:
        yield "max_healthy_percentage", f"{high} is more than 100 above {low}", f"write {low + 100} or less"
    steps = preferences.checkpoint_percentages
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        yield "checkpoint_percentages", f"{list(steps)} don't ascend", "write each once, the smallest first"


def preferences_to_dict(preferences: RefreshPreferences) -> dict[str, Any]:
    document: dict[str, Any] = _PREFERENCES.dump_python(preferences, mode="json")
    return document


def refresh_to_dict(refresh: InstanceRefresh) -> dict[str, Any]:
    """JSON-ready; times as ISO 8601."""
    document: dict[str, Any] = _REFRESH.dump_python(refresh, mode="json")
    return document


def refresh_from_dict(document: dict[str, Any]) -> InstanceRefresh:
    """The inverse of `refresh_to_dict`."""
    return _REFRESH.validate_json(json.dumps(document))
