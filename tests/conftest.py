"""What all tests share."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: one worker has the deployed system, the other all else that runs on machines."""
    for item in items:
        deployed = "deployment" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("deployment" if deployed else "beside"))
