"""The forgetting histogram, and the cheapest place it finds."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from controller_asg.policy.histogram import Histogram

ratios = st.floats(0.5, 20)


def histogram(values: list[float], half_life: float = 100.0) -> Histogram:
    made = Histogram(-0.5, 5.5, 0.02, half_life)
    for value in values:
        made.add(math.log(value))
    return made


def test_an_empty_one_adds_nothing() -> None:
    assert histogram([]).cheapest(60) == 1.0
    assert histogram([]).cost(1.2, 60) == 1.2


def test_a_rare_and_high_value_is_not_paid_for_when_it_is_cheaper_to_miss_it() -> None:
    values = [1.0] * 999 + [10.0]
    assert histogram(values, 1e6).cheapest(60) < 1.1
    assert histogram(values, 1e6).cheapest(60_000) > 9.9


def test_it_forgets() -> None:
    made = histogram([5.0] * 10 + [1.0] * 2000)
    assert made.cheapest(60) < 1.1
    assert 100 < made.count < 200


@given(st.lists(ratios, min_size=1, max_size=50), st.floats(1, 200))
def test_no_edge_is_cheaper_than_the_cheapest(values: list[float], price: float) -> None:
    made = histogram(values)
    best = made.cost(made.cheapest(price), price)
    assert all(best <= made.cost(edge, price) + 1e-9 for edge in made.edges)


@given(st.lists(ratios, max_size=50))
def test_json_holds_all_of_it(values: list[float]) -> None:
    made, again = histogram(values), histogram([])
    again.load(json.loads(json.dumps(made.to_dict())))
    for one in (made, again):
        one.add(0.3)
    assert again.to_dict() == made.to_dict()


def test_it_lasts() -> None:
    made = histogram([1.5] * 100_000, half_life=10)
    assert math.isfinite(made.total)
    assert 1.5 <= made.cheapest(60) < 1.54
