"""What the lab changes on the host, and putting it back.

Shared by all labs: inotify limits, one lxcfs, podman's private settings. What was there before is kept in the run
folder, which a reboot empties along with the changes. Call these under `locks.host_lock()`.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from asg_lab import machine_options, paths
from asg_lab.command import podman, run
from asg_lab.errors import LabError
from asg_lab.machine_options import Cgroups

# With the default of 128 instances, about 22 machines run; the next systemd exits at once, without a word.
RAISED = {"fs.inotify.max_user_instances": 8192, "fs.inotify.max_user_watches": 1048576}
# netavark turns forwarding on when the first machine gets its address and leaves it on.
CHANGED_BY_OTHERS = ("net.ipv4.ip_forward",)
NEEDED = ("podman", "conmon", "nft", "iptables", "ip", "lxcfs", "mmdebstrap", "zstd", "nsenter")


def cgroups() -> Cgroups:
    """How this host mounts cgroups."""
    return machine_options.cgroups_of(run(["stat", "-fc", "%T", "/sys/fs/cgroup"]))


def options() -> list[str]:
    """podman's options for a machine on this host."""
    return machine_options.machine_options(cgroups(), paths.lxcfs_mount())


def prepare() -> None:
    """Make the host fit for machines. Safe to call again; it repairs a dead lxcfs."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}; run lab/install-host")
    paths.run_directory().mkdir(mode=0o755, exist_ok=True)
    _write_containers_conf()
    _remember()
    for key, wanted in RAISED.items():
        if int(_sysctl(key)) < wanted:
            _set_sysctl(key, str(wanted))
    _start_lxcfs()


def put_back() -> None:
    """Undo `prepare`. Only when no lab lives: a machine whose lxcfs ends loses its /proc/stat."""
    _stop_lxcfs()
    remembered = _remembered_file()
    if remembered.exists():
        before = json.loads(remembered.read_text())
        for key, value in before["sysctl"].items():
            if key in CHANGED_BY_OTHERS and Path("/sys/class/net/docker0").exists():
                continue  # Docker came after us, and needs forwarding
            _set_sysctl(key, value)
        if not before["netavark"] and not _other_containers():
            _remove_netavark_chains()
        remembered.unlink()
    paths.containers_conf().unlink(missing_ok=True)


def _sysctl_path(key: str) -> Path:
    return Path("/proc/sys") / key.replace(".", "/")


def _sysctl(key: str) -> str:
    return _sysctl_path(key).read_text().strip()


def _set_sysctl(key: str, value: str) -> None:
    _sysctl_path(key).write_text(value)


def _remembered_file() -> Path:
    return paths.run_directory() / "host-before.json"


def _remember() -> None:
    """Keep the host's values from before the first lab; a second lab must not take the first one's for them."""
    if _remembered_file().exists():
        return
    before = {
        "sysctl": {key: _sysctl(key) for key in (*RAISED, *CHANGED_BY_OTHERS)},
        "netavark": "NETAVARK" in run(["iptables-save"], check=False),
    }
    _remembered_file().write_text(json.dumps(before))


def _write_containers_conf() -> None:
    installed = [runtime for runtime in ("crun", "runc") if shutil.which(runtime)]
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.split("CapEff:")[1].split()[0], 16)
    text = machine_options.containers_conf(
        machine_options.runtime_for(cgroups(), installed),
        raise_limits=machine_options.may_raise_limits(capabilities),
        systemd_is_init=Path("/run/systemd/system").is_dir(),
    )
    paths.containers_conf().write_text(text)


def _lxcfs_answers() -> bool:
    """A dead lxcfs leaves its mount behind, and reading it gives "Transport endpoint is not connected"."""
    try:
        return bool((paths.lxcfs_mount() / "proc/stat").read_text())
    except OSError:
        return False


def _start_lxcfs() -> None:
    if _lxcfs_answers():
        return
    _stop_lxcfs()
    paths.lxcfs_mount().mkdir(exist_ok=True)
    pid_file = paths.run_directory() / "lxcfs.pid"
    log_file = paths.run_directory() / "lxcfs.log"
    with log_file.open("ab") as log:
        started = subprocess.Popen(
            [
                "lxcfs",
                "--enable-cfs",
                "--enable-loadavg",
                "--pidfile",
                str(pid_file),
                str(paths.lxcfs_mount()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    deadline = time.monotonic() + 10
    while not _lxcfs_answers():
        if time.monotonic() > deadline or started.poll() is not None:
            raise LabError(f"lxcfs does not answer; see {log_file}")
        time.sleep(0.02)


def _stop_lxcfs() -> None:
    pid_file = paths.run_directory() / "lxcfs.pid"
    if pid_file.exists():
        pid = int(pid_file.read_text().strip() or 0)
        if pid and _is_lxcfs(pid):
            os.kill(pid, signal.SIGTERM)
            _wait_for_end(pid)
        pid_file.unlink(missing_ok=True)
    mounts = Path("/proc/mounts").read_text()
    if f" {paths.lxcfs_mount()} " in mounts:
        run(["umount", "-l", str(paths.lxcfs_mount())], check=False)


def _is_lxcfs(pid: int) -> bool:
    """True when the process is ours: a pid from a file may have been given to another one since."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"lxcfs" in command and str(paths.lxcfs_mount()).encode() in command


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 5
    while _is_lxcfs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _other_containers() -> bool:
    return bool(podman("ps", "-q", check=False).strip())


def _remove_netavark_chains() -> None:
    """Drop the chains netavark leaves behind when the last network is gone."""
    for table in ("nat", "filter"):
        saved = run(["iptables-save", "-t", table], check=False).splitlines()
        for line in saved:
            if line.startswith("-A") and "NETAVARK" in line and not line.startswith("-A NETAVARK"):
                run(["iptables", "-t", table, "-D", *shlex.split(line)[1:]], check=False)
        chains = [line[1:].split()[0] for line in saved if line.startswith(":NETAVARK")]
        for chain in chains:
            run(["iptables", "-t", table, "-F", chain], check=False)
        for chain in chains:
            run(["iptables", "-t", table, "-X", chain], check=False)
