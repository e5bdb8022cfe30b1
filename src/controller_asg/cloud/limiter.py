"""Keeps our calls inside EC2's token buckets, and backs off when EC2 says that it is not enough.

One limiter serves all groups of an account and region. EC2 counts each action by itself, so a describe never takes what
a launch needs; inside one action orders go before checks (a dry run is a RunInstances too), and in each kind the
first to ask is the first to go. A check that waited `PATIENCE_SECONDS` counts as an order, so that nothing starves.

It waits by the clock handed in and draws from the chance handed in, so the simulation runs this very code.
"""

import asyncio
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from controller_asg.model.clock import Clock
from controller_asg.model.errors import ThrottledError

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 20.0
PATIENCE_SECONDS = 10.0
WAITING_LIMIT = 1_000  # calls of one action; beyond it a caller gets ThrottledError at once
_SHORTEST_SLEEP_SECONDS = 0.001  # a sleep that ends a rounding error too early must not spin
_ROUNDING = 1e-6  # tokens


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket that holds `burst` tokens and gets `per_second` back."""

    burst: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Limit:
    requests: Rate
    instances: Rate | None = None  # EC2's "resource tokens": one for each instance of a request


# EC2 Developer Guide, "Request throttling for the Amazon EC2 API", tables of request and of resource token buckets.
# Describes are "non-mutating actions": 100 and 20 a second, because we always filter or page (else 50 and 10).
DESCRIBE = Limit(Rate(100, 20))
LIMITS: Mapping[str, Limit] = {
    "RunInstances": Limit(Rate(5, 2), Rate(1_000, 2)),
    "TerminateInstances": Limit(Rate(100, 5), Rate(1_000, 20)),
    "DescribeInstances": DESCRIBE,
    "DescribeInstanceStatus": DESCRIBE,
    "DescribeSubnets": DESCRIBE,
    "DescribeImages": DESCRIBE,
    "DescribeSecurityGroups": DESCRIBE,
    "DescribeKeyPairs": DESCRIBE,
    "DescribeInstanceTypes": DESCRIBE,
}
OTHER = Limit(Rate(50, 10))  # the smaller of the two documented for reading


class Priority(IntEnum):
    """Who goes first in one action's queue."""

    ORDER = 0
    CHECK = 1


@dataclass(eq=False, slots=True)
class _Bucket:
    rate: Rate
    tokens: float
    at: float

    def refill(self, now: float) -> None:
        self.tokens = min(self.rate.burst, self.tokens + max(0.0, now - self.at) * self.rate.per_second)
        self.at = now

    def wait_seconds(self, cost: float) -> float:
        missing = cost - self.tokens
        return 0.0 if missing <= _ROUNDING else missing / self.rate.per_second


@dataclass(eq=False, slots=True)
class _Ticket:
    priority: Priority
    number: int
    asked_at: float
    instances: float
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def rank(self, now: float) -> tuple[int, int]:
        patient = now - self.asked_at < PATIENCE_SECONDS
        return (int(self.priority) if patient else int(Priority.ORDER), self.number)


@dataclass(eq=False, slots=True)
class _Action:
    """One action's buckets and who waits for them."""

    requests: _Bucket
    instances: _Bucket | None
    waiting: list[_Ticket] = field(default_factory=list)
    throttled_in_a_row: int = 0
    blocked_until: float = float("-inf")

    def first(self, now: float) -> _Ticket:
        return min(self.waiting, key=lambda ticket: ticket.rank(now))

    def wait_seconds(self, now: float, instances: float) -> float:
        self.requests.refill(now)
        wait = max(0.0, self.blocked_until - now, self.requests.wait_seconds(1))
        if self.instances is not None and instances:
            self.instances.refill(now)
            wait = max(wait, self.instances.wait_seconds(instances))
        return wait

    def take(self, instances: float) -> None:
        self.requests.tokens -= 1
        if self.instances is not None:
            self.instances.tokens -= instances


class Limiter:
    """`await turn(...)` before each call; `throttled(...)` or `answered(...)` after it."""

    def __init__(self, clock: Clock, chance: random.Random, limits: Mapping[str, Limit] = LIMITS) -> None:
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._actions: dict[str, _Action] = {}  # bounded by the number of EC2's actions that we call
        self._numbers = itertools.count()

    async def turn(self, action: str, instances: int = 0, priority: Priority = Priority.ORDER) -> None:
        """Returns when the call may be made, its tokens taken. Cancelled, it takes none.

        A request for more instances than the bucket holds waits for a full one.
        """
        state = self._state(action)
        if len(state.waiting) >= WAITING_LIMIT:
            raise ThrottledError(f"{WAITING_LIMIT} calls of {action} wait already", "EC2", "wait")
        cost = min(float(instances), state.instances.rate.burst) if state.instances is not None else 0.0
        ticket = _Ticket(priority, next(self._numbers), self._clock.monotonic(), cost)
        state.waiting.append(ticket)
        try:
            while True:
                now = self._clock.monotonic()
                first = state.first(now)
                if first is not ticket:
                    first.woken.set()  # time alone may have put it first, and then nobody else tells it
                    ticket.woken.clear()
                    await ticket.woken.wait()
                    continue
                wait = state.wait_seconds(now, cost)
                if wait <= 0:
                    state.take(cost)
                    return
                await self._clock.sleep(max(wait, _SHORTEST_SLEEP_SECONDS))
        finally:
            state.waiting.remove(ticket)
            if state.waiting:
                state.first(self._clock.monotonic()).woken.set()

    def throttled(self, action: str, instances: int = 0) -> float:
        """EC2 refused the call for its rate. Empties the action's bucket; returns the seconds until the next call.

        The refused call touched no instance, so its tokens for them come back: a thousand take eight minutes to refill.

        Source: full jitter, AWS Architecture Blog, "Exponential Backoff And Jitter".
        """
        state = self._state(action)
        now = self._clock.monotonic()
        state.requests.refill(now)
        state.requests.tokens = 0.0
        if state.instances is not None:
            state.instances.tokens = min(state.instances.rate.burst, state.instances.tokens + instances)
        # The exponent's bound keeps the power finite; the cap is reached long before.
        ceiling = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(state.throttled_in_a_row, 16))
        state.throttled_in_a_row += 1
        state.blocked_until = max(state.blocked_until, now + self._chance.uniform(0.0, ceiling))
        return state.wait_seconds(now, 0)

    def answered(self, action: str) -> None:
        """EC2 took the call, whatever it said to it: the next throttling starts from the shortest backoff again."""
        self._state(action).throttled_in_a_row = 0

    def _state(self, action: str) -> _Action:
        state = self._actions.get(action)
        if state is None:
            limit = self._limits.get(action, OTHER)
            now = self._clock.monotonic()
            requests = _Bucket(limit.requests, limit.requests.burst, now)
            instances = _Bucket(limit.instances, limit.instances.burst, now) if limit.instances else None
            state = self._actions[action] = _Action(requests, instances)
        return state
