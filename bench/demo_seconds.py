"""How long `make demo` takes, in a fresh clone and then again.

The clone is of what is committed here, in a folder of its own with its own virtual environment. What this machine had
before (Debian packages, the base image, pip's cache) makes the first run faster than on a new one; the line says so.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from asg_lab import base_image
from asg_lab.deployment import PROJECT

from bench.figure import Measured, Measurement, Run

FIRST_GOAL_SECONDS, AGAIN_GOAL_SECONDS = 360.0, 90.0
LAB = "demo"  # the name `make demo` uses
PACKAGES = ("podman", "lxcfs", "mmdebstrap", "netavark", "nftables")


def measure(run: Run) -> Iterator[Measured]:
    if _lab_runs():
        raise RuntimeError("a lab named demo is running, and make demo would use it: make down, then again")
    with tempfile.TemporaryDirectory(prefix="demo-figure-") as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
        ).stdout.strip()
        warm = _warm()
        try:
            first = _demo(run, clone)
            again = _demo(run, clone)
        finally:
            _lab_down(clone)
    extra = {"new_machine": False, "warm": warm, "commit": commit}
    yield Measured(
        "demo_first_seconds", first, "s", FIRST_GOAL_SECONDS, first <= FIRST_GOAL_SECONDS, (), extra=extra
    )
    yield Measured(
        "demo_again_seconds", again, "s", AGAIN_GOAL_SECONDS, again <= AGAIN_GOAL_SECONDS, (), extra=extra
    )


def _demo(run: Run, clone: Path) -> float:
    """Seconds of one `make demo`, whose lines go to standard error."""
    started = time.monotonic()
    with subprocess.Popen(
        ["make", "demo"],
        cwd=clone,
        env=_clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            run.say(f"demo | {text.rstrip()}")
    if process.returncode:
        raise RuntimeError(f"make demo ended with {process.returncode}; its lines are above")
    return time.monotonic() - started


def _clean_environment() -> dict[str, str]:
    """Without what belongs to this run of make and to our own virtual environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "FIGURES_", "LAB_", "AWS_"))
        and name not in ("VIRTUAL_ENV", "ONLY")
    }
    ours = str(PROJECT / ".venv/bin")
    kept["PATH"] = os.pathsep.join(p for p in kept["PATH"].split(os.pathsep) if p != ours)
    return kept


def _warm() -> list[str]:
    """What this machine had already of what a new one has to fetch or make."""
    found = []
    if all(_is_installed(package) for package in PACKAGES):
        found.append("Debian packages")
    if (
        shutil.which("podman")
        and not subprocess.run(["podman", "image", "exists", base_image.reference()], check=False).returncode
    ):
        found.append("base image")
    for name, folder in (("pip", "~/.cache/pip"), ("uv", "~/.cache/uv")):
        if Path(folder).expanduser().exists():
            found.append(f"{name}'s cache")
    return found


def _is_installed(package: str) -> bool:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout == "installed"


def _lab_runs() -> bool:
    lab = Path(PROJECT, ".venv/bin/lab")
    return not subprocess.run(
        [str(lab), "status", "--name", LAB], capture_output=True, check=False
    ).returncode


def _lab_down(clone: Path) -> None:
    """Only that lab: others may run beside it."""
    lab = clone / ".venv/bin/lab"
    if lab.exists():
        subprocess.run([str(lab), "down", "--name", LAB], stdout=subprocess.DEVNULL, check=False)


MEASUREMENT = Measurement(("demo_first_seconds", "demo_again_seconds"), measure)
