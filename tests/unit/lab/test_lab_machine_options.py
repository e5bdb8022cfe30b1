"""Which options make a machine: the one choice that depends on the host, and can't be tried on every kind of it."""

from pathlib import Path

from asg_lab.machine_options import (
    Cgroups,
    cgroups_of,
    containers_conf,
    machine_options,
    may_raise_limits,
    runtime_for,
)

LXCFS = Path("/run/lxcfs-for-test")


def test_pure_v2_is_told_from_hybrid() -> None:
    assert cgroups_of("cgroup2fs\n") is Cgroups.V2
    assert cgroups_of("tmpfs\n") is Cgroups.HYBRID


def test_hybrid_hosts_never_use_crun() -> None:
    assert runtime_for(Cgroups.HYBRID, ["crun", "runc"]) == "runc"
    assert runtime_for(Cgroups.V2, ["crun", "runc"]) == "crun"
    assert runtime_for(Cgroups.V2, ["runc"]) == "runc"


def test_cgroups_are_bound_on_hybrid_hosts_only() -> None:
    bound = [each for each in machine_options(Cgroups.HYBRID, LXCFS) if "/sys/fs/cgroup/" in each]
    assert len(bound) == 4
    assert not [each for each in machine_options(Cgroups.V2, LXCFS) if "/sys/fs/cgroup" in each]


def test_no_machine_is_privileged_or_has_a_cgroup_namespace_of_its_own() -> None:
    for cgroups in Cgroups:
        text = " ".join(machine_options(cgroups, LXCFS))
        assert "privileged" not in text
        assert "cgroupns" not in text
        assert f"{LXCFS}/proc/stat:/proc/stat:ro" in text


def test_limits_stay_low_without_the_capability_to_raise_them() -> None:
    assert may_raise_limits(1 << 24)
    assert not may_raise_limits(0x1FFFEFFFFFF)
    low = containers_conf("runc", raise_limits=False, systemd_is_init=False)
    assert "nofile=1024:4096" in low
    assert 'cgroup_manager = "cgroupfs"' in low
    high = containers_conf("crun", raise_limits=True, systemd_is_init=True)
    assert 'runtime = "crun"' in high
    assert 'cgroup_manager = "systemd"' in high
    assert '4096"' not in high.split("nproc")[0]
