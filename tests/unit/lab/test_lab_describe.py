"""Pages, filters, tokens: the parts of the EC2 answers that need no machine."""

from dataclasses import dataclass, field

import pytest
from asg_lab import ec2_patches

ec2_patches.prepare_moto()  # before anything below imports moto

from asg_lab.describe import _matches, paged  # noqa: E402
from asg_lab.lag import History  # noqa: E402
from asg_lab.launch import fingerprint  # noqa: E402
from asg_lab.pool import Check  # noqa: E402
from moto.ec2.exceptions import EC2ClientError  # noqa: E402


@dataclass
class _State:
    name: str = "running"


@dataclass
class _Instance:
    id: str
    _state: _State = field(default_factory=_State)
    state_reason: str = ""
    nics: dict[int, str] = field(default_factory=dict)

    def get_tags(self) -> list[str]:
        return []


@dataclass
class _Reservation:
    id: str
    instances: list[_Instance]


def _reservations() -> list[_Reservation]:
    return [_Reservation(f"r-{r}", [_Instance(f"i-{r}{n}") for n in range(4)]) for r in range(3)]


def test_pages_count_instances_and_may_cut_a_reservation() -> None:
    token, seen = None, []
    while True:
        page, token = paged(_reservations(), 5, token)
        seen.append([each.id for reservation in page for each in reservation.instances])
        if token is None:
            break
    assert [len(ids) for ids in seen] == [5, 5, 2]
    assert len({instance_id for ids in seen for instance_id in ids}) == 12


def test_a_page_outside_of_the_limits_is_refused() -> None:
    for limit in (4, 1001):
        with pytest.raises(EC2ClientError):
            paged(_reservations(), limit, None)
    with pytest.raises(EC2ClientError):
        paged(_reservations(), 5, "garbage")


def test_filters_know_wildcards_lists_and_booleans() -> None:
    assert _matches("web-1", ["web-*"])
    assert not _matches(None, ["*"])
    assert _matches(["sg-1", "sg-2"], ["sg-2"])
    assert _matches(True, ["true"])


def test_a_fingerprint_leaves_the_token_out() -> None:
    one = fingerprint({"ClientToken": ["a"], "MaxCount": ["1"]})
    assert one == fingerprint({"MaxCount": ["1"], "ClientToken": ["b"]})
    assert one != fingerprint({"MaxCount": ["2"], "ClientToken": ["a"]})


def test_a_lagging_view_is_as_old_as_asked() -> None:
    now = [0.0]
    history = History(clock=lambda: now[0])
    instance = _Instance("i-1", _State("pending"))
    world = [_Reservation("r-1", [instance])]

    def states() -> list[str]:
        return [each._state.name for r in history.view(5.0) or [] for each in r.instances]

    history.take(world, 5.0, lambda _: Check.OK)
    now[0] = 1.0
    instance._state.name = "running"
    history.take(world, 5.0, lambda _: Check.OK)
    assert states() == ["pending"]
    now[0] = 5.9
    assert states() == ["pending"]
    now[0] = 6.0
    assert states() == ["running"]
