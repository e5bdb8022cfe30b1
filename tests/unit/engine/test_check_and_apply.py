"""What checking a document says is what applying it does: the same differences, warnings and faults."""

import random
from typing import Any

import pytest

from controller_asg.model.errors import AsgError
from controller_asg.simulate.virtual_time import VirtualLoop, run_virtual
from controller_asg.simulate.world import World

DOCUMENTS = 200
# Of each key a few values, some of them wrong.
VALUES: dict[str, tuple[Any, ...]] = {
    "min_size": (0, 1, 2, 9, "two"),
    "max_size": (2, 5, 9, -1),
    "initial_capacity": (None, 2),
    "policies": (
        [],
        [{"type": "thresholds"}],
        [{"type": "thresholds", "create_above": 10, "delete_below": 20}],
        [{"type": "demand_tracking"}, {"type": "target_tracking", "metric": "cpu_percent", "target": 50}],
        [{"type": "target_tracking", "metric": "no_such_metric", "target": 50}],
    ),
    "scheduled_actions": (
        [],
        [{"name": "morning", "recurrence": "30 6 * * *", "min_size": 2}],
        [{"name": "morning", "recurrence": "66 6 * * *", "min_size": 2}],
    ),
    "lifecycle_hooks": ([], [{"name": "warm", "transition": "launch"}], [{"name": "warm"}]),
    "behavior": ({}, {"scale_in": {"rates": [{"count": 1, "period_seconds": 60}]}}, {"scale_in": 3}),
    "instance_maintenance_policy": (
        None,
        {"min_healthy_percentage": 90, "max_healthy_percentage": 120},
        {"min_healthy_percentage": 0, "max_healthy_percentage": 200},
    ),
    "termination_policies": (["Default"], ["OldestInstance", "Default"], ["Random"]),
    "max_hourly_cost": (None, 1000.0, 0.001),
    "drain": (True, False),
    "deletion_protection": ("none", "prevent-all-deletion", "perhaps"),
    "rebalance_zones": (True, False),
    "max_instance_lifetime_seconds": (0, 86_400, 5),
}
LAUNCHES: tuple[dict[str, Any], ...] = (
    {"image": {"id": "ami-0123456789abcdef0"}},
    {"image": {"id": "ami-0123456789abcdef0"}, "tags": {"round": "2"}},
    {"image": {"id": "ami-0123456789abcdef0"}, "instance_types": ["t3.micro"]},
    {"image": {"id": "ami-0eeeeeeeeeeeeeeee"}},
    {"image": {}},
)


def made_up(chance: random.Random) -> dict[str, Any]:
    keys = chance.sample(sorted(VALUES), chance.randint(0, 4))
    launch = chance.choice(LAUNCHES[:3]) if chance.random() < 0.8 else chance.choice(LAUNCHES)
    return {"launch": launch, **{key: chance.choice(VALUES[key]) for key in keys}}


@pytest.mark.parametrize("seed", [1, 2])
def test_checking_says_what_applying_does(seed: int) -> None:
    chance, took, refused, changed = random.Random(seed), 0, 0, 0

    async def told(world: World, name: str, document: dict[str, Any], validate_only: bool) -> Any:
        try:
            return await world.engine.apply_groups({name: document}, validate_only, "groups.yml")
        except AsgError as error:
            return repr(error)

    async def play() -> None:
        nonlocal took, refused, changed
        world = World(seed)
        await world.start()
        for _ in range(DOCUMENTS):
            name, document = chance.choice(("web", "worker")), made_up(chance)
            before = [status.record for status in world.engine.groups()]
            checked = await told(world, name, document, True)
            untouched = [status.record for status in world.engine.groups()]
            assert [r.version for r in untouched] == [r.version for r in before]
            applied = await told(world, name, document, False)
            assert checked == applied
            if isinstance(applied, str):
                refused += 1
                continue
            took += 1
            ((group,), _) = applied
            changed += group.changed
            ((again,), _) = await told(world, name, document, False)
            assert not again.changed
        await world.stop()

    run_virtual(play(), VirtualLoop())
    assert min(took, refused, changed) > DOCUMENTS / 10
