"""The first design's rule, by example and by property."""

from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.instance import AgentView, Sample
from controller_asg.model.scaling_policy import Thresholds
from controller_asg.policy import thresholds
from controller_asg.policy.serving import Fleet

loads = st.floats(0, 100, allow_nan=False)


def fleet(*cpus: float | None, desired: int | None = None) -> Fleet:
    members = tuple(
        AgentView(f"i-{n}", 0.5, samples=() if cpu is None else (Sample(-0.5, {"cpu_percent": cpu}),))
        for n, cpu in enumerate(cpus)
    )
    return Fleet(members, len(cpus) if desired is None else desired, 0)


def test_an_instance_above_the_creation_threshold_wants_one_more() -> None:
    assert thresholds.vote(Thresholds(), fleet(50, 81)).capacity == 3


def test_exactly_at_the_threshold_nothing_is_wanted() -> None:
    assert thresholds.vote(Thresholds(), fleet(80, 10)).capacity == 2


def test_the_instance_below_the_deletion_threshold_is_the_victim() -> None:
    vote = thresholds.vote(Thresholds(), fleet(50, 5, 9))
    assert (vote.capacity, vote.victims) == (2, ("i-1", "i-2"))


def test_a_hot_instance_outweighs_an_idle_one() -> None:
    vote = thresholds.vote(Thresholds(), fleet(99, 1))
    assert (vote.capacity, vote.victims) == (3, ())


def test_silence_is_no_low_load() -> None:
    assert thresholds.vote(Thresholds(), fleet(None, None)).capacity is None
    assert thresholds.vote(Thresholds(), fleet(None, 50)).capacity == 2


def test_a_window_takes_the_mean_of_its_samples() -> None:
    samples = tuple(
        Sample(-age, {"cpu_percent": cpu}) for age, cpu in ((12, 100), (8, 100), (4, 90), (0, 20))
    )
    members = Fleet((AgentView("i-0", 0.5, samples=samples),), 1, 0)
    assert thresholds.vote(Thresholds(window_seconds=5), members).capacity == 1
    assert thresholds.vote(Thresholds(window_seconds=15, create_above=77), members).capacity == 2


def test_a_stale_sample_is_no_reading() -> None:
    members = Fleet((AgentView("i-0", 0.5, samples=(Sample(-30, {"cpu_percent": 1}),)),), 1, 0)
    assert thresholds.vote(Thresholds(), members).capacity is None


@given(st.lists(loads, min_size=1, max_size=8), st.integers(0, 7), loads)
def test_more_load_on_an_instance_never_makes_the_vote_smaller(
    cpus: list[float], which: int, more: float
) -> None:
    higher = list(cpus)
    higher[which % len(cpus)] = max(more, higher[which % len(cpus)])
    low, high = (thresholds.vote(Thresholds(), fleet(*c)).capacity for c in (cpus, higher))
    assert low is not None
    assert high is not None
    assert low <= high
