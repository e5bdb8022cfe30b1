#!/usr/bin/python
"""Ansible module: everything a machine without a package index needs to install one of our programs, in one archive."""

from __future__ import annotations

# ruff: noqa: E402  Ansible wants the documentation before the imports

DOCUMENTATION = r"""
---
module: asg_wheelhouse
short_description: Build the archive from which a role installs a program without a package index
description:
  - Downloads the wheels of a hashed requirements file for the machines' platform, builds a wheel of this project that
    holds only the packages named, and packs both, with pip's own wheel, into one archive.
  - The archive's name carries a hash of all that goes in, so nothing is done when nothing changed. The archive of equal
    inputs is the same to the byte.
  - In the archive are C(wheels/), C(requirements.txt) with a hash for each wheel, and the O(files).
author: ControllerASG's founders (@controller-asg)
options:
  name:
    description: The archive's name, before the hash.
    type: str
    required: true
  project:
    description: The project's folder, with its C(pyproject.toml).
    type: path
    required: true
  directory:
    description: Where archives and downloaded wheels are kept.
    type: path
    required: true
  requirements:
    description: The hashed requirements, relative to O(project).
    type: path
    required: true
  pip_requirements:
    description: A hashed requirements file that pins pip, relative to O(project).
    type: path
    required: true
  packages:
    description: The folders of the packages that the project's wheel holds, relative to O(project).
    type: list
    elements: path
    required: true
  scripts:
    description: The commands that the project's wheel installs.
    type: list
    elements: str
    default: []
  files:
    description: Further files and folders of the archive.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: A file or folder, relative to O(project).
        type: path
        required: true
      dest:
        description: Its name in the archive.
        type: str
        required: true
  fingerprint_files:
    description: Files and folders that count for RV(fingerprint) though they are not in the archive.
    type: list
    elements: path
    default: []
  python_version:
    description: The machines' Python.
    type: str
    default: "3.11"
  architecture:
    description: The machines' processor, as platform tags write it.
    type: str
    default: x86_64
  glibc_minor_version:
    description: The newest glibc 2.x that wheels may ask for. Debian 12 has 2.36.
    type: int
    default: 36
attributes:
  check_mode:
    description: Can run in check mode; RV(archive) may not exist afterwards.
    support: full
  diff_mode:
    description: Archives have no difference that people could read.
    support: none
  platform:
    description: The control machine.
    platforms: posix
    support: full
"""

EXAMPLES = r"""
- name: Build the agent's archive
  asg_wheelhouse:
    name: monitor-agent
    project: "{{ playbook_dir }}/.."
    directory: "{{ playbook_dir }}/../.build/wheelhouse"
    requirements: requirements/agent.txt
    pip_requirements: requirements/dev.txt
    packages: [src/asg, src/monitor_agent]
    scripts: [monitor-agent]
"""

RETURN = r"""
archive:
  description: The archive. Beside it stands a file of the same name with C(.sha256) added.
  returned: success
  type: str
  sample: .build/wheelhouse/monitor-agent-0123456789ab.tar
sha256:
  description: The archive's hash; empty in check mode when it is not built yet.
  returned: success
  type: str
fingerprint:
  description: A hash of all that goes into the archive and of the O(fingerprint_files).
  returned: success
  type: str
"""

import hashlib
import io
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "project": {"type": "path", "required": True},
    "directory": {"type": "path", "required": True},
    "requirements": {"type": "path", "required": True},
    "pip_requirements": {"type": "path", "required": True},
    "packages": {"type": "list", "elements": "path", "required": True},
    "scripts": {"type": "list", "elements": "str", "default": []},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "src": {"type": "path", "required": True},
            "dest": {"type": "str", "required": True},
        },
    },
    "fingerprint_files": {"type": "list", "elements": "path", "default": []},
    "python_version": {"type": "str", "default": "3.11"},
    "architecture": {"type": "str", "default": "x86_64"},
    "glibc_minor_version": {"type": "int", "default": 36},
}
LAYOUT = "1"  # counted up when the archive's layout changes, so that old archives are not taken for new ones
PROJECT_FILES = ("pyproject.toml", "README.md")


