"""The policies to compare with: their rules by hand, and the reference's tables to the last digit."""

import csv
import os
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from controller_asg.rehearse.baselines import BASELINES
from controller_asg.rehearse.figures import Figures, figures, over_traces
from controller_asg.rehearse.load import demand, read_trace
from controller_asg.rehearse.world import needs, rehearse

DIGITS = (3, 3, 1, 1, 3, 2, 2, 1)
TOGETHER = {"Real traces": "real-", "Synthetic traces": "synthetic-"}


def changes(name: str, needed: list[float]) -> list[tuple[int, int]]:
    """(second, desired capacity) of the first tick and of each change."""
    desired = rehearse(needed, BASELINES[name]()).desired
    return [(10 * tick, size) for tick, size in enumerate(desired) if not tick or size != desired[tick - 1]]


def test_target_tracking_waits_for_three_minutes_that_it_sees_half_a_minute_late() -> None:
    # 6 of 10; at 600 s 9 of 10. Minutes 11, 12, 13 are above; the last ends at 780 s and is seen at 810 s.
    assert changes("tt60", [6.0] * 60 + [9.0] * 60)[:2] == [(0, 10), (810, 15)]


def test_high_resolution_target_tracking_waits_for_three_datapoints_of_ten_seconds() -> None:
    assert changes("tt60-hires", [6.0] * 60 + [9.0] * 60)[:2] == [(0, 10), (640, 15)]


def test_target_tracking_scales_in_after_fifteen_minutes_by_one_a_minute() -> None:
    # 15 minutes at 48 % or less end at 900 s and are seen at 930 s.
    assert changes("tt60", [6.0] + [4.8] * 120)[:3] == [(0, 10), (930, 9), (990, 8)]


def test_the_pod_autoscaler_reads_twenty_seconds_ten_seconds_late() -> None:
    # Full from 600 s on. At 620 s it sees 590 to 610, so 80 %; with four booting, at 630 s all of 600 to 620.
    assert changes("hpa60", [6.0] * 60 + [30.0] * 60)[:3] == [(0, 10), (620, 14), (630, 17)]


def test_the_naive_policy_follows_the_last_tick() -> None:
    assert changes("naive70", [6.0] * 60 + [9.0] * 60) == [(0, 10), (10, 9), (610, 13)]


def test_the_thresholds_add_one_each_half_minute() -> None:
    assert changes("threshold80/10", [6.0] * 60 + [9.0] * 9) == [(0, 10), (630, 11), (660, 12)]


def test_the_floor_is_yesterdays_hour_from_the_second_day_on_five_minutes_ahead() -> None:
    needed = ([6.0] * 360 + [9.0] * 360 + [6.0] * 360 * 22) * 2
    floored = dict(changes("naive70+floor", needed))
    assert floored[86_400 + 3600 - 300] == 13


@pytest.mark.timeout(1800)
def test_the_tables_of_the_reference_come_out_to_the_last_digit() -> None:
    folder = os.environ.get("ASG_TRACES")
    if not folder:
        pytest.skip("ASG_TRACES names no folder of the reference's traces")
    found: dict[tuple[str, str], Figures] = {}
    wrong = []
    for trace, policy, shown in _expected():
        if trace in TOGETHER:
            continue
        (path,) = Path(folder).glob(f"{trace}.csv*")
        needed = demand(read_trace(path))
        found[trace, policy] = figures(needs(needed), rehearse(needed, BASELINES[policy]()))
        if _shown(found[trace, policy]) != shown:
            wrong.append((trace, policy, shown, _shown(found[trace, policy])))
    for trace, policy, shown in _expected():
        if trace in TOGETHER:
            of = [
                each for key, each in found.items() if key[1] == policy and key[0].startswith(TOGETHER[trace])
            ]
            if _shown(over_traces(of)) != shown:
                wrong.append((trace, policy, shown, _shown(over_traces(of))))
    assert not wrong


def _expected() -> Iterator[tuple[str, str, list[str]]]:
    with (Path(__file__).parent / "baselines.csv").open(newline="") as file:
        for trace, policy, *shown in list(csv.reader(file))[1:]:
            yield trace, policy, shown


def _shown(of: Figures) -> list[str]:
    return [f"{value:.{digits}f}" for value, digits in zip(astuple(of), DIGITS, strict=True)]
