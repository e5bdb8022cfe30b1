"""The forecast from what repeats."""

import json
import math
import random

from controller_asg.policy.season import DAY, KEPT_MINUTES, WEEK, Season

AHEAD = 15


def errors(minutes: list[float], begin: int) -> tuple[float, float]:
    """The sums of absolute errors from a minute on: of the forecast, and of no change at all."""
    season, ours, naive = Season(), 0.0, 0.0
    foretold: list[float] = []
    for minute, mean in enumerate(minutes):
        if minute >= begin:
            ours += abs(foretold[minute - AHEAD] - mean)
            naive += abs(minutes[minute - AHEAD] - mean)
        season.fold(mean, AHEAD)
        assert season.forecast is not None
        foretold.append(season.forecast)
    return ours, naive


def test_a_day_that_repeats_is_foretold() -> None:
    wave = [10 + 6 * math.sin(2 * math.pi * minute / DAY) for minute in range(4 * DAY)]
    ours, naive = errors(wave, 2 * DAY)
    assert ours < 0.12 * naive


def test_a_weekday_like_none_before_it_is_foretold_from_last_week() -> None:
    days = [4.0, 10.0, 4.0, 10.0, 4.0, 4.0, 10.0] * 2
    minutes = [
        level * (1 + 0.5 * math.sin(2 * math.pi * minute / DAY)) for level in days for minute in range(DAY)
    ]
    ours, naive = errors(minutes, WEEK + DAY)
    assert ours < 0.7 * naive


def test_where_nothing_repeats_it_is_little_worse_than_no_change() -> None:
    chance, minutes, level = random.Random(1), [], 10.0
    for _ in range(3 * DAY):
        level = max(1.0, level + chance.gauss(0, 0.05))
        minutes.append(level)
    ours, naive = errors(minutes, DAY)
    assert ours < 1.1 * naive


def test_minutes_without_a_reading_count_as_the_one_before_them() -> None:
    season = Season()
    season.fold(3.0, AHEAD)
    season.fold(5.0, AHEAD, missed=2)
    assert list(season.minutes) == [3.0, 3.0, 3.0, 5.0]


def test_it_is_bounded_however_long_the_gap() -> None:
    season = Season()
    for _ in range(4):
        season.fold(1.0, AHEAD, missed=10 * WEEK)
    assert WEEK < len(season.minutes) <= KEPT_MINUTES


def test_json_holds_all_of_it() -> None:
    season, chance = Season(), random.Random(2)
    for _ in range(DAY + 200):
        season.fold(chance.uniform(1, 20), AHEAD)
    again = Season.from_dict(json.loads(json.dumps(season.to_dict())))
    for each in (season, again):
        each.fold(7.0, AHEAD)
    assert again.to_dict() == season.to_dict()
