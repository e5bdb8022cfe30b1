"""Both roles by molecule: converge, idempotence, and what a user would see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("role", ["monitor_agent", "controller"])
def test_the_role_holds_what_molecule_asks(role: str) -> None:
    binaries = Path(sys.executable).parent
    done = subprocess.run(
        [str(binaries / "molecule"), "test"],
        cwd=PROJECT / "roles" / role,
        env={
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
            "NO_COLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
