"""What all tests share."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling


class _TwoLanes(LoadScopeScheduling):
    """One worker has the deployed system, another all else that runs on machines."""

    def _split_scope(self, nodeid: str) -> str:
        return "deployed" if "/e2e/" in nodeid and "molecule" not in nodeid else "beside it"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return _TwoLanes(config, log) if config.getvalue("dist") == "loadscope" else None
