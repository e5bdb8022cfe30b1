"""The simulated world: a seed is a schedule, the product breaks nothing in it, and a planted bug is found."""

from pathlib import Path

import pytest

from controller_asg.simulate.run import run_many, run_seed
from tests.simulation import planting

SEEDS = 60


def test_no_invariant_breaks() -> None:
    broken = [(result.seed, what) for result in run_many(range(SEEDS), 2) for what in result.broken]
    assert not broken, "controller-asg simulate --seed N --trace tells the story"


def test_no_invariant_breaks_in_large_groups() -> None:
    (result,) = run_many([5], 1, size=200)
    assert not result.broken


def test_worlds_are_reached_in_which_forecasts_and_signed_messages_change_the_size() -> None:
    result = run_seed(13)
    assert not result.broken
    assert result.executed
    assert result.foretold


def test_a_seed_tells_the_same_story_in_another_process() -> None:
    (first,) = run_many([8], 1, trace=True)
    (again,) = run_many([8], 1, trace=True)
    assert len(first.story) > 50
    assert first.story == again.story


@pytest.mark.parametrize("name", planting.names())
def test_a_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    found = planting.hunt(name, tmp_path)
    assert found["broken"], f"{name} was not found in {found['seeds']} seeds"
