"""What changed documents would have done with the last day: computed beside the loop, for those it can be told of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller_asg.api import yesterday
from controller_asg.engine.applying import shown
from controller_asg.engine.controller import Applied
from controller_asg.model.record import DemandMinute
from tests.fake_controller import FakeController

pytestmark = pytest.mark.process


@pytest.fixture
def controller() -> FakeController:
    """With seven hours of a demand of 3 instances, which rises to 6 for an hour."""
    controller, begin = FakeController(), datetime.now(UTC) - timedelta(hours=7, minutes=1)
    controller.minutes = [
        DemandMinute("web", begin + timedelta(minutes=n), 6.0 if 180 <= n < 240 else 3.0, 4.0)
        for n in range(420)
    ]
    return controller


@pytest.fixture(autouse=True)
def _all_the_time_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yesterday, "LIMIT_SECONDS", 60.0)


def changed(controller: FakeController, **keys: Any) -> Applied:
    record = controller.records["web"]
    before = shown(replace(record.group, min_size=4, max_size=9, policies=()), record.image_id)
    return Applied("web", before, {**before, **keys}, 2)


async def test_both_documents_are_rehearsed_at_what_was_recorded(controller: FakeController) -> None:
    found = await yesterday.rehearse_yesterday(controller, [changed(controller, min_size=6)])
    before, after = found["web"].before, found["web"].after
    assert found["web"].recorded_minutes == 420
    # Without a policy the size of the begin stays, within the bounds.
    assert before.instance_hours == pytest.approx(4 * 7, rel=0.02)
    assert before.under_percent == pytest.approx(100 / 7, rel=0.02)
    assert after.instance_hours == pytest.approx(6 * 7, rel=0.02)
    assert (after.under_percent, after.changes) == (0.0, 0)


async def test_nothing_is_said_of_what_is_unknown_unchanged_or_scales_by_another_metric(
    controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_memory = {"type": "target_tracking", "metric": "memory_percent", "target": 60}
    unknown = replace(changed(controller), name="web", before=None)
    others = [unknown, changed(controller), changed(controller, policies=[by_memory])]
    with monkeypatch.context() as patched:
        patched.setattr(yesterday, "COMMAND", ("-c", "raise SystemExit(1)"))
        with capture_logs() as told:
            assert await yesterday.rehearse_yesterday(controller, others) == {}
        assert told == []
        with capture_logs() as told:
            assert await yesterday.rehearse_yesterday(controller, [changed(controller, max_size=8)]) == {}
        assert [line["event"] for line in told] == ["yesterday_failed"], (
            "a failure is told and refuses nothing"
        )
    controller.minutes = controller.minutes[-359:]
    assert await yesterday.rehearse_yesterday(controller, [changed(controller, max_size=8)]) == {}
