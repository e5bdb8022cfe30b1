"""Starts the local EC2, runs site.yml, plays four scenes on the first group with thresholds; the fleet runs on.

Each scene starts from the group at rest, and says with times what an operator would see.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from asg_lab.deployment import Deployment, PlayFailed, wait_until

SCENE_LIMIT_SECONDS = 120.0
HELD_CALM = 45  # percent; the example's thresholds are 80 and 10


class Story:
    """Lines with the seconds since the start; a wait of over 2 s gets a line of its own every few seconds."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self.started:6.1f} s  {text}\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def during(self, what: list[str]) -> Iterator[None]:
        """While the block runs, `what[0]` (which the block may change) is told every 2 s."""
        done = threading.Event()

        def tick() -> None:
            since, told = time.monotonic(), what[0]
            while not done.wait(0.25):
                if what[0] != told:
                    since, told = time.monotonic(), what[0]
                elif time.monotonic() - since >= 2.0:
                    since = time.monotonic()
                    self.say(f"  … {told}")

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()


class Scenes:
    """The four scenes, on one group."""

    def __init__(self, lab: Deployment, story: Story) -> None:
        self.lab, self.story = lab, story
        group, policy = next(
            (group, policy)
            for group in lab.groups().values()
            for policy in group["document"]["policies"]
            if policy["type"] == "thresholds"
        )
        self.group: str = group["name"]
        self.policy: dict[str, Any] = policy
        self.low, self.high = group["min_size"], group["max_size"]
        # Neither busy nor idle, so that this instance changes nothing.
        self.calm = (policy["create_above"] + policy["delete_below"]) / 2

    def at_rest(self) -> list[str]:
        """Every instance in service and calm, and no more of them than the minimum; the oldest first."""
        self._wait(f"{self.group} at rest", self._rests, every=1.0)
        return self.oldest_first()

    def _rests(self) -> bool:
        for name in self.oldest_first():
            self.lab.set_metric(name, self.calm)
        group = self.lab.groups()[self.group]
        if group["desired_capacity"] > group["min_size"]:
            # A play that just ran on the instances was load too.
            self.lab.controller("set-desired", self.group, str(group["min_size"]))
            return False
        return self.lab.settled(self.group)

    def oldest_first(self) -> list[str]:
        """The instances in service, by how long they are."""
        members = sorted(self.lab.members(self.group), key=lambda member: str(member["in_service_at"]))
        return [member["instance_id"] for member in members]

    def load(self) -> None:
        names = self.at_rest()
        if len(names) >= self.high:
            self.story.say(f"1. {self.group} is at max_size {self.high}: no room for a scene of load")
            return
        # In its warmup an instance's load counts for nothing, so the oldest plays the busy one.
        hot = names[0]
        self._wait(f"{hot} past its warmup", lambda: self.lab.warm(self.group, hot), every=0.5)
        before, started = self._all(), time.time()
        self.lab.set_metric(hot, None)
        self.lab.burn(hot, 90)
        self.story.say(f"1. Real CPU load on {hot}, above {self.policy['create_above']:g} %")
        call = self._wait("a launch", lambda: self._launched(started))
        self.story.say(f"   RunInstances arrived {call['at'] - started:.1f} s after the load began")
        new = self._wait("its instance in service", lambda: self._arrived(before))
        self.lab.set_metric(new, self.calm)
        self.lab.set_metric(hot, self.calm)
        self.lab.execute(hot, "pkill", "-f", "while :")
        self.story.say(f"   {new} is InService {time.time() - started:.1f} s after the load began")

    def idle(self) -> None:
        names = self.oldest_first()
        if len(names) <= self.low:
            self.story.say(f"2. {self.group} is at min_size {self.low}: nothing may go")
            return
        victim = names[(len(names) - 1) // 2]
        self._wait(f"{victim} past its warmup", lambda: self.lab.warm(self.group, victim), every=0.5)
        started = time.time()
        self.lab.set_metric(victim, self.policy["delete_below"] / 2)
        self.story.say(f"2. /set-metric below {self.policy['delete_below']:g} on {victim}")
        self._wait("its termination", lambda: self._gone(victim))
        others = ", ".join(name for name in names if name != victim)
        self.story.say(f"   that instance is terminated {time.time() - started:.1f} s later; {others} stay")

    def killed(self) -> None:
        self._replaced("3. The machine of {} is killed", "kill")

    def frozen(self) -> None:
        self._replaced("4. The machine of {} is frozen: alive to EC2, silent to us", "freeze")

    def _replaced(self, title: str, fault: str) -> None:
        names = self.at_rest()
        victim = names[0]
        before, started = self._all(), time.time()
        self.lab.fault(fault, victim)
        self.story.say(title.format(victim))
        call = self._wait("its replacement's launch", lambda: self._launched(started))
        self.story.say(
            f"   the verdict, and RunInstances for its replacement, {call['at'] - started:.1f} s later"
        )
        new = self._wait("the replacement in service", lambda: self._arrived(before))
        self.lab.set_metric(new, self.calm)
        self.story.say(f"   {new} is InService {time.time() - started:.1f} s later")
        self._wait(f"{victim} terminated", lambda: self._gone(victim))
        self.story.say(f"   {victim} is terminated")

    def calm_down(self) -> None:
        """Take every override back: the fleet is the operator's again."""
        for member in self.lab.members(self.group):
            self.lab.set_metric(member["instance_id"], None)

    def _launched(self, since: float) -> Any:
        calls = self.lab.calls("RunInstances", since)
        return calls[0] if calls else None

    def _all(self) -> set[str]:
        """In every state. To be asked before a scene begins: a launch takes less time than the asking."""
        return {member["instance_id"] for member in self.lab.controller("instances", self.group)["instances"]}

    def _arrived(self, before: set[str]) -> str:
        new = [m["instance_id"] for m in self.lab.members(self.group) if m["instance_id"] not in before]
        return new[0] if new else ""

    def _gone(self, instance_id: str) -> bool:
        states = {i["InstanceId"]: i["State"]["Name"] for i in self.lab.instances()}
        return states.get(instance_id, "terminated") in ("shutting-down", "terminated")

    def _wait(self, what: str, look: Any, every: float = 0.25) -> Any:
        return wait_until(what, look, SCENE_LIMIT_SECONDS, every, lambda line: self.story.say(f"  … {line}"))


def _hold_calm(lab: Deployment) -> None:
    """A play is load too, on a quarter of a CPU: what runs already says that it is calm until the scenes begin."""
    for instance in lab.instances({"tag-key": "controller-asg:group", "instance-state-name": "running"}):
        with contextlib.suppress(subprocess.SubprocessError):  # a machine that an earlier scene broke
            lab.set_metric(instance["InstanceId"], HELD_CALM)


def main() -> int:
    story, lab = Story(), Deployment("demo")
    story.say("The local EC2: an EC2 API whose instances are machines running systemd")
    lab.start()
    story.say(
        f"It answers at {lab.environment['AWS_ENDPOINT_URL']}. Now ansible-playbook -i inventories/lab site.yml"
    )
    _hold_calm(lab)
    current = ["site.yml"]

    def on_line(line: str) -> None:
        if line.startswith("PLAY ["):
            story.say(line.partition("[")[2].partition("]")[0])
        if line.startswith("TASK ["):
            current[0] = line.partition("[")[2].partition("]")[0]

    try:
        with story.during(current):
            recap = lab.play("site.yml", on_line=on_line)
    except PlayFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    changed = sum(host["changed"] for host in recap.values())
    story.say(f"The fleet is in service (site.yml: changed={changed})")
    scenes = Scenes(lab, story)
    try:
        scenes.load()
        scenes.idle()
        scenes.killed()
        scenes.frozen()
    except TimeoutError as error:
        sys.stderr.write(f"demo: {error}; the fleet is left as it is, look with: .venv/bin/lab status\n")
        return 1
    scenes.calm_down()
    story.say("Done; the fleet goes on running. Go on with:")
    controller = lab.controller_id
    for line in (
        'eval "$(.venv/bin/lab env)"                       then boto3, aws and ansible use the local EC2',
        ".venv/bin/lab status                              its machines",
        f".venv/bin/lab exec {controller} -- controller-asg status",
        f".venv/bin/lab exec {controller} -- controller-asg why {scenes.group}",
        ".venv/bin/lab fault --help                        break something yourself",
        "edit group_vars/all/groups.yml, then: .venv/bin/ansible-playbook site.yml",
        "make down                                         removes all of it",
    ):
        sys.stdout.write(f"          {line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
