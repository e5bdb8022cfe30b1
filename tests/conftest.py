"""What all tests share."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling


class _TwoLanes(LoadScopeScheduling):
    """Each worker has a deployed system; the second one's comes after all else that runs on machines."""

    def _split_scope(self, nodeid: str) -> str:
        first = "/e2e/" in nodeid and not any(part in nodeid for part in ("molecule", "/test_6_"))
        return "deployed" if first else "beside it"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return _TwoLanes(config, log) if config.getvalue("dist") == "loadscope" else None
