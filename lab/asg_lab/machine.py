"""One machine: a container that runs systemd, driven through podman.

These functions block (0.1 to 1 s) and hold no state; `pool` decides when to call them and keeps what is known of each
machine. Binds, capabilities and limits are not part of an image, so every run passes all of them.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from asg_lab.command import podman, run
from asg_lab.network import LABEL

INSTANCE_LABEL = "asg-instance"
BOOT_CPUS = 1.0  # cloud-init and sshd's key take about 2.3 CPU-seconds
STOP_SECONDS = 20  # EC2 gives the system about 30 s before it pulls the plug
CONSOLE_BYTES = 65536  # what EC2 keeps of a console
KILLED = 128 + 9

# Each machine's own pressure files are in its cgroup; /proc/pressure is the host's.
PRESSURE_SCRIPT = """
[ -e /proc/pressure/cpu ] || exit 0
own=$(sed -n 's/^0:://p' /proc/1/cgroup | sed 's#/init.scope$##')
for root in /sys/fs/cgroup/unified /sys/fs/cgroup; do
  if [ -e "$root$own/cpu.pressure" ]; then
    for kind in cpu io memory; do
      mountpoint -q /proc/pressure/$kind || mount --bind "$root$own/$kind.pressure" /proc/pressure/$kind
    done
    exit 0
  fi
done
"""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is made from."""

    lab: str
    instance_id: str
    image: str
    network: str
    address: str
    mac_address: str
    memory_mib: int
    folder: Path  # its console and pid file

    @property
    def container(self) -> str:
        """podman's name of the machine."""
        return container_name(self.lab, self.instance_id)


def container_name(lab: str, instance_id: str) -> str:
    """podman's name of an instance's machine."""
    return f"{lab}-{instance_id}"


def create_and_boot(spec: MachineSpec, host_options: list[str]) -> int:
    """Boot a new machine and return the pid of its systemd."""
    spec.folder.mkdir(parents=True, exist_ok=True)
    podman(
        *("run", "--detach", "--pull=never", "--name", spec.container),
        *("--hostname", "ip-" + spec.address.replace(".", "-")),
        *("--network", spec.network, "--ip", spec.address, "--mac-address", spec.mac_address),
        *("--label", f"{LABEL}={spec.lab}", "--label", f"{INSTANCE_LABEL}={spec.instance_id}"),
        *(f"--memory={spec.memory_mib}m", f"--cpus={BOOT_CPUS:g}"),
        *("--log-driver=k8s-file", f"--log-opt=path={spec.folder / 'console.log'}", "--log-opt=max-size=1mb"),
        f"--pidfile={spec.folder / 'pid'}",
        *host_options,
        spec.image,
    )
    return _pid(spec.folder)


def start(container: str, folder: Path) -> int:
    """Boot a stopped machine and return the pid of its systemd."""
    podman("start", container)
    return _pid(folder)


def stop(container: str) -> None:
    """Shut down, and pull the plug when that takes too long."""
    podman("stop", "-t", str(STOP_SECONDS), container, timeout_seconds=STOP_SECONDS + 30)


def kill(container: str) -> None:
    """Pull the plug. podman sends no signal to a frozen machine, so that one thaws for a moment."""
    podman("unpause", container, check=False)
    podman("kill", "-s", "KILL", container, check=False)


def remove(container: str) -> None:
    """Remove the machine and its disk."""
    podman("rm", "-f", "-i", "-v", "-t", "0", container)


def freeze(container: str) -> None:
    """Stop every process of the machine; the kernel goes on accepting TCP for it."""
    podman("pause", container)


def thaw(container: str) -> None:
    """Let a frozen machine go on."""
    podman("unpause", container)


def limit_cpus(container: str, cpus: float) -> None:
    """Change the machine's share of a CPU while it runs; its own /proc/stat follows at once."""
    podman("update", f"--cpus={cpus:g}", container)


def commit(container: str, image: str) -> None:
    """Make an image from the machine's disk: 0.2 s and a layer of a few MB."""
    podman("commit", "-q", container, image, timeout_seconds=300)


def show_own_pressure(pid: int) -> None:
    """Bind the machine's own pressure files over /proc/pressure. Needs a systemd that has begun to boot."""
    run(["nsenter", "-t", str(pid), "-m", "sh", "-c", PRESSURE_SCRIPT], timeout_seconds=10, check=False)


def is_booted(pid: int) -> bool:
    """True once cloud-init has ended, user data included."""
    return Path(f"/proc/{pid}/root/run/cloud-init/result.json").exists()


def exit_code(container: str) -> int:
    """How the machine's systemd ended; 137 when it was killed."""
    answer = podman("inspect", "-f", "{{.State.ExitCode}}", container, check=False).strip()
    return int(answer) if answer.lstrip("-").isdigit() else KILLED


def console(folder: Path) -> str:
    """The last of what the machine wrote to its console; empty when it never booted."""
    try:
        with (folder / "console.log").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 2 * CONSOLE_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(_console_text(line) for line in lines)[-CONSOLE_BYTES:]


def _console_text(line: str) -> str:
    """A line without what conmon puts before it: time, stream, and F or P."""
    parts = line.split(" ", 3)
    return parts[3] if len(parts) == 4 else line


def exec_in(container: str, command: list[str], *, interactive: bool) -> int:
    """Run a command as root in the machine, with this terminal, and return its exit code."""
    terminal = ["--interactive", "--tty"] if interactive else ["--interactive"]
    return subprocess.run(["podman", "exec", *terminal, container, *command], check=False).returncode


def _pid(folder: Path) -> int:
    return int((folder / "pid").read_text().strip())
