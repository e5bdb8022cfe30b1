"""Rows and model objects: nothing of the model is left out."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controller_asg.model.activity import Activity, LaunchRequest
from controller_asg.model.instance import Instance, Leaving, LifecycleState
from controller_asg.model.lifecycle_hook import OpenHook
from controller_asg.store.rows import (
    group_from_row,
    group_to_row,
    instance_from_row,
    instance_to_row,
    launch_to_document,
)
from controller_asg.store.schema import ACTIVITIES, EPOCH, INSTANCES, UNSTORABLE, from_unix_ms, to_unix_ms
from tests.making import record


def test_a_launch_request_is_journalled_with_every_field() -> None:
    launch = LaunchRequest("a", "web", "v1", 1, "ami-12345678", "t2.micro")
    assert list(launch_to_document(launch)) == [field.name for field in fields(LaunchRequest)]


def test_instances_and_activities_have_a_place_for_every_field() -> None:
    at = datetime(2025, 3, 1, tzinfo=UTC)
    row = instance_to_row(Instance("i-1", "web", LifecycleState.PENDING, at, at, "", "v1"))
    assert list(row) == INSTANCES.columns.keys()
    assert len(row) - len({"memory"}) + len(row["memory"]) == len(fields(Instance))
    assert len(ACTIVITIES.columns) == len(fields(Activity))


def test_what_an_instance_waits_for_comes_back_as_it_was() -> None:
    at = datetime(2025, 3, 1, tzinfo=UTC)
    hook = OpenHook("save", "token", "terminate", at, at, 60.0, "ABANDON", "save.sh", "{}", at, "", "", "out")
    one = Instance(
        "i-1",
        "web",
        LifecycleState.TERMINATING_WAIT,
        at,
        at,
        "",
        "v1",
        leaving=Leaving.SCALE_IN,
        drain_ordered_at=at,
        hooks=(hook, replace(hook, ordered_at=None, result="CONTINUE")),
    )
    row = instance_to_row(one)
    assert instance_from_row({**row, "memory": json.loads(json.dumps(row["memory"]))}) == one
    plain = replace(one, leaving=None, drain_ordered_at=None, hooks=())
    assert instance_from_row({**row, "memory": {}}) == plain, "a row of the release before"


def test_what_a_group_has_of_forecasts_messages_and_missing_data_comes_back_as_it_was() -> None:
    at = datetime(2025, 3, 1, tzinfo=UTC)
    plain = replace(record(), applied_at=at)
    one = replace(plain, forecast_max_size=12, missing_since=(("p", at),), messages=(("burst", "msg_1"),))
    row = group_to_row(one)
    assert group_from_row({**row, "memory": json.loads(json.dumps(row["memory"]))}) == one
    assert group_from_row({**row, "memory": {}}) == plain, "a row of the release before"


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_a_time_comes_back_less_than_a_millisecond_earlier(at: datetime) -> None:
    assert timedelta(0) <= at - from_unix_ms(to_unix_ms(at)) < timedelta(milliseconds=1)


def test_milliseconds_count_from_1970() -> None:
    assert to_unix_ms(EPOCH) == 0
    assert to_unix_ms(datetime(2025, 3, 1, 12, 0, 0, 123999, tzinfo=UTC)) == 1740830400123


@given(words=st.text())
def test_what_is_kept_of_words_is_utf_8_without_nul(words: str) -> None:
    kept = UNSTORABLE.sub("\ufffd", words)
    assert "\x00" not in kept
    assert kept.encode().decode() == kept
    assert len(kept) == len(words)
