"""An instance refresh, pass by pass, over the examples of EC2's user guide ("Instance refresh")."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller_asg.engine import refreshing
from controller_asg.model.errors import ConflictError, SpecError
from controller_asg.model.group import launch_version
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import Instance, Lease, LifecycleState
from controller_asg.model.record import GroupRecord, LaunchMemory
from controller_asg.model.refresh import RefreshStatus, parse_preferences
from controller_asg.planner.launches import remembered
from controller_asg.planner.maintenance import Bounds, bounds
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.snapshot import Member, RefreshAction, RefreshOrder
from controller_asg.store.rows import group_from_row, group_to_row
from controller_asg.store.schema import from_unix_ms
from tests.making import IMAGE, NOW, SUBNETS, agent, ago, cloud, group, record, serving, silent, snapshot

NEW_IMAGE = "ami-00000000000000002"
WARMUP = 600


class Fleet:
    """A group that EC2 and its agents obey at once, but for `boot_seconds`; each step is one pass."""

    def __init__(self, desired: int, **keys: Any) -> None:
        old = record(desired, **{"min_size": desired, "max_size": desired, "policies": [], **keys})
        made = group(
            **{"min_size": desired, "max_size": desired, "policies": [], **keys}, launch=_launch(NEW_IMAGE)
        )
        self.record: GroupRecord = replace(
            old,
            group=made,
            image_id=NEW_IMAGE,
            launch_version=launch_version(made.launch, NEW_IMAGE, made.bootstrap),
            templates=remembered(old),
            launch_memory=LaunchMemory(good=old.template),
        )
        self.old_version = old.launch_version
        self.members: dict[str, Instance] = {}
        self.seconds = 0.0
        self.number = 0
        self.broken: set[str] = set()  # versions whose instances never come up
        self.sick: set[str] = set()
        self.leases: dict[str, tuple[Lease, ...]] = {}
        for _ in range(desired):
            self.add(self.old_version, LifecycleState.IN_SERVICE, ago(86_400))
        self.least = self.most = desired
        self.log: list[tuple[float, int, int]] = []  # when, how many terminated, how many launched
        self.planned: Plan | None = None

    def order(self, action: RefreshAction, **preferences: Any) -> None:
        whole = parse_preferences(preferences, self.record.group) if action == "start" else None
        self.step(0, RefreshOrder(action, "ann", "refresh-1", whole))

    def step(self, seconds: float, *orders: RefreshOrder) -> None:
        self.seconds += seconds
        now = NOW + timedelta(seconds=self.seconds)
        seen = [self.member(instance) for instance in self.members.values()]
        snap = self._snapshot(seen, orders)
        planned = self.planned = plan(replace(snap, now=now))
        # As the store gives it back, so that a restart anywhere changes nothing.
        self.record = group_from_row({**group_to_row(planned.record), "applied_unix_ms": from_unix_ms(0)})
        for instance in planned.instances:
            self.members[instance.instance_id] = instance
        gone = [i for termination in planned.terminations for i in termination.instance_ids]
        for instance_id in gone:
            del self.members[instance_id]
        for launch in planned.launches:
            for _ in range(launch.count):
                self.add(launch.template.version, LifecycleState.PENDING, now)
        launched = sum(launch.count for launch in planned.launches)
        if gone or launched:
            self.log.append((self.seconds, len(gone), launched))
        serving = sum(i.state is LifecycleState.IN_SERVICE for i in self.members.values())
        self.least, self.most = min(self.least, serving), max(self.most, len(self.members))

    def run(self, seconds: float, every: float = 20.0, until: Callable[[], bool] = lambda: False) -> None:
        ends = self.seconds + seconds
        while self.seconds < ends and not until():
            self.step(every)

    def ended(self) -> bool:
        return self.record.refresh is not None and not self.record.refresh.active

    def versions(self) -> list[str]:
        return sorted({instance.launch_version for instance in self.members.values()})

    @property
    def status(self) -> tuple[RefreshStatus, int]:
        assert self.record.refresh is not None
        return self.record.refresh.status, self.record.refresh.percentage_complete

    def change(self, instance_id: str, **keys: Any) -> None:
        self.members[instance_id] = replace(self.members[instance_id], **keys)

    def add(self, version: str, state: LifecycleState, at: Any) -> None:
        self.number += 1
        served = at if state is LifecycleState.IN_SERVICE else None
        made = Instance(
            f"i-{self.number:017x}",
            "web",
            state,
            at,
            at,
            "",
            version,
            SUBNETS[self.number % 3][1],
            in_service_at=served,
        )
        self.members[made.instance_id] = made

    def member(self, instance: Instance) -> Member:
        view = None
        if instance.launch_version not in self.broken:
            view = agent(instance, 50.0, leases=self.leases.get(instance.instance_id))
        if instance.instance_id in self.sick:
            instance = replace(instance, marked_unhealthy="ann")
        return Member(instance, cloud(instance), view)

    def _snapshot(self, members: list[Member], orders: tuple[RefreshOrder, ...]) -> Any:
        return snapshot(self.record, *members, orders=orders)


def _launch(image: str) -> dict[str, Any]:
    return {"image": {"id": image}}


@pytest.mark.parametrize(
    ("desired", "low", "high", "expected"),
    [
        (10, 90, 100, Bounds(9, 10)),  # one at a time, terminated as its replacement is launched
        (10, 100, 110, Bounds(10, 11)),  # one at a time, launched before it is terminated
        (10, 90, 120, Bounds(9, 12)),  # three at a time
        (10, 100, 100, Bounds(10, 11)),  # no room: one, launched first
        (4, 90, 100, Bounds(4, 5)),  # 3.6 is rounded up, which leaves no room either
        (10, 0, 100, Bounds(0, 10)),  # all at once
        (7, 50, 150, Bounds(4, 10)),
    ],
)
def test_bounds_are_rounded_towards_desired_capacity(
    desired: int, low: int, high: int, expected: Bounds
) -> None:
    assert bounds(desired, low, high) == expected


@pytest.mark.parametrize(
    ("desired", "low", "high"),
    [(10, 90, 100), (10, 100, 110), (10, 90, 120), (4, 100, 100), (10, 0, 100), (1, 90, 100)],
)
def test_capacity_stays_within_its_bounds_and_all_are_replaced(desired: int, low: int, high: int) -> None:
    fleet = Fleet(desired, default_instance_warmup_seconds=30)
    fleet.order("start", min_healthy_percentage=low, max_healthy_percentage=high)
    fleet.run(2000, until=fleet.ended)
    of = bounds(desired, low, high)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)
    assert (fleet.least >= of.floor, fleet.most <= of.ceiling) == (True, True)
    assert (fleet.versions(), len(fleet.members)) == ([fleet.record.launch_version], desired)
    assert fleet.number == 2 * desired


def test_checkpoints_are_those_of_ec2s_example() -> None:
    """10 instances, 80 % healthy, checkpoints at 20 and 50 % with 15 minutes each, a warmup of 10 minutes."""
    fleet = Fleet(10, default_instance_warmup_seconds=WARMUP)
    fleet.order(
        "start", min_healthy_percentage=80, checkpoint_percentages=[20, 50], checkpoint_delay_seconds=900
    )
    fleet.run(4000, every=10, until=fleet.ended)
    assert fleet.record.refresh is not None
    minutes = [(round(at / 60), gone) for at, gone, _ in fleet.log]
    assert minutes == [(0, 2), (25, 2), (35, 1)]
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 50)
    assert sum(i.launch_version == fleet.old_version for i in fleet.members.values()) == 5


def test_a_checkpoint_that_is_passed_over_is_skipped() -> None:
    """2 instances, [10, 40, 100]: after the first, half is replaced, so that it waits at 40 alone."""
    fleet = Fleet(2, default_instance_warmup_seconds=0)
    asked = {"checkpoint_percentages": [10, 40, 100], "checkpoint_delay_seconds": 1000}
    fleet.order("start", min_healthy_percentage=50, **asked)
    fleet.run(900)
    assert fleet.record.refresh is not None
    assert (fleet.record.refresh.checkpoint, fleet.status) == (40, (RefreshStatus.IN_PROGRESS, 50))
    fleet.run(400, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)


@pytest.mark.parametrize(("skip", "launched"), [(True, 0), (False, 3)])
def test_without_skip_matching_those_of_the_applied_parameters_are_replaced_too(
    skip: bool, launched: int
) -> None:
    fleet = Fleet(3, default_instance_warmup_seconds=0)
    for instance_id in fleet.members:
        fleet.change(instance_id, launch_version=fleet.record.launch_version)
    before = set(fleet.members)
    fleet.order("start", skip_matching=skip)
    fleet.run(1000, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)
    assert len(set(fleet.members) - before) == launched


@pytest.mark.parametrize("choice", ["Refresh", "Ignore", "Wait"])
def test_protected_instances_are_refreshed_left_or_waited_for(choice: str) -> None:
    fleet = Fleet(3, default_instance_warmup_seconds=0)
    kept = min(fleet.members)
    fleet.change(kept, protected_from_scale_in=True)
    fleet.order("start", scale_in_protected_instances=choice)
    fleet.run(1800, until=fleet.ended)
    if choice == "Wait":
        assert fleet.status == (RefreshStatus.IN_PROGRESS, 66)
        assert fleet.planned is not None
        assert kept in dict(fleet.planned.conditions)["InstanceRefreshWaits"]
        assert len(fleet.members) == 3
        fleet.run(4000, until=fleet.ended)
        assert fleet.status[0] is RefreshStatus.FAILED
        return
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)
    assert (kept in fleet.members) == (choice == "Ignore")


@pytest.mark.parametrize("choice", ["Terminate", "Ignore"])
def test_instances_in_standby_are_terminated_or_left(choice: str) -> None:
    fleet = Fleet(3, default_instance_warmup_seconds=0)
    parked = min(fleet.members)
    fleet.change(parked, state=LifecycleState.STANDBY)
    fleet.order("start", standby_instances=choice)
    fleet.run(1000, until=fleet.ended)
    assert (parked in fleet.members) == (choice == "Ignore")


@pytest.mark.parametrize("rolls_back", [True, False])
def test_a_broken_image_costs_few_instances_and_no_capacity(rolls_back: bool) -> None:
    fleet = Fleet(10, registration_timeout_seconds=60)
    fleet.broken.add(fleet.record.launch_version)
    bad = fleet.record.launch_version
    fleet.order("start", min_healthy_percentage=0, auto_rollback=rolls_back)
    fleet.run(3000, until=fleet.ended)
    assert fleet.record.refresh is not None
    assert "did not come into service" in fleet.record.refresh.status_reason
    status = RefreshStatus.ROLLBACK_SUCCESSFUL if rolls_back else RefreshStatus.FAILED
    assert fleet.status[0] is status
    assert fleet.least >= 7
    fleet.run(200)
    assert fleet.versions() == [fleet.old_version]
    assert len(fleet.members) == 10
    assert (fleet.record.launch_version == fleet.old_version) == rolls_back
    assert (fleet.record.image_id == IMAGE) == rolls_back
    if not rolls_back:
        fleet.order("start")
        assert fleet.status[0] is RefreshStatus.FAILED
        assert fleet.record.launch_version == bad
        assert fleet.planned is not None
        fleet.step(1)
        assert "InstanceRefreshFailed" in dict(fleet.planned.conditions)


def test_new_instances_that_fall_ill_roll_it_back() -> None:
    fleet = Fleet(4, default_instance_warmup_seconds=100)
    fleet.order("start", min_healthy_percentage=75, auto_rollback=True)
    for _ in range(100):
        fleet.sick = {
            i
            for i, one in fleet.members.items()
            if one.launch_version != fleet.old_version and one.in_service_at
        }
        fleet.step(20)
        if fleet.ended():
            break
    assert fleet.status == (RefreshStatus.ROLLBACK_SUCCESSFUL, 100)
    assert fleet.record.refresh is not None
    assert "fell ill" in fleet.record.refresh.status_reason
    assert (fleet.versions(), fleet.least >= 3) == ([fleet.old_version], True)


def test_pause_begins_nothing_and_takes_nothing_back_and_cancel_ends_it() -> None:
    fleet = Fleet(6, default_instance_warmup_seconds=0, max_size=6)
    fleet.order("start", min_healthy_percentage=100, max_healthy_percentage=150)
    assert len(fleet.members) == 9
    fleet.order("pause")
    before = set(fleet.members)
    fleet.run(5000, every=500)
    assert set(fleet.members) == before
    fleet.order("resume")
    fleet.step(20)
    assert len(set(fleet.members) & before) < 9
    fleet.order("cancel")
    fleet.run(200)
    assert fleet.status[0] is RefreshStatus.CANCELLED
    assert len(fleet.members) == 6


def test_a_refresh_that_succeeded_can_be_rolled_back() -> None:
    fleet = Fleet(2, default_instance_warmup_seconds=0)
    fleet.order("start")
    fleet.run(1000, until=fleet.ended)
    assert refreshing.changes(fleet.record, "rollback")
    fleet.order("rollback")
    fleet.run(1000, until=fleet.ended)
    assert fleet.status == (RefreshStatus.ROLLBACK_SUCCESSFUL, 100)
    assert (fleet.versions(), fleet.record.image_id) == ([fleet.old_version], IMAGE)
    assert not refreshing.changes(fleet.record, "rollback")


def test_it_bakes_before_it_is_successful() -> None:
    fleet = Fleet(1, default_instance_warmup_seconds=0)
    fleet.order("start", bake_time_seconds=600)
    fleet.run(300)
    assert fleet.status == (RefreshStatus.BAKING, 100)
    fleet.run(600, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)


def test_an_old_instance_that_turns_up_late_is_replaced_before_the_end() -> None:
    """A launch whose answer was lost; the bake is over only when it is gone."""
    fleet = Fleet(2, default_instance_warmup_seconds=0)
    fleet.order("start", bake_time_seconds=100)
    fleet.run(1000, until=lambda: fleet.status[0] is RefreshStatus.BAKING)
    fleet.add(fleet.old_version, LifecycleState.IN_SERVICE, ago(-fleet.seconds))
    fleet.run(400, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)
    assert fleet.versions() == [fleet.record.launch_version]


def test_other_launch_parameters_end_it_and_a_second_start_is_refused() -> None:
    fleet = Fleet(4)
    fleet.order("start")
    with pytest.raises(ConflictError, match="cancel-instance-refresh web"):
        refreshing.check_start(fleet.record)
    fleet.record = replace(fleet.record, launch_version="another")
    fleet.step(1)
    assert fleet.status[0] is RefreshStatus.CANCELLED


def test_the_group_scales_while_it_is_refreshed() -> None:
    fleet = Fleet(4, min_size=1, max_size=9, default_instance_warmup_seconds=0)
    fleet.order("start", min_healthy_percentage=75)
    fleet.step(20)
    fleet.record = replace(fleet.record, desired_capacity=9)
    fleet.run(100)
    assert len(fleet.members) == 9
    fleet.record = replace(fleet.record, desired_capacity=2)
    fleet.run(1000, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)
    fleet.step(20)
    assert (len(fleet.members), fleet.versions()) == (2, [fleet.record.launch_version])


def test_preferences_that_contradict_are_refused_with_every_fault() -> None:
    with pytest.raises(SpecError) as caught:
        parse_preferences(
            {"min_healthy_percentage": 20, "max_healthy_percentage": 180, "checkpoint_percentages": [50, 50]},
            group(),
        )
    assert [fault.where for fault in caught.value.faults] == [
        "groups.web.preferences.max_healthy_percentage",
        "groups.web.preferences.checkpoint_percentages",
    ]
    policy = {"min_healthy_percentage": 60, "max_healthy_percentage": 140}
    whole = parse_preferences({}, group(instance_maintenance_policy=policy))
    assert (whole.min_healthy_percentage, whole.max_healthy_percentage, whole.skip_matching) == (
        60,
        140,
        False,
    )


@pytest.mark.parametrize("process", [Process.INSTANCE_REFRESH, Process.LAUNCH])
def test_while_it_is_suspended_nothing_is_replaced_and_the_refresh_does_not_fail(process: Process) -> None:
    fleet = Fleet(4)
    held = ((process, Hold("anna", "they look", NOW)),)
    fleet.record = replace(fleet.record, suspended=held)
    fleet.order("start", min_healthy_percentage=0, instance_warmup_seconds=0)
    fleet.run(3 * 3600, every=300)
    assert (fleet.versions(), fleet.status[0]) == ([fleet.old_version], RefreshStatus.IN_PROGRESS)
    fleet.record = replace(fleet.record, suspended=())
    fleet.run(3600, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)


def test_a_lease_that_protects_keeps_a_refresh_waiting() -> None:
    fleet = Fleet(4)
    (first, *_) = fleet.members
    fleet.leases[first] = (Lease("nightly", "", None, protect_from_scale_in=True),)
    fleet.order("start", min_healthy_percentage=50, instance_warmup_seconds=0)
    fleet.run(1800)
    assert fleet.status == (RefreshStatus.IN_PROGRESS, 75)
    assert first in fleet.members
    fleet.leases.clear()
    fleet.run(1800, until=fleet.ended)
    assert fleet.status == (RefreshStatus.SUCCESSFUL, 100)


def test_instances_are_replaced_before_they_reach_their_lifetime() -> None:
    fleet = Fleet(20, max_instance_lifetime_seconds=86_400, default_instance_warmup_seconds=0)
    before = set(fleet.members)
    oldest = NOW - timedelta(seconds=0.9 * 86_400)
    for number, instance_id in enumerate(sorted(before)):
        fleet.change(instance_id, in_service_at=oldest + timedelta(seconds=1000 if number >= 5 else 0))
    fleet.step(0)
    assert fleet.log == [(0.0, 2, 2)]
    fleet.run(900)
    assert (len(before - set(fleet.members)), fleet.least) == (5, 18)
    fleet.run(1500)
    assert not before & set(fleet.members)
    assert fleet.least == 18


def test_while_many_are_silent_nobody_is_replaced() -> None:
    fleet = Fleet(10, default_instance_warmup_seconds=0)
    fleet.order("start", min_healthy_percentage=90)
    fleet.run(60)
    seen = [fleet.member(instance) for instance in fleet.members.values()]
    quiet = [replace(m, agent=silent(m.instance)) for m in seen[:4]]
    planned = plan(replace(snapshot(fleet.record, *quiet, *seen[4:]), now=NOW + timedelta(seconds=60)))
    assert "MassSilence" in dict(planned.conditions)
    assert not planned.terminations


@pytest.mark.parametrize(("high", "launched", "terminated"), [(100, 1, 1), (150, 1, 0)])
def test_an_unhealthy_instance_is_replaced_within_the_maintenance_policy(
    high: int, launched: int, terminated: int
) -> None:
    """At max_size too: launched first where max_healthy_percentage leaves room, else as the dead one goes."""
    policy = {"min_healthy_percentage": 50, "max_healthy_percentage": high}
    of = record(2, max_size=2, policies=[], instance_maintenance_policy=policy)
    dead = replace(serving(2), agent=silent(serving(2).instance))
    planned = plan(snapshot(of, serving(1), dead))
    assert sum(launch.count for launch in planned.launches) == launched
    assert len(planned.terminations) == terminated


@pytest.mark.parametrize("size", [1, 2, 4, 9, 10])
def test_replacements_are_launched_first_at_100_and_110_percent_however_small_the_group(size: int) -> None:
    policy = {"min_healthy_percentage": 100, "max_healthy_percentage": 110}
    of = record(size, min_size=1, max_size=20, policies=[], instance_maintenance_policy=policy)
    ill = replace(serving(1), instance=replace(serving(1).instance, marked_unhealthy="alice"))
    others = [serving(number) for number in range(2, size + 1)]
    first = plan(snapshot(of, ill, *others))
    assert (sum(launch.count for launch in first.launches), first.terminations) == (1, ())
    fresh = serving(99, in_service_at=ago(1))
    assert not plan(snapshot(of, ill, *others, fresh)).terminations, "its warmup is not over"
    (termination,) = plan(snapshot(of, ill, *others, serving(99, in_service_at=ago(31)))).terminations
    assert termination.instance_ids == (ill.instance.instance_id,)
