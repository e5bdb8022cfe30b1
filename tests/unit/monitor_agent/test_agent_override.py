"""The override of the load: what is accepted, and when it ends."""

import json

import pytest
from agent_world import until

from monitor_agent.faults import FaultsError
from monitor_agent.override import Override, OverrideRequest, check_override, parse_override


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"metric": 0}', OverrideRequest(0.0)),
        ('{"metric": 100}', OverrideRequest(100.0)),
        ('{"metric": 85.5, "seconds": 60}', OverrideRequest(85.5, 60.0)),
        ('{"metric": null}', OverrideRequest(None)),
    ],
)
def test_a_load_from_0_to_100_or_null_is_accepted(body: str, expected: OverrideRequest) -> None:
    assert parse_override(body.encode()) == expected


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('{"metric": "high"}', "metric"),
        ('{"metric": "50"}', "metric"),
        ('{"metric": NaN}', "metric"),
        ('{"metric": Infinity}', "metric"),
        ('{"metric": -1}', "metric"),
        ('{"metric": 101}', "metric"),
        ('{"metric": 100.0001}', "metric"),
        ('{"metric": true}', "metric"),
        ('{"metric": [50]}', "metric"),
        ('{"metric": {}}', "metric"),
        ('{"metric": 1' + "0" * 500 + "}", "metric"),
        ("{}", "metric"),
        ('{"metric": 50, "seconds": 0}', "seconds"),
        ('{"metric": 50, "seconds": -5}', "seconds"),
        ('{"metric": 50, "seconds": null}', "seconds"),
        ('{"metric": 50, "seconds": false}', "seconds"),
        ('{"metric": 50, "seconds": NaN}', "seconds"),
        ('{"metric": 50, "seconds": 1e9}', "seconds"),
        ('{"metric": null, "seconds": 5}', "seconds"),
        ('{"metric": 50, "colour": "red"}', "colour"),
        ("[50]", "body"),
        ("50", "body"),
        ("", "body"),
        ("metric=50", "body"),
        ('{"metric": 50', "body"),
        ("[" * 4000, "body"),
        ('{"metric": 1' + "0" * 4050 + "}", None),
        ("\xff\xfe", "body"),
    ],
)
def test_anything_else_is_refused_with_its_place(body: str, where: str | None) -> None:
    with pytest.raises(FaultsError) as caught:
        parse_override(body.encode("latin-1"))
    fault = caught.value.faults[0]
    assert where is None or fault.where == where
    assert fault.what
    assert len(json.dumps(fault.document())) < 500


def test_all_faults_of_a_body_come_together() -> None:
    with pytest.raises(FaultsError) as caught:
        parse_override(b'{"metric": 101, "seconds": 0, "x": 1}')
    assert {fault.where for fault in caught.value.faults} == {"metric", "seconds", "x"}


def test_a_call_names_its_own_field() -> None:
    with pytest.raises(FaultsError, match="cpu_percent: 101"):
        check_override(101, None, percent_key="cpu_percent")


async def test_an_override_holds_until_it_is_reset() -> None:
    changes: list[float | None] = []
    override = Override(lambda: changes.append(override.cpu_percent))
    override.apply(OverrideRequest(90.0))
    override.apply(OverrideRequest(None))
    assert changes == [90.0, None]


async def test_an_override_with_a_time_ends_by_itself_and_says_so() -> None:
    changes: list[float | None] = []
    override = Override(lambda: changes.append(override.cpu_percent))
    override.apply(OverrideRequest(90.0, 0.01))
    await until(lambda: changes == [90.0, None])


async def test_a_new_override_is_not_ended_by_the_timer_of_the_old_one() -> None:
    changes: list[float | None] = []
    override = Override(lambda: changes.append(override.cpu_percent))
    override.apply(OverrideRequest(90.0, 0.01))
    override.apply(OverrideRequest(80.0))
    override.apply(OverrideRequest(70.0, 0.02))
    await until(lambda: len(changes) == 4)
    assert changes == [90.0, 80.0, 70.0, None]
