"""Since when somebody is missing, by EC2's answers."""

from controller_asg.engine.view import CloudView


def test_one_that_was_forgotten_and_comes_back_is_not_missing_since_before() -> None:
    view = CloudView()
    view.update([], ["i-1"], asked_at=0.0, came_at=1.0)
    view.update([], ["i-1"], asked_at=100.0, came_at=101.0)
    assert view.missing_seconds("i-1") == 99.0
    view.forget(["i-1"])
    assert view.missing_seconds("i-1") is None
    view.update([], ["i-1"], asked_at=102.0, came_at=103.0)
    assert view.missing_seconds("i-1") == 0.0
