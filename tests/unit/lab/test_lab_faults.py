"""Faults end when they should."""

from asg_lab.faults import ANY_ACTION, Faults, Kind


def test_a_counted_fault_meets_so_many_calls() -> None:
    faults = Faults()
    faults.add(Kind.THROTTLE, action="RunInstances", calls_left=2)
    assert not faults.take("DescribeInstances")
    assert [len(faults.take("RunInstances")) for _ in range(3)] == [1, 1, 0]
    assert not faults.active()


def test_a_timed_fault_ends_by_itself() -> None:
    now = [100.0]
    faults = Faults(clock=lambda: now[0])
    faults.add(Kind.ERROR, action=ANY_ACTION, error_code="Unavailable", until_unix=105.0)
    assert faults.take("StopInstances")
    now[0] = 105.0
    assert not faults.take("StopInstances")


def test_capacity_is_bounded_by_zone_and_type() -> None:
    faults = Faults()
    faults.add(Kind.CAPACITY, zone="us-east-1a", instance_type="t2.micro", limit=3)
    faults.add(Kind.CAPACITY, zone="us-east-1a", instance_type=None, limit=1)
    assert faults.capacity_limit("us-east-1a", "t2.micro") == 1
    assert faults.capacity_limit("us-east-1b", "t2.micro") is None


def test_an_instances_faults_end_with_it() -> None:
    undone: list[str] = []
    faults = Faults()
    faults.add(Kind.CUT, instance_id="i-1", undo=lambda: undone.append("mended"))
    kept = faults.add(Kind.FREEZE, instance_id="i-2")
    ended = faults.forget_instance("i-1")
    assert [fault.kind for fault in ended] == [Kind.CUT]
    assert faults.active() == [kept]
    assert "undo" not in ended[0].describe()
    for fault in ended:
        assert fault.undo is not None
        fault.undo()
    assert undone == ["mended"]
