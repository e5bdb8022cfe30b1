"""A copy of the product with a bug planted in it, and the command that looks for broken invariants there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
PLANTED = PROJECT / "tests/simulation/planted"
# A planted bug must be found within so many seeds.
SEEDS = 2_000


def names() -> list[str]:
    return sorted(patch.stem for patch in PLANTED.glob("*.patch"))


def hunt(name: str, folder: Path, seeds: int = SEEDS) -> dict[str, Any]:
    """Simulate with the bug until an invariant breaks; what `controller-asg simulate --json` says.

    The patch says which seed found it first. That one is tried before all others, for most worlds don't reach the bug.
    """
    shutil.copytree(
        PROJECT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    patch = PLANTED / f"{name}.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
    known = re.search(r"^Found first by seed (\d+)\.", patch.read_text())
    if known is not None:
        said = _simulate(folder, "--seed", known[1])
        if said["broken"]:
            return said
    return _simulate(folder, "--seeds", str(seeds))


def _simulate(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from controller_asg.cli import main; main()",
            *("simulate", "--until-broken", "--jobs", "1", "--json", *arguments),
        ],
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said
