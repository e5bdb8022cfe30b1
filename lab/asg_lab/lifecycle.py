"""Starting and ending labs, and sweeping what a lab that died left behind.

A lab that lives holds its lock; a folder, machines or a network without a held lock are leftovers. Ending is the same
as sweeping, after the daemon was asked to go: there is one way to remove things, and it copes with half of them.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from asg_lab import base_image, control, host, locks, network, paths, resolver, state
from asg_lab.command import podman
from asg_lab.errors import LabError
from asg_lab.network import LABEL
from asg_lab.progress import say, waiting_for
from asg_lab.state import LabInfo, Options

READY_SECONDS = 60.0
ANOTHER_START_SECONDS = 300.0  # the base image may be in the making
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")


def start(name: str, options: Options) -> LabInfo:
    """A running lab of that name, started when there is none."""
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} is no lab's name; use small letters, digits and -, 24 at most")
    lock = locks.try_lab_lock(name)
    if lock is None:
        info = _wait_until_ready(name, None, ANOTHER_START_SECONDS)
        say(f"{name} is running: {info.endpoint_url}")
        return info
    try:
        with locks.host_lock():
            host.prepare()
            image = base_image.ensure()
        if _has_leftovers(name):
            say(f"sweeping what an earlier {name} left")
            _sweep(name)
        made = network.create(name)
        daemon = _spawn(name, image, made, options, lock)
    finally:
        os.close(lock)  # the daemon has its own copy
    info = _wait_until_ready(name, daemon, READY_SECONDS)
    say(f"{name} is ready: {info.endpoint_url}, instances in {info.vpc_cidr}")
    return info


def prepare() -> str:
    """Host and base image without a lab (molecule runs single machines so); returns the image's name."""
    with locks.host_lock():
        host.prepare()
        return base_image.ensure()


def stop(name: str) -> bool:
    """End a lab and remove all of it; False when there was nothing."""
    lock = locks.try_lab_lock(name)
    if lock is None:
        _end_daemon(name)
        lock = _take_lock(name)
    try:
        found = _has_leftovers(name)
        if found:
            with waiting_for(f"removing {name}"):
                _sweep(name)
        (paths.run_directory() / f"{name}.lock").unlink(missing_ok=True)
    finally:
        os.close(lock)
    return found


def put_host_back() -> bool:
    """Put the host's settings back, unless a lab lives or left machines; False then."""
    with locks.host_lock():
        if any(locks.is_alive(name) for name in locks.known_labs()):
            return False
        if podman("ps", "-aq", "--filter", f"label={LABEL}", check=False).strip():
            return False
        if "/proc/stat" in podman("ps", "--format", "{{.Mounts}}", check=False):
            return False  # a machine outside of any lab (molecule's) lives on our lxcfs
        host.put_back()
        return True


def all_names() -> list[str]:
    """Labs that live or left something."""
    names = set(locks.known_labs())
    if paths.state_root().is_dir():
        names |= {folder.name for folder in paths.state_root().iterdir() if folder.is_dir()}
    listed = podman("ps", "-a", "--filter", f"label={LABEL}", "--format", "{{.Labels}}", check=False)
    names |= set(re.findall(rf"{LABEL}:([a-z0-9-]+)", listed))
    return sorted(names)


def _has_leftovers(name: str) -> bool:
    return (
        paths.state_directory(name).exists()
        or bool(podman("ps", "-aq", "--filter", f"label={LABEL}={name}", check=False).strip())
        or network.network_name(name) in podman("network", "ls", "--format", "{{.Name}}", check=False).split()
    )


def _sweep(name: str) -> None:
    """Remove machines, network, nft tables, AMIs and the state folder of a lab that does not live."""
    machines = podman("ps", "-aq", "--filter", f"label={LABEL}={name}", check=False).split()
    if machines:
        podman("rm", "-f", "-v", "-t", "0", *machines, timeout_seconds=300, check=False)
    left = podman("ps", "-aq", "--filter", f"label={LABEL}={name}", check=False).split()
    for container in left:
        podman("rm", "-f", "-v", "-t", "0", container)
    network.remove(name)
    listed = podman("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", check=False).split()
    images = [image for image in listed if image.startswith(f"localhost/asg-lab-{name}:")]
    if images:
        podman("rmi", "-f", *images, check=False)
    paths.control_socket(name).unlink(missing_ok=True)
    shutil.rmtree(paths.state_directory(name), ignore_errors=True)


def _spawn(
    name: str, image: str, made: network.Network, options: Options, lock: int
) -> "subprocess.Popen[bytes]":
    folder = paths.state_directory(name)
    folder.mkdir(parents=True, exist_ok=True)
    host_options = host.options() + ([] if options.egress else [f"--dns={resolver.ADDRESS}"])
    memory_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    settings = {
        "options": asdict(options),
        "network": asdict(made),
        "base_image": image,
        "host_options": host_options,
        "host_memory_mib": memory_kib // 1024,
    }
    (folder / "daemon.json").write_text(json.dumps(settings, indent=2))
    package_parent = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": package_parent, "PYTHONUNBUFFERED": "1"}
    for variable in list(environment):
        if variable.startswith("AWS_"):  # the daemon must not call itself, nor anyone else
            del environment[variable]
    with (folder / "daemon.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "asg_lab.daemon", name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock],
            env=environment,
            cwd="/",
        )


def _wait_until_ready(name: str, daemon: "subprocess.Popen[bytes] | None", seconds: float) -> LabInfo:
    deadline = time.monotonic() + seconds
    with waiting_for(f"waiting for {name}"):
        while time.monotonic() < deadline:
            info = state.load(name)
            if info is not None and Path(f"/proc/{info.pid}").exists():
                with contextlib.suppress(
                    LabError
                ):  # a lab.json of before a reboot; whoever has the lock sweeps it
                    control.ask(name, "ping")
                    return info
            if daemon is not None and daemon.poll() is not None:
                break
            time.sleep(0.05)
    log = paths.state_directory(name) / "daemon.log"
    last = log.read_text(errors="replace")[-1500:] if log.exists() else ""
    raise LabError(f"lab {name} did not become ready; see {log}\n{last}")


def _end_daemon(name: str) -> None:
    state_before = state.load(name)
    state.forget(name)
    try:
        control.ask(name, "shutdown")
    except LabError:
        if state_before is not None and _is_daemon(state_before.pid, name):
            os.kill(state_before.pid, 9)


def _is_daemon(pid: int, name: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"asg_lab.daemon" in command and name.encode() in command


def _take_lock(name: str) -> int:
    deadline = time.monotonic() + 30
    while (lock := locks.try_lab_lock(name)) is None:
        if time.monotonic() > deadline:
            raise LabError(f"lab {name} is being started or does not end; see its daemon.log")
        time.sleep(0.05)
    return lock
