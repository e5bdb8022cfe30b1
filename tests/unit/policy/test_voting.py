"""Votes combined: out takes the highest, in needs everyone."""

from dataclasses import replace
from datetime import timedelta

from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.record import LastChange
from controller_asg.model.scaling_policy import TargetTracking, Thresholds
from controller_asg.policy.serving import Fleet
from controller_asg.policy.voting import combine
from tests.making import NOW, ago

HOT_OR_IDLE = Thresholds()
TRACK = TargetTracking(metric="cpu_percent", target=60.0)


def fleet(*cpus: float) -> Fleet:
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=(Sample(-0.5, {"cpu_percent": c}),)) for n, c in enumerate(cpus)
    )
    return Fleet(members, len(cpus), 0)


def test_scaling_out_takes_the_highest_vote() -> None:
    wish = combine((HOT_OR_IDLE, TRACK), fleet(95, 95, 95, 95), (), NOW, {})
    assert (wish.capacity, wish.winners) == (7, ("target_tracking",))


def test_scaling_in_needs_every_consent() -> None:
    wish = combine((HOT_OR_IDLE, TRACK), fleet(5, 40), (), NOW, {})
    assert (wish.capacity, wish.victims) == (1, ("i-0",))
    wish = combine((HOT_OR_IDLE, TRACK), fleet(20, 20), (), NOW, {})
    assert wish.capacity == 2
    assert [step.name for step in wish.steps] == ["consent"]


def test_a_policy_without_data_consents_to_nothing() -> None:
    other = TargetTracking(metric="app.queue", target=10.0, name="queue")
    wish = combine((HOT_OR_IDLE, other), fleet(5, 5), (), NOW, {})
    assert (wish.capacity, wish.steps[-1].name) == (2, "consent")


def test_the_highest_of_the_inward_votes_wins() -> None:
    wish = combine((HOT_OR_IDLE, TRACK), fleet(1, 1, 1, 1), (), NOW, {})
    assert wish.capacity == 3


def test_a_cooldown_holds_one_direction_of_one_policy() -> None:
    changed = (LastChange("thresholds", "out", ago(10)),)
    held = combine((HOT_OR_IDLE,), fleet(95, 95), changed, NOW, {})
    assert (held.capacity, held.steps[0].name) == (2, "cooldown")
    assert combine((HOT_OR_IDLE,), fleet(5, 50), changed, NOW, {}).capacity == 1
    assert combine((HOT_OR_IDLE,), fleet(95, 95), changed, NOW + timedelta(seconds=30), {}).capacity == 3


def test_a_disabled_policy_has_no_voice() -> None:
    wish = combine((Thresholds(enabled=False),), fleet(95, 95), (), NOW, {})
    assert (wish.capacity, wish.votes) == (2, ())


def test_one_that_observes_votes_and_neither_acts_nor_objects() -> None:
    watching = Thresholds(name="watching", mode="observe")
    wish = combine((watching,), fleet(95, 95), (), NOW, {})
    assert (wish.capacity, wish.votes[0].capacity, wish.votes[0].observed) == (2, 3, True)
    assert [step.name for step in wish.steps] == ["observe"]  # so the decision is kept
    wish = combine((watching,), fleet(5, 5), (), NOW, {})
    assert (wish.capacity, wish.victims, wish.votes[0].victims) == (2, (), ())
    wish = combine((HOT_OR_IDLE, replace(TRACK, mode="observe")), fleet(5, 100), (), NOW, {})
    assert wish.capacity == 3
    wish = combine((TRACK, replace(HOT_OR_IDLE, mode="observe")), fleet(20, 20), (), NOW, {})
    assert (wish.capacity, wish.steps) == (1, ())


def test_scale_in_that_is_disabled_takes_nothing_away_and_stands_in_nobodys_way() -> None:
    alone = combine((replace(HOT_OR_IDLE, disable_scale_in=True),), fleet(5, 5), (), NOW, {})
    assert (alone.capacity, alone.victims) == (2, ())
    assert "scale-in is disabled" in alone.votes[0].reason
    together = combine((HOT_OR_IDLE, replace(TRACK, disable_scale_in=True)), fleet(5, 5), (), NOW, {})
    assert together.capacity == 1
    # At its target it needs them all.
    assert (
        combine((HOT_OR_IDLE, replace(TRACK, disable_scale_in=True)), fleet(5, 115), (), NOW, {}).capacity
        != 1
    )
