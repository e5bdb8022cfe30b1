"""The forecast of a group's demand: what it is made of, and that it knows nothing of what is to come."""

import math

import pytest

from controller_asg.policy.forecast import AHEAD_STEPS, DAY, STEP_SECONDS, Forecast, foretell

START = 1_800_000_000 // 86_400 * 86_400.0  # a midnight


def minutes(days: float, demand) -> list[tuple[float, float]]:
    return [(START + 60 * minute, demand(minute)) for minute in range(round(days * 1440))]


def by_day(minute: int) -> float:
    return 10 + 5 * math.sin(2 * math.pi * minute / 1440)


def at(days: float) -> float:
    return START + days * 86_400


def made(past: list[tuple[float, float]], days: float) -> Forecast:
    found = foretell(past, at(days))
    assert found is not None
    return found


def test_what_repeats_by_the_day_is_foretold_for_two_days() -> None:
    forecast = made(minutes(3, by_day), 3)
    assert len(forecast.demands) == AHEAD_STEPS
    for step in range(AHEAD_STEPS):
        assert forecast.demands[step] == pytest.approx(by_day(step * 5 + 2), rel=0.03)
    assert forecast.error is not None
    assert forecast.error < 0.03


def test_a_week_that_repeats_is_found_in_the_second_one() -> None:
    def weekend(minute: int) -> float:
        return 2.0 if minute // 1440 % 7 in (5, 6) else by_day(minute)

    forecast = made(minutes(12, weekend), 12)
    assert forecast.demands[DAY // 2] == pytest.approx(2.0, rel=0.2)


def test_a_load_that_rises_today_pulls_the_next_hours_up_and_tomorrow_less() -> None:
    past = [(when, demand * (1.5 if when >= at(3.5) else 1)) for when, demand in minutes(4, by_day)]
    forecast = made(past, 4)
    plain = made(minutes(4, by_day), 4)
    near, far = (forecast.demands[each] / plain.demands[each] for each in (0, AHEAD_STEPS - 1))
    assert near > 1.2
    assert far < near


@pytest.mark.parametrize("days", [0.0, 0.5, 0.99])
def test_less_than_a_day_is_too_little(days: float) -> None:
    assert foretell(minutes(days, by_day), at(days)) is None


def test_a_day_without_reports_is_no_day_of_nothing() -> None:
    past = [each for each in minutes(5, by_day) if not at(3) <= each[0] < at(4)]
    assert made(past, 5).demands[DAY // 4] == pytest.approx(by_day(360), rel=0.1)


def test_what_is_yet_to_come_changes_nothing() -> None:
    past = minutes(4, by_day)
    wild = [(when, demand if when < at(3) else 99.0) for when, demand in past]
    assert foretell(past, at(3)) == foretell(wild, at(3)) == foretell(past[: 3 * 1440], at(3))


def test_the_highest_of_a_span_is_of_the_steps_that_it_touches() -> None:
    forecast = Forecast(START, (1.0, 5.0, 2.0), "", None)
    assert forecast.highest(START, START + STEP_SECONDS) == (5.0, START + STEP_SECONDS)
    assert forecast.highest(START + 2 * STEP_SECONDS, START + 9_999) == (2.0, START + 2 * STEP_SECONDS)
    assert forecast.highest(START - 1, START + 1) is None
    assert forecast.highest(START + 3 * STEP_SECONDS, START + 9_999) is None
