"""The figures by hand, and the clairvoyant against dynamic programming."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller_asg.rehearse.figures import Figures, churn, figures, least_paid, over_traces
from controller_asg.rehearse.world import Schedule


def least_by_programming(need: list[int], delay: int) -> int:
    """The least of all schedules, by trying every size at every tick; each launch is paid `delay` ticks ahead.

    The first tick finds what it needs.
    """
    sizes = range(max(need) + 1)
    paid = {need[0]: need[0]}
    for needed in need[1:]:
        paid = {
            size: size + min(before + delay * max(0, size - was) for was, before in paid.items())
            for size in sizes
            if size >= needed
        }
    return min(paid.values())


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 6))
def test_the_clairvoyant_pays_the_least_possible(need: list[int], delay: int) -> None:
    assert least_paid(need, delay) == least_by_programming(need, delay)


def test_figures_by_hand() -> None:
    # An hour: half of it 4 are needed, half of it 6; 5 serve throughout, and a sixth boots in the last five minutes.
    need = [4] * 180 + [6] * 180
    schedule = Schedule([5] * 330 + [6] * 30, [5] * 360)
    assert figures(need, schedule) == Figures(
        tau_u=50.0,
        theta_u=pytest.approx(100 / 12),
        tau_o=50.0,
        theta_o=12.5,
        cost=(5 * 330 + 6 * 30) / (4 * 180 + 6 * 180 + 2 * 12),
        changes_per_hour=1.0,
        reversals_per_day=0.0,
        mean_in_service=5.0,
    )


def test_a_change_back_within_ten_minutes_is_a_reversal() -> None:
    assert churn([5, 6] + [6] * 59 + [5]) == (2, 1)
    assert churn([5, 6] + [6] * 60 + [5]) == (2, 0)
    assert churn([5, 6, 7]) == (2, 0)


def test_over_traces_a_ratio_has_a_floor_and_a_geometric_mean() -> None:
    one = Figures(0.0, 0.0, 100.0, 50.0, 1.0, 1.0, 0.0, 10.0)
    other = Figures(1.0, 0.1, 90.0, 30.0, 4.0, 4.0, 2.0, 20.0)
    assert over_traces([one, other]) == Figures(
        *map(pytest.approx, (0.1, 0.01, 95.0, 40.0, 2.0, 2.0, 1.0, 15.0))
    )
