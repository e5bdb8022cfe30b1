"""Scheduled actions: when they are due in local time, what they set, and what becomes of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from controller_asg.model.document import parse_groups
from controller_asg.model.errors import SpecError
from controller_asg.model.record import GroupRecord, Scheduled
from controller_asg.model.scheduled_action import ScheduledAction, latest_time, times_after
from controller_asg.planner.plan import Plan
from controller_asg.planner.plan_pass import plan
from controller_asg.planner.schedule import carried, next_times
from tests.making import IMAGE, NOW, ago, record, serving, snapshot

MINUTE, HOUR = 60.0, 3600.0


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(seconds: float, **keys: Any) -> dict[str, Any]:
    """An action whose only time is so long ago."""
    return {"name": "morning", "start_time": ago(seconds).isoformat(), **keys}


def planned(of: GroupRecord, now: datetime = NOW) -> Plan:
    return plan(replace(snapshot(of, serving(1), serving(2)), now=now))


@pytest.mark.parametrize(
    ("recurrence", "after", "expected"),
    [
        # Local time holds over the change in spring, and 02:30, which that day lacks, comes right after the gap.
        ("0 8 * * *", "2027-03-27 00:00", ["2027-03-27 07:00", "2027-03-28 06:00", "2027-03-29 06:00"]),
        ("30 2 * * *", "2027-03-27 00:00", ["2027-03-27 01:30", "2027-03-28 01:00", "2027-03-29 00:30"]),
        # In autumn 02:30 comes twice, and counts the first time.
        ("0 8 * * *", "2027-10-30 00:00", ["2027-10-30 06:00", "2027-10-31 07:00", "2027-11-01 07:00"]),
        ("30 2 * * *", "2027-10-30 12:00", ["2027-10-31 00:30", "2027-11-01 01:30"]),
        # What is due every half an hour is due in real time, over both changes.
        ("*/30 * * * *", "2027-03-28 00:00", ["2027-03-28 00:30", "2027-03-28 01:00", "2027-03-28 01:30"]),
        ("*/30 * * * *", "2027-10-31 00:00", ["2027-10-31 00:30", "2027-10-31 01:00", "2027-10-31 01:30"]),
    ],
)
def test_local_times_follow_daylight_saving(recurrence: str, after: str, expected: list[str]) -> None:
    action = ScheduledAction("morning", recurrence, "Europe/Berlin", min_size=1)
    found = list(islice(times_after(action, at(after)), len(expected)))
    assert found == [at(text) for text in expected]
    # Whoever looks at any moment finds the same times behind.
    for before, time in zip([at(after), *found], found, strict=False):
        assert latest_time(action, before, time) == time
        assert latest_time(action, before, time - timedelta(seconds=1)) is None
    assert latest_time(action, at(after), found[-1]) == found[-1]


def test_a_start_is_the_first_time_and_no_time_comes_after_the_end() -> None:
    start, end = datetime(2028, 3, 1, 9, 30), datetime(2028, 3, 3)  # noqa: DTZ001 - as an operator writes it
    action = ScheduledAction("week", "0 8 * * *", "Europe/Berlin", start, end, min_size=1)
    expected = [at("2028-03-01 08:30"), at("2028-03-02 07:00")]
    assert list(times_after(action, NOW)) == expected
    assert latest_time(action, NOW, at("2028-05-01")) == expected[-1]


def test_an_action_sets_the_bounds_and_the_decision_says_so() -> None:
    made = planned(record(scheduled_actions=[due(10, min_size=4, max_size=9)]))
    assert (made.record.min_size, made.record.max_size, made.record.desired_capacity) == (4, 9, 4)
    assert (
        made.decision.actions[0] == "scheduled action morning of 2028-02-28 11:59:50Z: min_size 4, max_size 9"
    )
    assert made.decision.steps[0].reason == "never fewer than 4 (scheduled action morning)"
    # The document stays the operator's, and what is done with is not done again.
    assert made.record.group.min_size == 2
    again = planned(made.record, NOW + timedelta(minutes=1))
    assert (again.record.scheduled, again.record.min_size) == (made.record.scheduled, 4)


def test_desired_capacity_is_set_once_and_kept_within_the_bounds() -> None:
    made = planned(record(scheduled_actions=[due(10, desired_capacity=4)]))
    assert made.record.desired_capacity == 4
    lowered = replace(made.record, desired_capacity=3)
    assert planned(lowered, NOW + timedelta(minutes=1)).record.desired_capacity == 3


def test_a_clock_that_steps_back_fires_nothing_twice() -> None:
    actions = [{"name": "hourly", "recurrence": "0 * * * *", "desired_capacity": 4}]
    made = planned(replace(record(scheduled_actions=actions), applied_at=ago(100)))
    assert made.record.desired_capacity == 4
    back = replace(made.record, desired_capacity=2)
    for seconds in (-90.0, -1.0, 0.0, 1.0):
        assert not planned(back, NOW + timedelta(seconds=seconds)).decision.actions[1:]
        assert planned(back, NOW + timedelta(seconds=seconds)).record.scheduled == back.scheduled
    assert planned(back, NOW + timedelta(hours=1)).record.desired_capacity == 4
    # One that was a month ahead for a while doesn't silence the action for a month.
    ahead = replace(back, scheduled=(Scheduled("hourly", NOW + timedelta(days=30), True),))
    assert next_times(ahead, NOW, 1)[0][0] == NOW + timedelta(hours=1)


def test_after_an_outage_the_latest_time_that_each_action_missed_is_done_in_order() -> None:
    actions = [
        {"name": "evening", "recurrence": "0 20 * * *", "min_size": 1, "max_size": 9, "desired_capacity": 8},
        {"name": "morning", "recurrence": "0 8 * * *", "min_size": 3, "max_size": 9, "desired_capacity": 3},
        {"name": "lunch", "recurrence": "0 10 * * *", "duration_seconds": HOUR, "min_size": 5},
    ]
    of = replace(record(desired=4, scheduled_actions=actions), applied_at=ago(10 * 86_400))
    made = planned(of)
    # Lunch is over, the morning has the last word, and nobody who works is sent away for what was due hours ago.
    assert [each.action for each in made.record.scheduled] == ["evening", "morning"]
    assert (made.record.min_size, made.record.max_size, made.record.desired_capacity) == (3, 9, 4)


def test_a_late_desired_capacity_lowers_nothing() -> None:
    late = record(desired=4, scheduled_actions=[due(HOUR / 2, desired_capacity=2)])
    assert planned(late).record.desired_capacity == 4
    assert (
        planned(record(desired=4, scheduled_actions=[due(10, desired_capacity=2)])).record.desired_capacity
        == 2
    )


def test_a_duration_ends_by_itself_and_what_held_before_holds_again() -> None:
    actions = [
        due(2 * MINUTE, min_size=3, max_size=6),
        {
            "name": "rush",
            "start_time": ago(MINUTE).isoformat(),
            "duration_seconds": HOUR,
            "min_size": 5,
            "max_size": 8,
        },
        {
            "name": "calm",
            "start_time": ago(30).isoformat(),
            "duration_seconds": HOUR,
            "min_size": 1,
            "max_size": 4,
        },
    ]
    made = planned(record(scheduled_actions=actions))
    assert (made.record.min_size, made.record.max_size, made.record.desired_capacity) == (5, 8, 5)
    ended = planned(replace(made.record, desired_capacity=8), NOW + timedelta(hours=1))
    assert (ended.record.min_size, ended.record.max_size, ended.record.desired_capacity) == (3, 6, 6)
    assert ended.decision.actions[0] == "scheduled action rush ends: min_size 5, max_size 8"


def test_a_new_action_counts_from_its_document_on_unless_it_would_be_running() -> None:
    past = [
        due(2 * HOUR, min_size=4),
        {**due(2 * HOUR, min_size=3), "name": "day", "duration_seconds": 3 * HOUR},
    ]
    made = planned(record(scheduled_actions=past))  # applied an hour ago
    assert [each.action for each in made.record.scheduled] == ["day"]


def test_a_document_ends_what_it_contradicts_and_nothing_else() -> None:
    rush = {**due(10, min_size=4), "name": "rush", "duration_seconds": HOUR}
    actions = [due(20, max_size=9, min_size=3), rush]
    old = planned(record(scheduled_actions=actions)).record

    def bounds(**keys: Any) -> tuple[int, int]:
        group = record(**{"scheduled_actions": actions, **keys}).group
        applied = replace(old, group=group, applied_at=NOW, scheduled=carried(old, group))
        after = planned(applied, NOW + timedelta(seconds=1)).record
        return after.min_size, after.max_size

    assert bounds() == (4, 9)
    assert bounds(min_healthy_percentage=50) == (4, 9)
    assert bounds(max_size=6) == (4, 6)
    assert bounds(scheduled_actions=[actions[0]]) == (3, 9)
    assert bounds(scheduled_actions=[]) == (2, 5)
    assert bounds(scheduled_actions=[actions[0], {**rush, "min_size": 5}]) == (5, 9)


@pytest.mark.parametrize(
    "times",
    [
        {"start_time": "9999-12-31T23:00:00Z"},
        {"start_time": "9999-12-31T23:00:00Z", "recurrence": "0 8 * * *"},
        {"start_time": "0001-01-01T00:00:00+14:00", "recurrence": "0 8 * * *"},
        {"end_time": "9999-12-31T23:59:59-12:00", "recurrence": "0 8 * * *"},
    ],
)
def test_a_time_at_the_ends_of_the_calendar_that_is_stored_already_breaks_nothing(
    times: dict[str, str],
) -> None:
    stored = record(scheduled_actions=[{"name": "far", "duration_seconds": HOUR, "min_size": 3, **times}])
    assert planned(stored).record.group == stored.group
    for when, action in next_times(stored, NOW, 5):
        assert action.until(when) == when + timedelta(hours=1)


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (
            {"recurrence": "0 8 * *", "min_size": 3},
            ".recurrence: '0 8 * *' has not five fields; write minute, hour",
        ),
        (
            {"recurrence": "0 25 * * *", "min_size": 3},
            ".recurrence: '0 25 * * *' is no cron expression (bad hour)",
        ),
        ({"recurrence": "0 8 30 2 *", "min_size": 3}, ".recurrence: '0 8 30 2 *'"),
        ({"recurrence": "0 8 * * *"}, ": sets nothing; write min_size, max_size or desired_capacity"),
        ({"min_size": 3}, ": has no time; write recurrence, start_time or both"),
        (
            {"start_time": "8 o'clock", "min_size": 3},
            '.start_time: "8 o\'clock" is not a time; write one as 2030',
        ),
        (
            {"recurrence": "0 8 * * *", "time_zone": "Europe/Berln", "min_size": 3},
            ".time_zone: 'Europe/Berln' is no time zone; write Europe/Berlin",
        ),
        (
            {
                "start_time": "2030-01-01T08:00",
                "end_time": "2030-01-01T07:00",
                "min_size": 3,
                "recurrence": "0 8 * * *",
            },
            ".end_time: is not after start_time",
        ),
        (
            {"start_time": "9999-12-31T23:00:00Z", "min_size": 3},
            ".start_time: 9999-12-31T23:00:00+00:00 is out of range; write a time of the years 1970 to 8999",
        ),
        (
            {"recurrence": "0 8 * * *", "end_time": "9999-12-31T23:59:59-12:00", "min_size": 3},
            ".end_time: 9999-12-31T23:59:59-12:00 is out of range",
        ),
        (
            {"recurrence": "0 8 * * *", "start_time": "0001-01-01T00:00:00+14:00", "min_size": 3},
            ".start_time: 0001-01-01T00:00:00+14:00 is out of range",
        ),
        (
            {"recurrence": "0 8 * * *", "duration_seconds": 600, "desired_capacity": 3},
            ".duration_seconds: is given, and no bound that could end; write min_size or max_size, or leave it out",
        ),
        ({"recurrence": "0 8 * * *", "min_size": 4, "max_size": 3}, ".max_size: 3 is below min_size 4"),
        (
            {"recurrence": "0 8 * * *", "min_size": 6},
            ".min_size: 6 is above the group's max_size 5, which may hold then; set max_size in this action too",
        ),
        (
            {"recurrence": "0 8 * * *", "max_size": 2},
            ".max_size: 2 is below other's min_size 3, which may hold then; set min_size in this action too",
        ),
        (
            {"recurrence": "0 8 * * *", "desired_capacity": 6},
            ".desired_capacity: 6 is outside of 2 to 5; set min_size and max_size around it in this action",
        ),
        ({"name": "other", "recurrence": "0 8 * * *", "min_size": 3}, ".name: other stands twice"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_mend(action: dict[str, Any], line: str) -> None:
    other = {"name": "other", "recurrence": "0 9 * * *", "min_size": 3, "max_size": 5}
    document = {"launch": {"image": {"id": IMAGE}}, "scheduled_actions": [other, {"name": "new", **action}]}
    with pytest.raises(SpecError) as caught:
        parse_groups({"web": document})
    (fault,) = caught.value.faults
    assert str(fault).startswith(f"asg_groups.web.scheduled_actions[1]{line}")
