"""One deployed system for all end-to-end tests: a lab of its own, beside any other, and site.yml run on it."""

import contextlib
import os
import subprocess
from collections.abc import Generator, Iterator

import pytest
from asg_lab.deployment import Deployment, wait_until

# Two groups that differ from the example's in sizes and thresholds, and calm enough that only tests change them.
WARMUP_SECONDS = 15
# What an instance of each group says of its load so that nothing changes.
CALM = {"web": 45, "worker": 58}
GROUPS = {
    "web": {
        "min_size": 2,
        "max_size": 5,
        "default_instance_warmup_seconds": WARMUP_SECONDS,
        "policies": [
            {
                "type": "thresholds",
                "create_above": 75,
                "delete_below": 15,
                "scale_out_cooldown_seconds": 30,
                "scale_in_cooldown_seconds": 5,
            }
        ],
    },
    "worker": {
        "min_size": 1,
        "max_size": 7,
        "default_instance_warmup_seconds": WARMUP_SECONDS,
        "policies": [{"type": "target_tracking", "metric": "cpu_percent", "target": 60, "window_seconds": 2}],
        "launch": {"tags": {"team": "blue"}},
    },
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the controller did meanwhile: its machine is gone by the end of the run."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("deployment")
    if report.failed and lab is not None:
        journal = ("journalctl", "-u", "controller-asg", "-n", "80", "--no-pager")
        with contextlib.suppress(LookupError, subprocess.SubprocessError):
            report.sections.append(
                ("the controller's journal", lab.execute(lab.controller_id, *journal).stdout)
            )
    return report


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """Started once, taken down at the end whatever happened."""
    lab = Deployment(f"e2e{os.getpid()}")
    lab.start()
    try:
        lab.play("site.yml", extra_vars={"asg_groups": GROUPS})
        at_rest(lab)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def fleet(deployment: Deployment) -> Iterator[Deployment]:
    """The system at rest: no fault, every group settled, every instance calm and past its warmup."""
    deployment.fault("clear")
    at_rest(deployment)
    yield deployment
    deployment.fault("clear")


def at_rest(deployment: Deployment) -> None:
    """Every group at its minimum, and every instance pinned to a load that changes nothing."""

    def calm() -> bool:
        groups = deployment.groups()
        for group, metric in CALM.items():
            for member in deployment.members(group):
                deployment.set_metric(member["instance_id"], metric)
            if groups[group]["desired_capacity"] > groups[group]["min_size"]:
                deployment.controller("set-desired", group, str(groups[group]["min_size"]))
        return all(
            deployment.settled(group) and groups[group]["desired_capacity"] == groups[group]["min_size"]
            for group in groups
        )

    wait_until("the groups at rest", calm, 180, every=1)
    wait_until("every warmup over", lambda: all(map(deployment.warm, GROUPS)), 60, every=0.5)
