"""The whole system deployed in a lab: `site.yml` run against it, and handles to look at it, load it and break it.

The demo, the end-to-end tests and the benchmarks all stand on this. It uses what an operator uses: the playbooks, the
controller's own CLI on its machine, the agents' HTTP routes, and `lab fault`.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3

PROJECT = Path(__file__).resolve().parents[2]
CONTROLLER_CLI = "/opt/controller-asg/bin/controller-asg"
AGENT_URL = "http://127.0.0.1:7480"

_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)
_CALL = (
    "import sys, urllib.request as u, urllib.error as e\n"
    "r = u.Request(sys.argv[2], data=sys.argv[3].encode() or None, method=sys.argv[1])\n"
    "r.add_header('Authorization', 'Bearer ' + open('/var/lib/monitor-agent/http-token').read().strip())\n"
    "try:\n    print(u.urlopen(r, timeout=10).read().decode())\n"
    "except e.HTTPError as x:\n    print(x.code, x.read().decode()); sys.exit(1)\n"
)


class PlayFailed(Exception):
    """A play ended badly; the message holds the end of its output."""


class Deployment:
    """One lab by name. Nothing is started by making it; see `start` and `site`."""

    def __init__(self, name: str, project: Path = PROJECT) -> None:
        self.name = name
        self.project = project
        self._bin = Path(sys.executable).parent
        self._environment: dict[str, str] | None = None
        self._controller_id = ""

    # The lab

    def lab(self, *arguments: str, quiet: bool = True) -> str:
        """Run `lab` for this lab. Raises CalledProcessError with what it said."""
        done = subprocess.run(
            [str(self._bin / "lab"), *arguments],
            env={**os.environ, "LAB_NAME": self.name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
        return done.stdout

    def start(self) -> None:
        self.lab("start", quiet=False)

    def down(self) -> None:
        self.lab("down", quiet=False)
        self._environment, self._controller_id = None, ""

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's tools need to use the lab."""
        if self._environment is None:
            self._environment = json.loads(self.lab("env", "--json"))
        return self._environment

    def ec2(self) -> Any:
        """A boto3 client of the lab's EC2."""
        env = self.environment
        return boto3.client(
            "ec2",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=env["AWS_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )

    def calls(self, action: str, since: float = 0.0) -> list[dict[str, Any]]:
        """The API calls of that action that arrived since then (unix seconds), oldest first."""
        found: list[dict[str, Any]] = json.loads(self.lab("calls", "--json", "--since", f"{since:.6f}"))
        return [call for call in found if call["action"] == action]

    def fault(self, *arguments: str) -> str:
        return self.lab("fault", *arguments)

    # The playbooks

    def play(
        self,
        playbook: str = "site.yml",
        *arguments: str,
        on_line: Callable[[str], None] | None = None,
        extra_vars: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, int]]:
        """Run a playbook; returns the recap by host. Raises PlayFailed."""
        command = [str(self._bin / "ansible-playbook"), "-i", "inventories/lab", playbook, *arguments]
        if extra_vars:
            command += ["--extra-vars", json.dumps(extra_vars)]
        environment = {
            **os.environ,
            **self.environment,
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }
        lines: list[str] = []
        with subprocess.Popen(
            command,
            cwd=self.project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if on_line is not None:
                    on_line(line.rstrip("\n"))
        output = "".join(lines)
        if process.returncode:
            raise PlayFailed(f"{playbook} ended with {process.returncode}:\n{''.join(lines[-60:])}")
        return {
            host: {"ok": int(ok), "changed": int(changed), "unreachable": int(lost), "failed": int(failed)}
            for host, ok, changed, lost, failed in _RECAP.findall(output)
        }

    # Machines

    def container(self, instance_id: str) -> str:
        return f"{self.name}-{instance_id}"

    def execute(
        self, instance_id: str, *command: str, detach: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in a machine, without the lab's own start-up time."""
        options = ["-d"] if detach else []
        return subprocess.run(
            ["podman", "exec", *options, self.container(instance_id), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def controller_id(self) -> str:
        if not self._controller_id:
            found = [
                instance["InstanceId"]
                for instance in self.instances({"tag:controller-asg:role": "controller"})
                if instance["State"]["Name"] == "running"
            ]
            if len(found) != 1:
                raise LookupError(f"{len(found)} running controllers in lab {self.name}, one was expected")
            self._controller_id = found[0]
        return self._controller_id

    def instances(self, filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """EC2's view, all states but terminated."""
        wanted = [{"Name": name, "Values": [value]} for name, value in (filters or {}).items()]
        pages = self.ec2().get_paginator("describe_instances").paginate(Filters=wanted)
        return [
            instance
            for page in pages
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ]

    # The system

    def controller(self, *arguments: str) -> Any:
        """The controller's CLI on its machine, answered as JSON. Raises CalledProcessError."""
        done = self.execute(self.controller_id, CONTROLLER_CLI, *arguments, "--json")
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def groups(self) -> dict[str, dict[str, Any]]:
        """The controller's view of its groups by name."""
        return {group["name"]: group for group in self.controller("groups")["groups"]}

    def settled(self, group: str) -> bool:
        """Everything that there is of the group is in service, and as much as is desired."""
        seen = self.groups()[group]
        return bool(seen["instance_counts"] == {"InService": seen["desired_capacity"]})

    def warm(self, group: str, instance_id: str = "") -> bool:
        """Every instance in service (or the one) is past its warmup, so that its metrics count."""
        warmup = timedelta(seconds=self.groups()[group]["document"]["default_instance_warmup_seconds"])
        now = datetime.now(UTC)
        return all(
            datetime.fromisoformat(member["in_service_at"]) + warmup <= now
            for member in self.members(group)
            if instance_id in ("", member["instance_id"])
        )

    def members(self, group: str, state: str = "InService") -> list[dict[str, Any]]:
        """The controller's view of a group's instances in a lifecycle state."""
        return [i for i in self.controller("instances", group)["instances"] if i["lifecycle_state"] == state]

    def agent(self, instance_id: str, method: str, route: str, body: Any = None) -> str:
        """The agent's own HTTP on its machine. Raises CalledProcessError with its answer."""
        text = "" if body is None else json.dumps(body)
        done = self.execute(instance_id, "python3", "-c", _CALL, method, AGENT_URL + route, text)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, route, done.stdout, done.stderr)
        return done.stdout

    def set_metric(self, instance_id: str, metric: float | None) -> None:
        self.agent(instance_id, "POST", "/set-metric", {"metric": metric})

    def burn(self, instance_id: str, seconds: int) -> None:
        """Real CPU load: a busy loop on the machine."""
        loop = f"timeout {seconds} sh -c 'while :; do :; done'"
        self.execute(instance_id, "sh", "-c", loop, detach=True)


def wait_until(
    what: str,
    look: Callable[[], Any],
    seconds: float,
    every: float = 0.25,
    on_wait: Callable[[str], None] | None = None,
) -> Any:
    """What `look` gives once it is true. Raises TimeoutError that names `what`; `on_wait` gets a line every 2 s."""
    started = told = time.monotonic()
    while True:
        if value := look():
            return value
        now = time.monotonic()
        if now - started > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        if on_wait is not None and now - told >= 2.0:
            told = now
            on_wait(f"{what}: {now - started:.0f} s")
        time.sleep(every)


def tasks_of(lines: Iterator[str]) -> Iterator[str]:
    """The names of plays and tasks in a playbook's output."""
    for line in lines:
        if line.startswith(("PLAY [", "TASK [")):
            yield line.partition("[")[2].partition("]")[0]
