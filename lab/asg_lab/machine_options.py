"""Which podman options make a container a machine: the one place that knows of cgroup versions.

Measured on a hybrid host (systemd's hierarchy beside cgroup v1) with runc 1.1 and systemd 252 inside. Leaving out one
of the capabilities or binds does not fail: systemd then silently drops ProtectSystem, MemoryMax or CPUQuota.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

LXCFS_PROC = ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps", "uptime")
# Without cpuacct systemd ignores CPUQuota without a word.
V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
CAP_SYS_RESOURCE = 24


class Cgroups(StrEnum):
    """How the host mounts cgroups."""

    V2 = "v2"
    HYBRID = "hybrid"  # v1 with or without the unified hierarchy beside it


def cgroups_of(filesystem: str) -> Cgroups:
    """From what `stat -fc %T /sys/fs/cgroup` says: cgroup2fs is pure v2, tmpfs is v1 or hybrid."""
    return Cgroups.V2 if filesystem.strip() == "cgroup2fs" else Cgroups.HYBRID


def runtime_for(cgroups: Cgroups, installed: Sequence[str]) -> str:
    """crun fails on hybrid cgroups (podman 4.3), so runc there; on v2 podman's own default, crun, comes first."""
    wanted = ("crun", "runc") if cgroups is Cgroups.V2 else ("runc",)
    for runtime in wanted:
        if runtime in installed:
            return runtime
    return wanted[-1]


def may_raise_limits(effective_capabilities: int) -> bool:
    """True with CAP_SYS_RESOURCE. Without it runc fails: error setting rlimit type 7."""
    return bool(effective_capabilities >> CAP_SYS_RESOURCE & 1)


def containers_conf(runtime: str, *, raise_limits: bool, systemd_is_init: bool) -> str:
    """podman's settings: runtime, limits, and no use of a systemd that is not there."""
    open_files = "1024:524288" if raise_limits else "1024:4096"
    processes = "4096:65536" if raise_limits else "1024:4096"
    manager = "systemd" if systemd_is_init else "cgroupfs"
    return (
        "[engine]\n"
        f'runtime = "{runtime}"\n'
        f'cgroup_manager = "{manager}"\n'
        'events_logger = "file"\n'
        "[containers]\n"
        f'default_ulimits = ["nofile={open_files}", "nproc={processes}"]\n'
    )


def machine_options(cgroups: Cgroups, lxcfs: Path) -> list[str]:
    """Options of `podman run` that every machine gets.

    Never --privileged: it brings the host's disks in and enforces no more than these. Never --cgroupns=private on v1:
    all machines' units would land in the host's own /system.slice.
    """
    options = [
        "--tty",  # else the console is empty
        "--systemd=always",
        "--no-hosts",
        "--stop-signal=SIGRTMIN+3",
        "--cap-add=SYS_ADMIN,SYS_NICE,NET_ADMIN,NET_RAW",
    ]
    if cgroups is Cgroups.HYBRID:
        options += [f"--volume=/sys/fs/cgroup/{name}:/sys/fs/cgroup/{name}:rw" for name in V1_CONTROLLERS]
    options += [f"--volume={lxcfs}/proc/{name}:/proc/{name}:ro" for name in LXCFS_PROC]
    cpu = "/sys/devices/system/cpu"
    options.append(f"--volume={lxcfs}{cpu}:{cpu}:ro")
    return options
