"""One pass of a group: snapshot in, plan out. Pure, so that it can be asked "what if", replayed and explained.

Only `Snapshot.memories` move: they learn what this pass has seen. Ask "what if" with others.

Order of the rules: times that a clock set back left in the future, holds that end, facts (what calls brought),
adoption, lifecycle and health, scheduled actions, orders, mass silence, votes and bounds, instances to be replaced, the
gap between wanted and there, activities that ended.
"""

from controller_asg.model.decision import Decision, Vote
from controller_asg.model.instance import LEAVING_STATES
from controller_asg.planner import (
    backoff,
    costs,
    foretold,
    launches,
    leaving,
    lifecycle,
    maintenance,
    offerings,
    refresh,
    schedule,
    sizing,
    suspension,
)
from controller_asg.planner.draft import Draft
from controller_asg.planner.plan import LaunchPlan, Plan
from controller_asg.planner.snapshot import Snapshot
from controller_asg.policy.voting import Wish


def plan(snapshot: Snapshot) -> Plan:
    """What to do now. Until EC2 has answered once since the start, nothing is launched and nobody is judged."""
    draft = Draft(snapshot)
    before = snapshot.record.desired_capacity
    lifecycle.mend_times(draft)
    suspension.end_due(draft)
    draft.record = backoff.forget(draft.record, draft.now)
    foretold.raise_max_size(draft)
    lifecycle.take_facts(draft)
    votes: tuple[Vote, ...] = ()
    if snapshot.observed:
        lifecycle.adopt(draft)
        lifecycle.advance(draft)
        schedule.carry_out(draft)
        sizing.apply_bounds(draft)
        sizing.take_orders(draft)
        sizing.hold_silence(draft)
        wish = sizing.vote(draft)
        votes = wish.votes
        wanted = tuple(dict.fromkeys(victim for vote in votes for victim in vote.victims))
        refresh.carry_on(draft)
        maintenance.replace_aged(draft)
        offerings.learn_markets(draft)
        sizing.close_gap(draft, wanted, _why(draft, wish, before))
        leaving.resume_again(draft)
    lifecycle.end_activities(draft)
    _note_conditions(draft)
    actions = _actions(draft)
    decision = Decision(
        group=draft.group.name,
        first_at=draft.now,
        last_at=draft.now,
        desired_before=before,
        desired_after=draft.record.desired_capacity,
        votes=votes,
        steps=tuple(draft.steps),
        actions=actions,
        summary=_summary(draft, before, votes, actions),
    )
    return Plan(
        record=draft.record,
        instances=tuple(draft.members[i].instance for i in sorted(draft.changed_instances)),
        gone=tuple(draft.gone),
        activities=tuple(draft.activities[i] for i in sorted(draft.changed_activities)),
        launches=draft.launches,
        terminations=tuple(draft.terminations),
        taggings=tuple(draft.taggings),
        bootstraps=tuple(draft.bootstraps),
        agent_orders=tuple(draft.agent_orders),
        decision=decision,
        conditions=tuple(draft.conditions),
        verdicts=draft.verdicts,
        fleet=draft.fleet,
        hourly_cost=costs.planned(draft),
    )


def _why(draft: Draft, wish: Wish, before: int) -> str:
    """Why the gap is there, in one line: the vote that moved the size, the step that did, or the size itself."""
    after = draft.record.desired_capacity
    if after != before:
        for vote in wish.votes:
            if vote.policy in wish.winners:
                return f"{vote.policy}: {vote.reason}"
        moved = [step for step in draft.steps if step.before != step.after]
        if moved:
            return moved[-1].reason
    return f"desired capacity is {after}"


def _actions(draft: Draft) -> tuple[str, ...]:
    launches = [f"launch {launch.count}{_where(launch)}: {launch.cause}" for launch in draft.launches]
    terminations = [f"terminate {', '.join(t.instance_ids)}: {t.cause}" for t in draft.terminations]
    taggings = [f"{t.kind} {', '.join(t.instance_ids)}: {t.cause}" for t in draft.taggings]
    return (*draft.scheduled, *draft.waits, *launches, *terminations, *taggings)


def _where(launch: LaunchPlan) -> str:
    """What is asked for, as far as the group leaves a choice."""
    parameters, offering = launch.template.launch, launch.offering
    if (
        parameters.instance_types
        or 0 < parameters.on_demand_percentage < 100
        or parameters.on_demand_base_capacity
    ):
        return f" {offering}"
    return f" in {offering.zone}" if offering.zone else ""


def _summary(draft: Draft, before: int, votes: tuple[Vote, ...], actions: tuple[str, ...]) -> str:
    after = draft.record.desired_capacity
    size = (
        f"{draft.group.name} {before} → {after}"
        if after != before
        else f"{draft.group.name} stays at {after}"
    )
    if actions:
        return f"{size}: {'; '.join(actions)}"
    wishes = [v for v in votes if v.capacity is not None and v.capacity != before]
    parts = [
        f"{v.policy} {'would want' if v.observed else 'wants'} {v.capacity} ({v.reason})" for v in wishes
    ]
    parts += [f"{step.name}: {step.reason}" for step in draft.steps]
    if not parts:
        parts = [vote.reason for vote in votes]
    return f"{size}: {'; '.join(parts)}" if parts else size


def _note_conditions(draft: Draft) -> None:
    suspension.note_condition(draft)
    outdated = [
        instance_id
        for instance_id in draft.outdated
        if instance_id in draft.members and draft.members[instance_id].instance.state not in LEAVING_STATES
    ]
    if outdated:
        draft.conditions.append(("Outdated", f"{len(outdated)} launched from earlier launch parameters"))
    if launches.stopped(draft.record):
        failures = launches.failures_of(draft.record.launch_memory, draft.record.launch_version)
        good = launches.fall_back(draft.record)
        assert good is not None
        draft.conditions.append(
            (
                "LaunchVersionStopped",
                f"{failures} instances in a row of the applied launch parameters (image {draft.record.image_id}) did"
                f" not come into service; {good.image_id}, the last good version, is launched instead until another"
                " document is applied",
            )
        )
    leaving.note(draft)
    unhealthy = sorted(member.instance.instance_id for member in draft.unhealthy())
    if unhealthy:
        draft.conditions.append(("Unhealthy", ", ".join(unhealthy[:5])))
    serving = len(draft.serving())
    if serving < draft.record.desired_capacity:
        draft.conditions.append(("Short", f"{serving} of {draft.record.desired_capacity} in service"))
