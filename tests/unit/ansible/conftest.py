"""An AdminService to talk to, and modules that run against it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_double import AdminDouble, serving
from module_process import PROJECT, Run, run_module


@pytest.fixture(scope="session")
def utilities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with which `ansible.module_utils.controller_asg` is found."""
    folder = tmp_path_factory.mktemp("utilities")
    (folder / "sitecustomize.py").write_text(
        "import ansible.module_utils\n"
        f"ansible.module_utils.__path__.append({str(PROJECT / 'module_utils')!r})\n"
    )
    return folder


@pytest.fixture
def run(utilities: Path) -> Run:
    """Runs a module of library/ and returns its result; `_check` is Ansible's check mode."""

    def run_it(module: str, /, _check: bool = False, **arguments: Any) -> dict[str, Any]:
        return run_module(utilities, module, _check, arguments)

    return run_it


@pytest.fixture
def controller() -> AdminDouble:
    return AdminDouble()


@pytest.fixture
def address(controller: AdminDouble, tmp_path: Path) -> Iterator[str]:
    with serving(controller, tmp_path) as answered_at:
        yield answered_at
