"""Values for tests, with everything at rest unless told otherwise."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controller_asg.model.group import Group, group_from_dict, launch_version
from controller_asg.model.instance import (
    AgentView,
    CloudInstance,
    Ec2State,
    Instance,
    LifecycleState,
    Sample,
    StatusCheck,
)
from controller_asg.model.record import GroupRecord
from controller_asg.planner.snapshot import Answer, Member, Snapshot

NOW = datetime(2028, 2, 28, 12, 0, tzinfo=UTC)
IMAGE = "ami-0123456789abcdef0"
SUBNETS = (
    ("subnet-aaaaaaaa", "us-east-1a"),
    ("subnet-bbbbbbbb", "us-east-1b"),
    ("subnet-cccccccc", "us-east-1c"),
)

ANSWERED = (Answer(1.4, 1.3), Answer(0.3, 0.2))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def group(**keys: Any) -> Group:
    """Without `drain`: nobody here answers an order to drain."""
    document = {
        "name": "web",
        "launch": {"image": {"id": IMAGE}},
        "policies": [{"type": "thresholds"}],
        "drain": False,
        **keys,
    }
    return group_from_dict(document)


def record(desired: int = 2, **keys: Any) -> GroupRecord:
    made = group(**keys)
    version = launch_version(made.launch, IMAGE, made.bootstrap)
    return GroupRecord(made, 1, IMAGE, version, desired, ago(3600))


def instance(number: int, state: LifecycleState = LifecycleState.IN_SERVICE, **keys: Any) -> Instance:
    serving = state is LifecycleState.IN_SERVICE
    made = Instance(
        instance_id=f"i-{number:017x}",
        group="web",
        state=state,
        state_since_at=ago(1000 - number),
        launched_at=ago(1100 - number),
        activity_id="",
        launch_version=record().launch_version,
        zone=SUBNETS[number % 3][1],
        instance_type="t2.micro",
        private_ip=f"172.31.{number // 250}.{number % 250 + 4}",
        in_service_at=ago(1000 - number) if serving else None,
    )
    return replace(made, **keys)


def cloud(
    made: Instance, state: Ec2State = Ec2State.RUNNING, status: StatusCheck = StatusCheck.OK
) -> CloudInstance:
    return CloudInstance(
        made.instance_id,
        made.group,
        made.activity_id,
        made.launch_version,
        state,
        status,
        made.zone,
        made.instance_type,
        made.private_ip,
        IMAGE,
        made.launched_at,
        made.market,
    )


def agent(made: Instance, cpu: float | None = 50.0, **keys: Any) -> AgentView:
    values = {} if cpu is None else {"cpu_percent": cpu}
    view = AgentView(
        made.instance_id, 0.2, samples=(Sample(-0.2, values),), metrics=values, in_session_seconds=1000.0
    )
    return replace(view, **keys)


def silent(made: Instance, seconds: float = 4.0) -> AgentView:
    """Neither its stream nor pings are answered any more."""
    sample = Sample(-seconds, {"cpu_percent": 50.0})
    return AgentView(
        made.instance_id, seconds, ping_failed_seconds=seconds - 2.5, ping_attempts=3, samples=(sample,)
    )


def serving(number: int, cpu: float | None = 50.0, **keys: Any) -> Member:
    made = instance(number, **keys)
    return Member(made, cloud(made), agent(made, cpu))


def booting(number: int, **keys: Any) -> Member:
    young = {"state_since_at": ago(20 - number), "launched_at": ago(21 - number)}
    made = instance(number, LifecycleState.PENDING, **{**young, **keys})
    return Member(made, cloud(made, Ec2State.PENDING, StatusCheck.INITIALIZING), None)


def snapshot(of: GroupRecord, *members: Member, **keys: Any) -> Snapshot:
    at_rest = Snapshot(NOW, of, members, (), True, ANSWERED, 2.5, 0.75, ago(86_400), subnets=SUBNETS)
    return replace(at_rest, **keys)
