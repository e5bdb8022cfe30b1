"""bootstrap: role. The role monitor_agent, run on a new instance over ssh by ansible-runner in a process of its own."""

import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from controller_asg.model.instance import Instance

OUTPUT_LIMIT_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class RoleBootstrap:
    """`project` holds bootstrap_agent.yml, the role and its wheelhouse; `variables` are its extra variables."""

    project: Path
    ssh_user: str
    ssh_key_file: str
    timeout_seconds: float
    variables: dict[str, str]

    async def run(self, instance: Instance) -> tuple[str, str]:
        """(error, output): the error is empty when the play ended well. Never raises but for cancellation."""
        with tempfile.TemporaryDirectory(prefix="bootstrap-") as folder:
            inventory = Path(folder) / "inventory.json"
            host = {
                "ansible_host": instance.private_ip,
                "ansible_user": self.ssh_user,
                "ansible_ssh_private_key_file": self.ssh_key_file,
                # The address may have been another instance's before; its key is new with it.
                "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no",
            }
            inventory.write_text(json.dumps({"all": {"hosts": {instance.instance_id: host}}}))
            private = Path(folder) / "runner"
            private.mkdir()
            command = [
                sys.executable,
                "-m",
                "ansible_runner",
                "run",
                str(private),
                "--playbook",
                str(self.project / "bootstrap_agent.yml"),
                "--inventory",
                str(inventory),
                "--cmdline",
                f"--extra-vars @{self._extra_vars(folder)}",
            ]
            environment = {
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
                "ANSIBLE_ROLES_PATH": str(self.project / "roles"),
                "ANSIBLE_LOCAL_TEMP": f"{folder}/local",
                "ANSIBLE_HOME": f"{folder}/home",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{folder}/cp",
                "ANSIBLE_HOST_KEY_CHECKING": "False",
                "HOME": folder,
            }
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.project,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            return await self._wait(process)

    def _extra_vars(self, folder: str) -> Path:
        path = Path(folder) / "extra-vars.json"
        path.write_text(json.dumps(self.variables))
        return path

    async def _wait(self, process: asyncio.subprocess.Process) -> tuple[str, str]:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                raw, _ = await process.communicate()
        except TimeoutError:
            return f"no end within {self.timeout_seconds:g} s", ""
        finally:
            if process.returncode is None:
                os.killpg(process.pid, 9)
                await process.wait()
        output = raw.decode(errors="replace")[-OUTPUT_LIMIT_CHARACTERS:]
        if process.returncode:
            return f"the play ended with {process.returncode}", output
        return "", output
