"""What must be true in every world at every step, and what must become true once nothing goes wrong any more.

The checker sees the truth (EC2's machines, the agents) and what is durable; it never looks into the controller. Each
rule that is broken is kept once, with the moment.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from controller_asg.cloud.launch_call import LAUNCH_VERSION_TAG
from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus
from controller_asg.model.hold import Process
from controller_asg.model.instance import (
    APART_STATES,
    LEAVING_STATES,
    PENDING_STATES,
    Instance,
    Leaving,
    LifecycleState,
)
from controller_asg.model.offering import Market
from controller_asg.model.record import Change
from controller_asg.planner.costs import UNPAID_STATES
from controller_asg.planner.health import MASS_SILENCE_MINIMUM, MASS_SILENCE_WINDOW_SECONDS
from controller_asg.planner.leaving import DEAD_SECONDS
from controller_asg.simulate import refresh_rules
from controller_asg.simulate.ec2 import BAD_IMAGE, Machine
from controller_asg.simulate.world import PRICES, World

# Which states may follow which; an absent one is the beginning. An instance is forgotten from any of them.
TRANSITIONS: Mapping[LifecycleState | None, frozenset[LifecycleState]] = {
    # A launch whose instances are no longer wanted when they become known, or what is adopted and too much.
    None: frozenset({LifecycleState.PENDING, LifecycleState.TERMINATING_WAIT, LifecycleState.TERMINATING}),
    # One that comes into service may be sent away by the same pass.
    LifecycleState.PENDING: frozenset(
        {
            LifecycleState.PENDING_WAIT,
            LifecycleState.IN_SERVICE,
            LifecycleState.DETACHING,
            LifecycleState.TERMINATING_WAIT,
            LifecycleState.TERMINATING,
        }
    ),
    LifecycleState.PENDING_WAIT: frozenset({LifecycleState.PENDING_PROCEED, LifecycleState.TERMINATING}),
    LifecycleState.PENDING_PROCEED: frozenset(
        {LifecycleState.IN_SERVICE, LifecycleState.TERMINATING_WAIT, LifecycleState.TERMINATING}
    ),
    LifecycleState.IN_SERVICE: frozenset(
        {
            LifecycleState.ENTERING_STANDBY,
            LifecycleState.DETACHING,
            LifecycleState.TERMINATING_WAIT,
            LifecycleState.TERMINATING,
        }
    ),
    # Back into service: see `_leaves`.
    LifecycleState.TERMINATING_WAIT: frozenset(
        {LifecycleState.TERMINATING_PROCEED, LifecycleState.IN_SERVICE}
    ),
    LifecycleState.TERMINATING_PROCEED: frozenset(),
    LifecycleState.ENTERING_STANDBY: frozenset(
        {LifecycleState.STANDBY, LifecycleState.TERMINATING_WAIT, LifecycleState.TERMINATING}
    ),
    LifecycleState.STANDBY: frozenset(
        {
            LifecycleState.PENDING,
            LifecycleState.DETACHING,
            LifecycleState.TERMINATING_WAIT,
            LifecycleState.TERMINATING,
        }
    ),
    LifecycleState.DETACHING: frozenset(),
    LifecycleState.TERMINATING: frozenset(),
}
_ON_THE_MOVE = PENDING_STATES | {LifecycleState.ENTERING_STANDBY, LifecycleState.DETACHING}
# An instance that carries our tags is on record so soon after it could be known.
ADOPTED_WITHIN_SECONDS = 60.0
# A hold whose time is over has ended so soon after the controller could end it.
HOLD_ENDS_WITHIN_SECONDS = 20.0
# After a fault that touched an instance, or all of them, its replacement may still be under way for so long.
AFTERMATH_SECONDS = 60.0
# Silent for so long, everyone among them has been judged silent.
MASS_SILENCE_SECONDS = 10.0
# A lowered max_size is reached by terminations, which take a while.
LOWERED_SECONDS = 120.0


# A commit under way when a lease is heard has been decided without it; a wait begins before its commit.
HEARD_SECONDS = 5.0
# What is not heard for so long may be judged dead.
SILENT_SECONDS = 2.5
# Beyond the limits of its drain and hooks: passes, commits, and clocks that step.
WAIT_SLACK_SECONDS = 60.0
# Between two ticks; longer, and the whole process has stood still.
STALL_SECONDS = 5.0
_WAITS = (LifecycleState.PENDING_WAIT, LifecycleState.TERMINATING_WAIT)


def transition_names() -> set[str]:
    """Every transition that may be seen, as `Result.transitions` names it."""
    moves = {f"{before or 'new'} → {after}" for before, afters in TRANSITIONS.items() for after in afters}
    return moves | {f"{state} → forgotten" for state in TRANSITIONS if state is not None}


class Invariants:
    """`excused(instance_id)`: it was touched by a fault a moment ago, or nobody could hear it."""

    def __init__(self, world: World, excused: Callable[[str], bool]) -> None:
        self._world = world
        self._excused = excused
        self._journal: dict[
            str, Activity
        ] = {}  # all that ever became durable, whatever happened to the store since
        self._made = Counter[str]()  # instances by token
        self._bad = Counter[str]()  # instances of the bad image by group and launch version
        self._unknown_since: dict[str, float] = {}
        self._over_since: dict[tuple[str, str], float] = {}
        self._detached: dict[str, str] = {}  # instance id -> the activity that took its tags off
        self._max_size: dict[str, list[tuple[float, int]]] = {}
        # Of those in Terminating:Wait: since when, and whether a fault had silenced it then.
        self._waits: dict[str, tuple[float, bool]] = {}
        self._ticked_at = 0.0
        self._overdue: dict[str, tuple[Instance, float]] = {}  # in a wait state, and watched since
        self.broken: list[str] = []
        self._seen: set[str] = set()
        self.transitions: set[tuple[LifecycleState | None, LifecycleState | None]] = set()
        world.ec2.on_launch = self.launched
        world.ec2.on_terminate = self.terminated
        world.ec2.on_tagged = self.tagged
        world.disk.on_commit = self.committed

    def violate(self, rule: str, what: str) -> None:
        """The same rule broken again tells nothing new."""
        if rule not in self._seen:
            self._seen.add(rule)
            self.broken.append(f"{rule}: {what}")
            self._world.ec2.tell(f"BROKEN {rule}: {what}")

    # What EC2 does on our word

    def launched(self, token: str, machines: list[Machine]) -> None:
        disk = self._world.disk
        activity = self._journal.get(token)
        if activity is None:
            self.violate("journalled before the call", f"{token} launches and is in no journal")
            return
        self._made[token] += len(machines)
        if self._made[token] > activity.instance_count:
            made = f"{self._made[token]} instances of {activity.instance_count}"
            self.violate("an activity launches once", f"{token} made {made}")
        group = machines[0].group
        if group not in disk.groups:
            return
        # Whoever is on its way out by our decision does not count, nor does an orphan of an answer that was lost.
        ours = set(self._journal)
        here = [
            machine
            for machine in self._world.ec2.alive()
            if machine.group == group
            and machine.token in ours
            and not self._leaves_or_stands_by(machine.instance_id)
            and (machine.instance_id in disk.instances or self._is_open(machine.token))
        ]
        allowed = self._allowed(group)
        if len(here) > allowed:
            self.violate("never above max_size", f"{group} has {len(here)}, max_size is {allowed}")

    def _few_of_a_bad_image(self, machine: Machine) -> None:
        """Where a good version is known, a bad image costs no more than `failed_launches_limit` instances."""
        record = self._world.disk.groups.get(machine.group)
        if machine.image_id != BAD_IMAGE or record is None or record.launch_memory.good is None:
            return
        version = f"{machine.group} {machine.tags[LAUNCH_VERSION_TAG]}"
        self._bad[version] += 1
        limit = record.group.failed_launches_limit
        if self._bad[version] > limit:
            what = f"gave up {self._bad[version]} of {version}, the limit is {limit}"
            self.violate("a bad image costs few instances", what)

    def tagged(self, machine: Machine, before: Mapping[str, str]) -> None:
        kind = ActivityKind.ATTACH if machine.group else ActivityKind.DETACH
        ordered = [
            a for a in self._journal.values() if a.kind is kind and machine.instance_id in a.instance_ids
        ]
        if not ordered:
            self.violate("journalled before the call", f"{kind} {machine.instance_id} is in no journal")
        elif machine.group:
            self._detached.pop(machine.instance_id, None)
        else:
            self._detached[machine.instance_id] = max(ordered, key=lambda a: a.activity_id).activity_id

    def terminated(self, machine: Machine) -> None:
        disk, instance_id = self._world.disk, machine.instance_id
        if not machine.group:
            self.violate("what is detached runs on", f"{instance_id} is terminated")
        ending = [
            activity
            for activity in self._journal.values()
            if activity.kind is ActivityKind.TERMINATE and instance_id in activity.instance_ids
        ]
        if not ending:
            self.violate("journalled before the call", f"{instance_id} is terminated and in no journal")
            return
        cause = max(ending, key=lambda activity: activity.activity_id).cause
        known = disk.instances.get(instance_id)
        if cause.startswith("its agent did not register"):
            self._few_of_a_bad_image(machine)
            if known is not None and known.attached:
                self.violate("what can't be attached leaves alive", f"{instance_id}: {cause}")
        told = "marked unhealthy by" in cause
        by_verdict = cause.startswith(("unhealthy", "its agent did not register", "EC2 ")) and not told
        # One that waited in Terminating:Wait was judged when that began.
        waited = known is not None and known.state is LifecycleState.TERMINATING_PROCEED
        if by_verdict and self._well(machine) and not (waited or self._excused(instance_id)):
            self.violate("no healthy instance is terminated as a sick one", f"{instance_id}: {cause}")
        ordered = (
            told
            or cause.startswith("lifecycle hook ")
            or "on the word of" in cause
            or "asked to leave" in cause
            or cause.startswith(refresh_rules.BY_REFRESH)  # it may be told to
        )
        if known is not None and known.protected_from_scale_in and not by_verdict and not ordered:
            self.violate("no protected instance is scaled in", f"{instance_id}: {cause}")

    def _not_in_mass_silence(self, change: Change, group: str, instance_id: str) -> None:
        """While mass_silence_percentage of a group or more can't be heard at all, nobody goes for being silent."""
        world = self._world
        record = world.disk.groups.get(group)
        arriving = [new for new in change.instances if new.in_service_at == new.state_since_at]
        arriving = [new for new in arriving if world.disk.instances[new.instance_id].state in PENDING_STATES]
        # Whom an operator sends away in the same pass is not counted any more.
        ordered = {
            one.instance_id
            for one in change.instances
            if one.state in LEAVING_STATES | APART_STATES and "on the word of" in one.reason
        }
        serving = [
            i
            for i, one in [*world.disk.instances.items(), *((new.instance_id, new) for new in arriving)]
            if one.group == group
            and one.state is LifecycleState.IN_SERVICE
            and i not in ordered
            and i in world.ec2.running
        ]
        its = world.agents.agent(instance_id).arrived_at
        silent = [
            i
            for i in serving
            if not world.agents.heard(i, MASS_SILENCE_SECONDS)
            and abs(world.agents.agent(i).arrived_at - its) <= MASS_SILENCE_WINDOW_SECONDS / 2
        ]
        if record is None or len(serving) < MASS_SILENCE_MINIMUM:
            return
        if len(silent) * 100 >= record.group.mass_silence_percentage * len(serving):
            what = f"{instance_id} goes while {len(silent)} of {len(serving)} are silent"
            self.violate("mass silence replaces nobody", what)

    # What becomes durable

    def committed(self, change: Change) -> None:
        disk = self._world.disk
        self._keeps_ceilings(change)
        self._journal.update({activity.activity_id: activity for activity in change.activities})
        for instance in change.instances:
            old = disk.instances.get(instance.instance_id)
            before = old.state if old is not None else None
            gone_silent = instance.reason.startswith("unhealthy: silent")
            if before is LifecycleState.IN_SERVICE and instance.state in LEAVING_STATES and gone_silent:
                self._not_in_mass_silence(change, instance.group, instance.instance_id)
            leaves_apart = before in APART_STATES and instance.state in LEAVING_STATES
            told_to = (
                instance.reason.startswith(refresh_rules.BY_REFRESH)
                or "terminated on the word of" in instance.reason
                or _comes_back(change, instance.instance_id)
            )
            if leaves_apart and not told_to:
                what = f"{instance.instance_id} is {before}: {instance.reason}"
                self.violate("what stands apart is not terminated by our choice", what)
            # Whose store was lost is a stranger, and Describe may show its tags for a while.
            if old is None and self._detached.get(instance.instance_id) in disk.activities:
                self.violate("what is detached is not adopted back", instance.instance_id)
            if instance.state is LifecycleState.PENDING_WAIT and not instance.is_new:
                self.violate("only what was launched runs launch hooks", instance.instance_id)
            if before is not instance.state:
                self._moved(instance.instance_id, before, instance.state)
                if old is not None:
                    self._leaves(old, instance)
                elif instance.state is LifecycleState.TERMINATING_WAIT:
                    self._waits[instance.instance_id] = self._world.loop.time(), False
        for instance_id in change.deleted_instances:
            old = disk.instances.get(instance_id)
            self.transitions.add((old.state if old else None, None))
            machine = self._world.ec2.machines.get(instance_id)
            if machine is not None and machine.alive and machine.group:
                self.violate("nothing that runs is forgotten", f"{instance_id} is {machine.state}")
        for record in change.groups:
            name, now = record.group.name, self._world.loop.time()
            self._max_size.setdefault(name, []).append((now, refresh_rules.allowance(record)))
            known = disk.groups.get(name)
            low, high = record.min_size, record.max_size
            if known is None or record.version != known.version:
                continue  # a document was applied; the next pass applies its bounds
            if change.decision is None and record.suspended != known.suspended:
                continue  # no pass: an operator's word between an applied document and the pass after it
            if not low <= record.desired_capacity <= high:
                self.violate(
                    "desired within its bounds", f"{name} {record.desired_capacity} of {low} to {high}"
                )
            for done in known.scheduled:
                again = f"scheduled action {done.action} of {done.at:%Y-%m-%d %H:%M:%SZ}"
                if change.decision and any(each.startswith(again) for each in change.decision.actions):
                    self.violate("no scheduled action is carried out twice", f"{name}: {again}")
            if record.desired_capacity != known.desired_capacity:
                self._explained(change, name, known.desired_capacity, record.desired_capacity)
        self._keeps_healthy(change)
        refresh_rules.committed(change, disk.groups, disk.instances, self._open(), self.violate)
        self._keeps_holds(change)

    def _keeps_holds(self, change: Change) -> None:
        """Nothing begins that is suspended, and no hold ends early by itself."""
        disk = self._world.disk
        records = {**disk.groups, **{record.group.name: record for record in change.groups}}
        processes = {
            ActivityKind.LAUNCH: Process.LAUNCH,
            ActivityKind.ATTACH: Process.LAUNCH,
            ActivityKind.TERMINATE: Process.TERMINATE,
        }
        for activity in change.activities:
            process, record = processes.get(activity.kind), records.get(activity.group)
            if process is None or record is None or activity.group in change.deleted_groups:
                continue
            if activity.activity_id not in disk.activities and record.suspension(process) is not None:
                what = f"{activity.activity_id} of {activity.group}: {activity.cause}"
                self.violate(f"nothing begins while {process} is suspended", what)
        for record in change.groups:
            known = disk.groups.get(record.group.name)
            if known is None or change.decision is None:
                continue  # an operator's own word
            now = change.decision.last_at
            for process, hold in known.suspended:
                if record.suspension(process) is None and not hold.mended(now).over(now):
                    self.violate("no suspension ends early", f"{record.group.name}: {process} {hold.said()}")

    def _keeps_ceilings(self, change: Change) -> None:
        """No launch that is journalled raises what was asked for above a ceiling: the group's own, or that of all."""
        new = {
            activity.group
            for activity in change.activities
            if activity.kind is ActivityKind.LAUNCH and activity.activity_id not in self._journal
        }
        if not new:
            return
        world, disk = self._world, self._world.disk
        groups = {**disk.groups, **{record.group.name: record for record in change.groups}}
        instances = {**disk.instances, **{one.instance_id: one for one in change.instances}}
        for instance_id in change.deleted_instances:
            instances.pop(instance_id, None)
        activities = {**disk.activities, **{one.activity_id: one for one in change.activities}}
        asked = Counter[str]()
        for one in instances.values():
            if one.state not in UNPAID_STATES:
                asked[one.group] += _millis(one.instance_type, one.market)
        for activity in activities.values():
            if (
                activity.launch is None
                or activity.acknowledged
                or activity.status is not ActivityStatus.IN_PROGRESS
            ):
                continue
            known = sum(one.activity_id == activity.activity_id for one in instances.values())
            asked[activity.group] += (activity.instance_count - known) * _millis(
                activity.launch.instance_type, activity.launch.offering.market
            )
        for name in sorted(new & groups.keys()):
            own = groups[name].group.max_hourly_cost
            if own is not None and asked[name] > 1000 * own + 1e-6:
                what = f"{name} asks for ${asked[name] / 1000:g} an hour, its ceiling is ${own:g}"
                self.violate("never above max_hourly_cost", what)
        total = sum(asked[name] for name in groups)
        if world.max_hourly_cost and total > 1000 * world.max_hourly_cost + 1e-6:
            what = f"all ask for ${total / 1000:g} an hour, their ceiling is ${world.max_hourly_cost:g}"
            self.violate("never above max_hourly_cost", what)

    def _moved(self, instance_id: str, before: LifecycleState | None, after: LifecycleState) -> None:
        self.transitions.add((before, after))
        if after not in TRANSITIONS[before]:
            self.violate("every transition is legal", f"{instance_id} {before} → {after}")

    def _leaves(self, old: Instance, new: Instance) -> None:
        """No lease of which the controller heard is broken by our own choice; only scaling in is taken back."""
        world, instance_id = self._world, new.instance_id
        before, after, now = old.state, new.state, world.loop.time()
        came_back = before is LifecycleState.TERMINATING_WAIT and after is LifecycleState.IN_SERVICE
        if came_back and (old.leaving is not Leaving.SCALE_IN or old.hooks):
            rule = "only what scales in, with no hook opened, is taken back"
            self.violate(rule, f"{instance_id}: {old.reason}")
        record, work = world.disk.groups.get(new.group), world.agents.work
        if work is None or record is None or after not in LEAVING_STATES:
            return
        silent = not world.agents.heard(instance_id, SILENT_SECONDS) and self._excused(instance_id)
        if after is LifecycleState.TERMINATING_WAIT:
            self._waits[instance_id] = now, silent
            return
        if before is LifecycleState.TERMINATING_WAIT:
            since, silent = self._waits[instance_id]
        else:
            since = now
        by_silence = new.reason.startswith(("unhealthy: ", "EC2 ")) and "marked unhealthy" not in new.reason
        # Adopted a moment ago, its leases are not told yet; whoever orders it away then may.
        known_seconds = (world.clock.now() - old.state_since_at).total_seconds()
        unheard = old.in_service_at is None and known_seconds < HEARD_SECONDS
        if (
            not (by_silence or unheard or (silent and new.leaving is not Leaving.SCALE_IN))
            and world.agents.heard(instance_id, DEAD_SECONDS)
            and instance_id in world.ec2.running
            and now - since < record.group.drain_timeout_seconds - HEARD_SECONDS
            and work.known_busy(instance_id, HEARD_SECONDS)
        ):
            rule = "no machine that works is terminated by our own choice"
            self.violate(rule, f"{instance_id}: {new.reason}")

    def _explained(self, change: Change, name: str, before: int, after: int) -> None:
        decision = change.decision
        if (
            decision is None
            or decision.desired_after != after
            or not (decision.steps or any(vote.capacity is not None for vote in decision.votes))
        ):
            self.violate("every change of size is explained", f"{name} {before} → {after}")

    def _keeps_healthy(self, change: Change) -> None:
        """By a change of size of ours no fewer stay in service than min_healthy_percentage of desired capacity."""
        disk = self._world.disk
        shrunk: set[tuple[str, str]] = set()  # group, reason
        for instance in change.instances:
            old = disk.instances.get(instance.instance_id)
            by_size = not instance.reason.startswith(("unhealthy", "EC2 ", "its agent")) and (
                "on the word of" not in instance.reason
            )
            if (
                instance.state in LEAVING_STATES
                and old is not None
                and old.state is LifecycleState.IN_SERVICE
                and by_size
            ):
                shrunk.add((instance.group, instance.reason))
        for group, reason in sorted(shrunk):
            record = next((r for r in change.groups if r.group.name == group), disk.groups.get(group))
            if record is None:
                continue
            after = {**disk.instances, **{one.instance_id: one for one in change.instances}}
            staying = sum(
                one.state is LifecycleState.IN_SERVICE and one.group == group for one in after.values()
            )
            floor = refresh_rules.floor_of(record, reason)
            if staying < floor:
                what = f"{group} keeps {staying} in service, {floor} must stay: {reason}"
                self.violate("never below min_healthy_percentage by our own act", what)

    # What an order brings

    def ordered_away(self, instance_id: str) -> None:
        """The order to terminate it has just been answered. What an order before it detached is ours no more."""
        known = self._world.disk.instances.get(instance_id)
        if known is not None and known.state not in (*LEAVING_STATES, LifecycleState.DETACHING):
            self.violate("who is ordered away leaves", f"{instance_id} is {known.state}")

    # What the clock brings

    def tick(self, watching: bool, steady: bool = True) -> None:
        """Once a virtual second. `watching`: controller, store, EC2's Describe and their network are well.

        `steady`: so is the controller's clock, so that what it brings comes in time.
        """
        world, now = self._world, self._world.loop.time()
        if not watching:
            self._unknown_since.clear()
            self._overdue.clear()
            self._over_since.clear()
            return
        if not steady or now - self._ticked_at > STALL_SECONDS:
            self._overdue.clear()
            self._over_since.clear()
        self._ticked_at = now
        self._nobody_waits_for_ever(now)
        strangers = {
            machine.instance_id
            for machine in world.ec2.alive()
            if machine.group in world.disk.groups and machine.instance_id not in world.disk.instances
        }
        self._unknown_since = {i: self._unknown_since.get(i, now) for i in strangers}
        for instance_id, since in self._unknown_since.items():
            if now - since > ADOPTED_WITHIN_SECONDS:
                self.violate("what carries our tags is adopted", f"{instance_id} is in no record")
        over = {
            (name, what)
            for name, record in world.disk.groups.items()
            for what, hold in (*record.suspended, *record.protections)
            if hold.over(world.clock.now())
        }
        self._over_since = {key: self._over_since.get(key, now) for key in over}
        for (name, what), since in self._over_since.items():
            if now - since > HOLD_ENDS_WITHIN_SECONDS:
                self.violate("what is held for a time ends", f"{name}: {what}")

    def _nobody_waits_for_ever(self, now: float) -> None:
        disk = self._world.disk
        held = {
            name for name, record in disk.groups.items() if record.suspension(Process.TERMINATE) is not None
        }
        waiting = {
            i: one for i, one in disk.instances.items() if one.state in _WAITS and one.group not in held
        }
        self._overdue = {
            i: self._overdue[i] if i in self._overdue and self._overdue[i][0] == one else (one, now)
            for i, one in waiting.items()
        }
        for instance_id, (one, since) in self._overdue.items():
            record = disk.groups.get(one.group)
            drain = record.group.drain_timeout_seconds if record is not None else 0.0
            limit = max([drain, *(hook.heartbeat_timeout_seconds for hook in one.hooks)])
            if now - since > limit + WAIT_SLACK_SECONDS:
                self.violate("nobody waits beyond its limits", f"{instance_id} {one.state}: {one.reason}")

    def unsettled(self) -> list[str]:
        """What is not as it should be in a world at rest; empty when all is."""
        world, found = self._world, []
        hopeless = self.hopeless()
        for name, record in world.disk.groups.items():
            if name in hopeless:
                continue
            desired = record.desired_capacity
            if not record.min_size <= desired <= record.max_size:
                found.append(f"{name}: desired capacity {desired} is outside of its bounds")
            serving = [
                one.instance_id
                for one in world.disk.instances.values()
                if one.group == name and one.state is LifecycleState.IN_SERVICE
            ]
            held = all(world.disk.instances[i].protected_from_scale_in for i in serving)
            if len(serving) != desired and not (len(serving) > desired and held):
                found.append(f"{name}: {len(serving)} in service, desired capacity is {desired}")
            standby = {
                one.instance_id
                for one in world.disk.instances.values()
                if one.group == name and one.state is LifecycleState.STANDBY
            }
            if sorted(set(world.alive(name)) - standby) != sorted(serving):
                found.append(
                    f"{name}: EC2 runs {sorted(world.alive(name))}, in service are {sorted(serving)}"
                )
            if not all(self._well(world.ec2.machines[i]) for i in serving if i in world.ec2.machines):
                found.append(f"{name}: in service, and not well")
            work = world.agents.work
            if work is not None and not all(
                # Nobody knows any more of one adopted that it was drained.
                work.of(i).takes_jobs
                or i in work.lost
                or world.disk.instances[i].reason.startswith("adopted")
                for i in serving
            ):
                found.append(f"{name}: in service, and drained")
            found.extend(
                refresh_rules.unsettled(
                    record, (one for one in world.disk.instances.values() if one.group == name)
                )
            )
            if any(world.disk.instances[i].marked_unhealthy for i in serving):
                found.append(f"{name}: in service, and marked unhealthy")
        waiting = [
            one.instance_id
            for one in world.disk.instances.values()
            if (one.state in _ON_THE_MOVE or one.state in _WAITS) and one.group not in hopeless
        ]
        if waiting:
            found.append(f"on the move: {', '.join(waiting)}")
        found.extend(f"{name}: held still" for name, each in world.disk.groups.items() if each.suspended)
        found.extend(
            f"{activity.activity_id} is open: {activity.cause}"
            for activity in self._open()
            if activity.group not in hopeless
        )
        return found

    def hopeless(self) -> set[str]:
        """Groups of a bad image whose store, which knew a better one, was lost: what they launch never comes up."""
        return {
            name
            for name, record in self._world.disk.groups.items()
            if record.group.launch.image.id == BAD_IMAGE and record.launch_memory.good is None
        }

    # What is known

    def _open(self) -> Iterable[Activity]:
        activities = self._world.disk.activities.values()
        return [activity for activity in activities if activity.status is ActivityStatus.IN_PROGRESS]

    def _is_open(self, token: str) -> bool:
        activity = self._world.disk.activities.get(token)
        return activity is not None and activity.status is ActivityStatus.IN_PROGRESS

    def _leaves_or_stands_by(self, instance_id: str) -> bool:
        known = self._world.disk.instances.get(instance_id)
        return known is not None and known.state in LEAVING_STATES | APART_STATES

    def _allowed(self, group: str) -> int:
        now, history = self._world.loop.time(), self._max_size[group]
        recent = [size for at, size in history if now - at <= LOWERED_SECONDS]
        before = [size for at, size in history if now - at > LOWERED_SECONDS][-1:]
        return max(recent + before)

    def _well(self, machine: Machine) -> bool:
        agents, instance_id = self._world.agents, machine.instance_id
        return (
            agents.up(instance_id) and not agents.agent(instance_id).behaviour.claims and not machine.impaired
        )


def _comes_back(change: Change, instance_id: str) -> bool:
    """Whether an operator takes it back from Standby in this very pass, which may scale it in as well."""
    steps = change.decision.steps if change.decision else ()
    return any(instance_id in step.reason and "back from standby" in step.reason for step in steps)


def _millis(instance_type: str, market: Market) -> int:
    """Thousandths of a USD an hour."""
    return round(1000 * (PRICES.of(instance_type, market) or 0.0))
