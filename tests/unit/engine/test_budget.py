"""The ceiling of all groups: who plans is told what the others have, are about to have, and need at the least."""

from controller_asg.engine.budget import Budget
from controller_asg.engine.memory import Memory
from controller_asg.model.offering import Market, Prices
from controller_asg.model.record import State
from tests.making import instance, record

PRICES = Prices({"t2.micro": {Market.ON_DEMAND: 1.0}}, "us-east-1")


def budget(ceiling: float) -> Budget:
    groups = (record(2, name="web", min_size=1), record(2, name="jobs", min_size=3))
    return Budget(Memory(State(groups, (instance(1), instance(2)), ())), PRICES, ceiling)


def test_the_others_min_size_is_set_aside_and_what_they_have_beyond_it_too() -> None:
    made = budget(10.0)
    assert made.left("web") == 10 - 3  # min_size of jobs, which has none yet
    assert made.left("jobs") == 10 - 2  # web has two, its min_size is one
    assert budget(0.0).left("web") is None


def test_what_is_being_committed_counts_until_it_is_known_what_became_of_it() -> None:
    made = budget(10.0)
    made.reserve("web", 6.0)
    assert made.left("jobs") == 4
    made.reserve("web", 1.0)  # its next pass gives some up, and the commit before failed: it may have landed
    assert made.left("jobs") == 4
    made.spent("web")
    assert made.left("jobs") == 8
