"""A module as Ansible runs it: a process of its own, arguments in, one JSON document out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
Run = Callable[..., dict[str, Any]]


def run_module(utilities: Path, module: str, check: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    """The module's result. `utilities` makes it find this project's module_utils, as Ansible does."""
    arguments = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    done = subprocess.run(
        [
            sys.executable,
            str(PROJECT / "library" / f"{module}.py"),
            json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(utilities), str(PROJECT / "src")))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    # On its way to Ansible a warning is an event with its text inside.
    result["warnings"] = [warning["event"]["msg"] for warning in result.get("warnings", [])]
    return result
