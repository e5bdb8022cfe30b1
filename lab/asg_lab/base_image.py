"""The image every machine boots from: Debian 12 with systemd, sshd and cloud-init.

Its tag is a hash of the recipe, so a changed recipe makes a new image and an unchanged one is never built twice: first
the image in podman's storage is looked for (0 s), then the archive in the cache (4 s), then it is built (35 s, or twice
that on a busy host). Nothing of the host may get in: mmdebstrap copies its resolv.conf and hostname.
"""

import hashlib
import tempfile
from pathlib import Path

from asg_lab import paths
from asg_lab.command import podman, run
from asg_lab.progress import say, waiting_for

REPOSITORY = "localhost/asg-lab"
SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "libnss-systemd",  # else the uid of DynamicUser has no name
    "libnss-myhostname",  # else every sudo prints "unable to resolve host"
    "dbus",
    "python3",
    "python3-apt",  # for Ansible's apt and package_facts; 2 MB
    "iproute2",
    "ca-certificates",
    "openssh-server",
    "sudo",
    "cloud-init",
    "netbase",
    "iputils-ping",
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
# `network: disabled`: podman has set the address before systemd starts. One datasource: no search for Amazon's
# hardware. Without `locale` the run ends in "error" and the machine is degraded.
CLOUD_CONFIG = """\
datasource_list: [ Ec2 ]
datasource: { Ec2: { strict_id: false, timeout: 5, max_wait: 30 } }
network: { config: disabled }
locale: C.UTF-8
ssh_genkeytypes: [ ed25519 ]
apt: { preserve_sources_list: true }
"""
# Work a throw-away machine has no use for; each costs boot time on a host with two cores.
MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-timesyncd.service",
)
# cloud-init asks for a metadata token only where the hypervisor says Amazon, and a container has neither hypervisor nor
# DMI: without the first change it would ask as IMDSv1 does and be refused. On Amazon it then asks before the network is
# up, by a DHCP of its own; here the address is there from the start, and the DHCP would cost 60 s.
AS_ON_AMAZON = """\
set -e
source=/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceEc2.py
echo ec2e1916-9099-7caf-fd21-012345abcdef > "$1/etc/cloud/lab-hypervisor-uuid"
sed -i -e 's#"/sys/hypervisor/uuid"#"/etc/cloud/lab-hypervisor-uuid"#' \
  -e 's/perform_dhcp_setup = True/perform_dhcp_setup = False/' "$1$source"
grep -q lab-hypervisor-uuid "$1$source"
! grep -q 'perform_dhcp_setup = True' "$1$source"
chroot "$1" python3 -m py_compile "$source"
"""
HOOKS = (
    AS_ON_AMAZON,
    'printf "%s" "$LAB_CLOUD_CONFIG" > "$1/etc/cloud/cloud.cfg.d/90_lab.cfg"',
    # Each machine makes its own identity at its first boot.
    ': > "$1/etc/machine-id"; rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/var/lib/dbus/machine-id"',
    ': > "$1/etc/resolv.conf"; echo localhost > "$1/etc/hostname"; rm -f "$1/etc/apt/sources.list.d/"*',
    f'for unit in {" ".join(MASKED_UNITS)}; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done',
)
# The mount: else LoadCredential= and SetCredential= units start with an empty directory.
COMMAND = 'CMD ["/bin/sh","-c","mount --make-rshared /; exec /lib/systemd/systemd"]'
STOP_SIGNAL = "STOPSIGNAL SIGRTMIN+3"


def tag() -> str:
    """The hash of everything the image is made from."""
    recipe = "\n".join([SUITE, *PACKAGES, *LEFT_OUT, CLOUD_CONFIG, *HOOKS, COMMAND, STOP_SIGNAL])
    return "base-" + hashlib.sha256(recipe.encode()).hexdigest()[:12]


def reference() -> str:
    """The image's name in podman's storage."""
    return f"{REPOSITORY}:{tag()}"


def archive() -> Path:
    """The kept archive."""
    return paths.cache_directory() / f"{tag()}.tar.zst"


def ensure() -> str:
    """The image's name, after building or importing it when it is not there."""
    if podman("image", "ls", "-q", reference()).strip():
        return reference()
    if not archive().exists():
        _build()
    with waiting_for("importing the base image"):
        # zstd before podman: podman 4.3 would write the unpacked layer to /var/tmp first, which took twice as long.
        run(
            [
                *("sh", "-c", 'zstd -qdc "$1" | podman import -q -c "$2" -c "$3" - "$4"', "import"),
                *(str(archive()), COMMAND, STOP_SIGNAL, reference()),
            ],
            timeout_seconds=300,
        )
    return reference()


def purge() -> None:
    """Remove the image and every kept archive."""
    for image in podman("image", "ls", "-q", REPOSITORY, check=False).split():
        podman("rmi", "-f", image, check=False)
    for kept in paths.cache_directory().glob("base-*.tar.zst*"):
        kept.unlink()


def _build() -> None:
    say(f"building the base image ({SUITE}); this happens once, about a minute")
    paths.cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="asg-lab-", dir=paths.cache_directory()) as folder:
        tar = Path(folder) / "base.tar"
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        command += [f"--customize-hook={hook}" for hook in HOOKS]
        command += [f"--include={','.join(PACKAGES)}", SUITE, str(tar)]
        with waiting_for("building the base image"):
            run(command, timeout_seconds=900, environment={"LAB_CLOUD_CONFIG": CLOUD_CONFIG})
        with waiting_for("packing the base image"):
            run(["zstd", "-q", "-3", "-T0", str(tar)], timeout_seconds=300)
        (Path(folder) / "base.tar.zst").rename(archive())
