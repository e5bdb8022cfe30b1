"""Whose agents may speak, by the lifecycle state of their instances."""

import pytest

from controller_asg.engine.members import may_speak
from controller_asg.model.clock import SystemClock
from controller_asg.model.instance import LifecycleState
from controller_asg.monitor.fleet import Fleet, WatchSettings
from controller_asg.monitor.session import SessionEnded
from tests.making import cloud, instance


class NoPinger:
    async def ping(self, instance_id: str, address: str, port: int, timeout_seconds: float) -> str | None:
        raise AssertionError("nobody watches here")


async def test_an_instance_in_terminating_wait_keeps_its_session_and_may_open_another() -> None:
    fleet = Fleet(SystemClock(), NoPinger(), WatchSettings(2.5, 1.0, 1.0, 10.0), lambda group, why: None)
    one = instance(1).instance_id

    def enter(state: LifecycleState) -> None:
        fleet.expect(may_speak([instance(1, state)], {}))

    enter(LifecycleState.IN_SERVICE)
    fleet.register(one, 7401, "0.1.0", "boot-1")
    session = fleet.open(one, 7401, "0.1.0", "boot-1")
    enter(LifecycleState.TERMINATING_WAIT)
    session.drain_progress(True, 0, "")
    drained = fleet.view("web")[one].drained
    assert drained is not None
    assert drained.exit_code == 0
    session.close()
    fleet.register(one, 7401, "0.1.0", "boot-1")
    session = fleet.open(one, 7401, "0.1.0", "boot-1")
    enter(LifecycleState.TERMINATING_PROCEED)
    assert fleet.member(one) is None
    with pytest.raises(SessionEnded, match="in no group any more"):
        await session.next_order()


def test_only_the_silence_of_those_that_serve_counts_before_they_were_heard() -> None:
    members = may_speak([instance(number, state) for number, state in enumerate(LifecycleState)], {})
    watched = {member.instance_id: member.watch for member in members}
    states = {instance(number).instance_id: state for number, state in enumerate(LifecycleState)}
    assert {states[name] for name, watch in watched.items() if watch} == {LifecycleState.IN_SERVICE}
    assert {states[name] for name in states.keys() - watched.keys()} == {
        LifecycleState.TERMINATING,
        LifecycleState.TERMINATING_PROCEED,
        LifecycleState.TERMINATED,
    }


def test_the_address_is_ec2s_and_else_the_last_one_known() -> None:
    known, moved = instance(1), instance(2)
    seen = cloud(instance(2, private_ip="172.31.9.9"))
    addresses = [member.private_ip for member in may_speak([known, moved], {moved.instance_id: seen})]
    assert addresses == [known.private_ip, "172.31.9.9"]
