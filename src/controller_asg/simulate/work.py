"""What instances work on: jobs that hold leases, drain commands and lifecycle hooks, as their agents tell of them.

It is the truth about jobs. An agent tells what is new once a second, with its sample, and everything again to a
controller that does not know it yet.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from controller_asg.model.agent_order import AgentOrder, Drain, Resume, RunHook
from controller_asg.model.instance import Lease
from controller_asg.monitor.session import AgentSession

# Of orders to drain: no command, one that ends, one that goes on until it is killed.
DRAIN_SECONDS = (0.0, 0.0, 2.0, 15.0, 1e9)
# A lease that its owner renews: for so long at a time, when so little of it is left.
LEASE_SECONDS, RENEWED_AT_SECONDS = 10.0, 4.0
HOOK_ENDS = ("well", "well", "fails", "hangs", "somebody")


@dataclass(slots=True)
class Job:
    ends_at: float
    told_at: float | None = None  # when a controller first heard of its lease
    protects: bool = False
    lease_ends_at: float | None = None  # None: the lease has no end, and is taken away with the job


@dataclass(slots=True)
class Run:
    """A command that runs, and how it will end: no exit code, it is killed."""

    ends_at: float
    exit_code: int | None
    told: bool | None = None  # None: nothing; False: that it runs; True: how it ended


@dataclass(slots=True)
class Machine:
    """One instance at work. A drained one takes no job until it is asked to resume."""

    jobs: list[Job] = field(default_factory=list)
    takes_jobs: bool = True
    drain: Run | None = None
    hooks: dict[str, Run] = field(default_factory=dict)
    session: AgentSession | None = None
    leases: tuple[Lease, ...] | None = None  # as its session was last told
    began: set[str] = field(default_factory=set)  # tokens of the hooks that it ever began

    def runs(self) -> list[Run]:
        return [*([self.drain] if self.drain is not None else []), *self.hooks.values()]


class Work:
    """`now` is the loop's time. Without `calm` jobs begin at random, and commands fail and hang.

    `interrupted` counts the jobs that ran on machines when `terminated` told their end.
    """

    def __init__(
        self,
        chance: random.Random,
        now: Callable[[], float],
        jobs_a_minute: float = 0.0,
        longest_seconds: float = 0.0,
    ) -> None:
        self._chance, self._now = chance, now
        self._ratio, self._longest_seconds = jobs_a_minute / 60, longest_seconds
        self._machines: dict[str, Machine] = {}
        self.calm = False
        self.lost: set[str] = set()  # an order to them was lost
        self.interrupted = 0

    def of(self, instance_id: str) -> Machine:
        return self._machines.setdefault(instance_id, Machine())

    def running(self, instance_id: str) -> list[Job]:
        machine, now = self.of(instance_id), self._now()
        machine.jobs = [job for job in machine.jobs if job.ends_at > now]
        return machine.jobs

    def known_busy(self, instance_id: str, seconds: float = 0.0) -> bool:
        """It holds a lease of which a controller has heard so long ago."""
        horizon = self._now() - seconds
        return any(job.told_at is not None and job.told_at <= horizon for job in self.running(instance_id))

    def give(self, serving: Iterable[str]) -> None:
        """Once a second: to those that serve, unless they work or were drained."""
        for instance_id in serving:
            machine = self.of(instance_id)
            idle = machine.takes_jobs and not self.running(instance_id)
            if idle and not self.calm and self._chance.random() < self._ratio:
                protects = self._chance.random() < 0.1
                self.begin_job(instance_id, self._chance.uniform(2, self._longest_seconds), protects)

    def begin_job(self, instance_id: str, seconds: float, protects: bool = False) -> None:
        now = self._now()
        renews = int(seconds * 1000) % 2  # half of them
        lease_ends_at = now + LEASE_SECONDS if renews else None
        self.of(instance_id).jobs.append(Job(now + seconds, None, protects, lease_ends_at))

    def terminated(self, instance_id: str) -> None:
        self.interrupted += len(self.running(instance_id))
        self.of(instance_id).jobs = []

    def restarted(self, instance_id: str) -> None:
        """The agent's process: what it ran is gone, what the machine works on is not."""
        machine = self.of(instance_id)
        machine.drain, machine.hooks = None, {}

    def order(self, instance_id: str, order: AgentOrder) -> None:
        machine, now = self.of(instance_id), self._now()
        match order:
            case Drain():
                machine.takes_jobs = False
                if machine.drain is None or machine.drain.told:
                    takes = 0.0 if self.calm else self._chance.choice(DRAIN_SECONDS)
                    killed = takes > order.timeout_seconds
                    machine.drain = Run(now + min(takes, order.timeout_seconds), None if killed else 0)
                machine.drain.told = None
            case Resume():
                machine.takes_jobs, machine.drain = True, None
            case RunHook() if order.token in machine.hooks:
                run = machine.hooks[order.token]
                run.told = None
                if run.exit_code is None:  # it goes on until it is killed, and has its time anew
                    run.ends_at = max(run.ends_at, now + order.timeout_seconds)
            case RunHook():
                machine.began.add(order.token)
                machine.hooks[order.token] = self._hook(order)

    def tell(self, instance_id: str, session: AgentSession) -> None:
        """Everything that its controller has not heard yet."""
        machine, now = self.of(instance_id), self._now()
        if machine.session is not session:
            machine.session, machine.leases = session, None
            for run in machine.runs():
                run.told = None
        jobs = self.running(instance_id)
        for job in jobs:
            if job.lease_ends_at is not None and job.lease_ends_at - now < RENEWED_AT_SECONDS:
                job.lease_ends_at = now + LEASE_SECONDS
        leases = tuple(
            Lease(f"job-{number}", "", job.lease_ends_at, protect_from_scale_in=job.protects)
            for number, job in enumerate(jobs)
        )
        if leases != machine.leases:
            session.leases(leases)
            machine.leases = leases
        for job in jobs:
            job.told_at = now if job.told_at is None else job.told_at
        if machine.drain is not None and machine.drain.told is not (ended := machine.drain.ends_at <= now):
            machine.drain.told = ended
            session.drain_progress(ended, machine.drain.exit_code, "drained")
        for token, run in machine.hooks.items():
            if run.told is not (ended := run.ends_at <= now):
                run.told = ended
                session.hook_progress(token, ended, run.exit_code, "done")

    def _hook(self, order: RunHook) -> Run:
        now, takes = self._now(), self._chance.uniform(0.2, 5.0)
        how = "well" if self.calm else self._chance.choice(HOOK_ENDS)
        if how in ("hangs", "somebody") or takes > order.timeout_seconds:
            return Run(now + order.timeout_seconds, None)
        return Run(now + takes, 0 if how == "well" else 1)