def main() -> None:
    """Build the archive unless one of the same inputs is there."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    project, directory = Path(module.params["project"]), Path(module.params["directory"])
    key = inputs_hash(module, project)
    archive = directory / f"{module.params['name']}-{key[:12]}.tar"
    seal = archive.with_name(archive.name + ".sha256")
    changed = not seal.exists()
    if changed and not module.check_mode:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            draft = Path(folder) / archive.name
            pack(module, project, Path(folder), draft)
            digest = hashlib.sha256(draft.read_bytes()).hexdigest()
            draft.rename(archive)
        # Last, and in one step: an archive without its seal was not finished.
        seal.with_suffix(".draft").write_text(digest + "\n")
        seal.with_suffix(".draft").rename(seal)
        remove_older(directory, module.params["name"], archive)
    module.exit_json(
        changed=changed,
        archive=str(archive),
        sha256=seal.read_text().strip() if seal.exists() else "",
        fingerprint=hashlib.sha256("\n".join([key, *fingerprints(module, project)]).encode()).hexdigest(),
    )


def inputs_hash(module: AnsibleModule, project: Path) -> str:
    """A hash of everything the archive is made from."""
    params = module.params
    told = [LAYOUT, *params["packages"], *params["scripts"], *platforms(module), params["python_version"]]
    sources = [*PROJECT_FILES, params["requirements"], *params["packages"]]
    lines = [*told, *file_hashes(project, sources), pip_pin(project / params["pip_requirements"])]
    for each in params["files"]:
        lines += [each["dest"], *file_hashes(project, [each["src"]])]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def fingerprints(module: AnsibleModule, project: Path) -> list[str]:
    return list(file_hashes(project, module.params["fingerprint_files"]))


def file_hashes(project: Path, paths: list[str]) -> Iterator[str]:
    """Name within the project, mode and hash of each file below the paths."""
    for path in paths:
        for file in files_below(project / path):
            name = file.relative_to(project) if file.is_relative_to(project) else Path(file.name)
            mode = file.stat().st_mode & 0o111
            yield f"{name} {mode:o} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def files_below(path: Path) -> list[Path]:
    """The file, or all of a folder, in a fixed order, without what Python leaves behind."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def pip_pin(requirements: Path) -> str:
    """pip's own entry of a hashed requirements file, with its hashes."""
    match = re.search(r"^pip==[^\\\n]*(?:\\\n[^\\\n]*)*", requirements.read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{requirements} pins no pip")
    return match[0]


def pack(module: AnsibleModule, project: Path, folder: Path, archive: Path) -> None:
    """Gather everything and write the archive: sorted, and without times and owners, so that equal is equal."""
    wheel = build_wheel(module, project, folder)
    downloads = download(module, project)
    version = wheel.name.split("-")[1]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements = (project / module.params["requirements"]).read_text()
    requirements += f"controller-asg=={version} \\\n    --hash=sha256:{digest}\n"
    entries: dict[str, bytes | Path] = {"requirements.txt": requirements.encode()}
    entries |= {f"wheels/{each.name}": each for each in [wheel, *downloads.glob("*.whl")]}
    for each in module.params["files"]:
        source = project / each["src"]
        for file in files_below(source):
            inside = "" if source.is_file() else f"/{file.relative_to(source)}"
            entries[each["dest"] + inside] = file
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in sorted(entries.items()):
            data = content.read_bytes() if isinstance(content, Path) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            executable = isinstance(content, Path) and content.stat().st_mode & 0o100
            info.mode = 0o755 if executable else 0o644
            tar.addfile(info, io.BytesIO(data))


def build_wheel(module: AnsibleModule, project: Path, folder: Path) -> Path:
    """A wheel of this project that holds only the packages and commands asked for.

    So the agent's archive, and the AMI named by it, stay the same while only the controller's code changes.
    """
    stage = folder / "project"
    for path in module.params["packages"]:
        shutil.copytree(project / path, stage / path, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PROJECT_FILES:
        shutil.copy(project / name, stage / name)
    settings = stage / "pyproject.toml"
    settings.write_text(narrowed(settings.read_text(), module.params["packages"], module.params["scripts"]))
    # Without isolation pip would fetch the build tool from an index, unpinned; development installs it by hash.
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    run_pip(module, "wheel", "--no-deps", *isolation, "--wheel-dir", str(folder / "built"), str(stage))
    (wheel,) = (folder / "built").glob("*.whl")
    return wheel


def narrowed(settings: str, packages: list[str], scripts: list[str]) -> str:
    """The text of pyproject.toml with only these packages in the wheel, and only these commands."""
    listed = ", ".join(f'"{package}"' for package in packages)
    text, count = re.subn(r"(?m)^packages = \[.*\]$", f"packages = [{listed}]", settings)
    if count != 1:
        raise ValueError("pyproject.toml has not exactly one line `packages = [...]`")
    head, found, rest = text.partition("[project.scripts]\n")
    section, blank, tail = rest.partition("\n\n")
    kept = [line for line in section.splitlines() if line.partition(" = ")[0] in scripts]
    return head + found + "\n".join(kept) + blank + tail


def download(module: AnsibleModule, project: Path) -> Path:
    """The folder with the wheels of the requirements and of pip, downloaded once for each set of hashes."""
    params = module.params
    requirements = project / params["requirements"]
    pip = pip_pin(project / params["pip_requirements"])
    told = [requirements.read_text(), pip, params["python_version"], *platforms(module)]
    key = hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
    folder = Path(params["directory"]) / f"wheels-{params['name']}-{key}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=params["directory"]) as draft:
        pinned_pip = Path(draft) / "pip.txt"
        pinned_pip.write_text(pip + "\n")
        run_pip(
            module,
            *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--python-version", params["python_version"], "--implementation", "cp"),
            *(f"--platform={platform}" for platform in platforms(module)),
            *("--dest", str(Path(draft) / "wheels")),
            *("-r", str(requirements), "-r", str(pinned_pip)),
        )
        (Path(draft) / "wheels").rename(folder)
    remove_older(Path(params["directory"]), f"wheels-{params['name']}", folder)
    return folder


def platforms(module: AnsibleModule) -> list[str]:
    """Every platform tag that runs on the machines, newest first."""
    architecture = module.params["architecture"]
    newest = module.params["glibc_minor_version"]
    return [f"manylinux_2_{minor}_{architecture}" for minor in range(newest, 4, -1)] + [
        f"manylinux2014_{architecture}",
        f"manylinux1_{architecture}",
    ]


def run_pip(module: AnsibleModule, *arguments: str) -> None:
    """Run this interpreter's pip; a failure ends the module with pip's last words."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    code, _, errors = module.run_command(command)
    if code != 0:
        module.fail_json(msg=f"pip {arguments[0]} failed: {errors.strip()[-2000:]}", rc=code)


def remove_older(directory: Path, name: str, keep: Path) -> None:
    """Remove what earlier inputs of the same name left."""
    for path in directory.iterdir():
        if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{12}}(\.tar(\.sha256)?)?", path.name):
            if path.is_dir() and path != keep:
                shutil.rmtree(path)
            elif path.is_file() and not path.name.startswith(keep.name):
                path.unlink()


if __name__ == "__main__":
    main()
