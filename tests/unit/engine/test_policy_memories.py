"""What policies remember outlives a crash, a store that refuses, and nothing else."""

import asyncio
import json
import random
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller_asg.engine.policy_memories import Remembering
from controller_asg.model.decision import Vote
from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.record import Change
from controller_asg.model.scaling_policy import DemandTracking, Policy, Thresholds
from controller_asg.policy.demand_tracking import vote
from controller_asg.policy.serving import Fleet
from controller_asg.simulate.world import World
from tests.unit.engine.test_engine import WEB, play

POLICY = DemandTracking()
POLICIES: tuple[Policy, ...] = (Thresholds(), POLICY)
BEGIN = 1_800_000_000.0


class Shelf:
    """The one call of a store that is made of it; `failing` says how it fails."""

    def __init__(self) -> None:
        self.documents: list[str] = []
        self.failing: StoreError | None = None

    async def commit(self, change: Change) -> int:
        if self.failing is not None:
            raise self.failing
        self.documents += [each.document for each in change.memories]
        return 0


def save(remembering: Remembering, shelf: Shelf, now: float, desired: int = 10) -> None:
    asyncio.run(remembering.save(shelf, desired, now))  # type: ignore[arg-type]


def ask(remembering: Remembering, second: int, policy: DemandTracking = POLICY) -> Vote:
    cpu = random.Random(second // 60).uniform(20, 90)
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=(Sample(-0.5, {"cpu_percent": cpu}),)) for n in range(10)
    )
    return vote(policy, remembering.of(POLICIES)["demand_tracking"], Fleet(members, 10, 0), BEGIN + second)


def test_a_restart_from_what_was_saved_votes_exactly_as_the_one_that_went_on() -> None:
    shelf, uninterrupted = Shelf(), Remembering("web")
    for second in range(0, 3 * 86_400, 30):
        ask(uninterrupted, second)
    save(uninterrupted, shelf, 0.0, desired=9)
    save(uninterrupted, shelf, 1.0, desired=10)
    restarted = Remembering("web", shelf.documents[-1])
    for second in range(3 * 86_400, 3 * 86_400 + 7200, 10):
        assert ask(restarted, second) == ask(uninterrupted, second)


def test_it_is_saved_each_minute_and_when_the_size_changes_until_the_store_takes_it() -> None:
    shelf, remembering = Shelf(), Remembering("web")
    ask(remembering, 0)
    for second in range(60):
        save(remembering, shelf, float(second))
    assert len(shelf.documents) == 1, "at the group's own moment within the first minute"
    save(remembering, shelf, 60.0, desired=11)
    assert len(shelf.documents) == 2
    save(remembering, shelf, 119.0, desired=11)
    assert len(shelf.documents) == 2
    shelf.failing = StoreError("disk full", "store")
    save(remembering, shelf, 120.0, desired=11)
    shelf.failing = None
    save(remembering, shelf, 121.0, desired=11)
    assert len(shelf.documents) == 3
    shelf.failing = FencedError("another controller", "store")
    with pytest.raises(FencedError):
        save(remembering, shelf, 181.0, desired=11)


def test_another_headroom_goes_on_and_another_metric_begins_anew() -> None:
    remembering = Remembering("web")
    ask(remembering, 0)
    (memory,) = remembering.of(POLICIES).values()
    assert remembering.of((DemandTracking(headroom="ample"),))["demand_tracking"] is memory
    assert remembering.of((DemandTracking(metric="app.busy"),))["demand_tracking"] is not memory


MEMORY: dict[str, Any] = {"of": ["cpu_percent", 100.0], "memory": {"version": 1}}


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        json.dumps({"demand_tracking": None}),
        json.dumps({"demand_tracking": {**MEMORY, "memory": []}}),
        json.dumps({"demand_tracking": MEMORY}),
        json.dumps({"demand_tracking": {**MEMORY, "memory": {"version": 2}}}),
    ],
)
def test_a_memory_that_can_not_be_read_is_dropped_and_told(document: str) -> None:
    with capture_logs() as told:
        assert ask(Remembering("web", document), 0).capacity is not None
    assert [line["event"] for line in told] == ["policy_memory_dropped"]


TRACKED: dict[str, Any] = {**WEB, "policies": [{"type": "demand_tracking"}], "max_size": 2}


def saved(world: World) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(world.disk.memories["web"].document)
    return document


def test_a_full_store_and_a_crash_cost_the_group_nothing_it_learnt() -> None:
    async def scene(world: World) -> None:
        await world.apply(web=TRACKED)
        await world.clock.sleep(400)
        began_at = saved(world)["demand_tracking"]["memory"]["began_at"]
        world.disk.broken = "no space left"
        await world.clock.sleep(200)
        world.disk.broken = ""
        await world.clock.sleep(5)
        mended_at = world.clock.now().timestamp()
        await world.clock.sleep(1)
        await world.crash()
        assert saved(world)["demand_tracking"]["memory"]["at"] > mended_at - 5
        await world.start()
        await world.until(lambda: bool(world.engine.groups("web")[0].last_decision.votes), 10)  # type: ignore[union-attr]
        decision = world.engine.groups("web")[0].last_decision
        assert decision is not None
        assert "(little learnt yet)" in decision.votes[0].reason, "all of ten minutes, not of a moment"
        await world.clock.sleep(70)
        assert saved(world)["demand_tracking"]["memory"]["began_at"] == began_at

    play(scene)


def test_the_memory_of_a_policy_that_was_taken_away_goes_with_it() -> None:
    async def scene(world: World) -> None:
        await world.apply(web=TRACKED)
        await world.clock.sleep(70)
        assert set(saved(world)) == {"demand_tracking"}
        await world.apply(web=WEB)
        await world.clock.sleep(2)
        assert saved(world) == {}

    play(scene)
