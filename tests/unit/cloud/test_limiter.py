"""The limiter in virtual time: never over EC2's buckets, orders before checks, and nobody left behind."""

import asyncio
import heapq
import itertools
import random
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller_asg.cloud.limiter import (
    BACKOFF_BASE_SECONDS,
    BACKOFF_CAP_SECONDS,
    LIMITS,
    PATIENCE_SECONDS,
    WAITING_LIMIT,
    Limit,
    Limiter,
    Priority,
    Rate,
)
from controller_asg.model.errors import ThrottledError


class VirtualClock:
    """Time that moves only when every task waits for it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self._now)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), woken))
        await woken

    async def run(self, *stories: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(story) for story in stories]
        while not all(task.done() for task in tasks):
            for _ in range(5 + 2 * len(tasks)):  # each task gets further than any chain of wake-ups is long
                await asyncio.sleep(0)
            if all(task.done() for task in tasks):
                break
            assert self._sleepers, "every task waits, and none for the clock: a deadlock"
            at, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            if not woken.done():
                woken.set_result(None)
        for task in tasks:
            task.result()


Call = tuple[float, int, Priority]  # asked at, instances, priority


def play(calls: list[Call], action: str = "RunInstances") -> list[tuple[float, int]]:
    """(when it went, index of the call), in the order in which they went."""
    went: list[tuple[float, int]] = []

    async def story() -> None:
        clock = VirtualClock()
        limiter = Limiter(clock, random.Random(0))

        async def one(index: int, call: Call) -> None:
            at, instances, priority = call
            await clock.sleep(at)
            await limiter.turn(action, instances, priority)
            went.append((clock.monotonic(), index))

        await clock.run(*(one(index, call) for index, call in enumerate(calls)))

    asyncio.run(story())
    return went


def calls(most: int = 1) -> st.SearchStrategy[list[Call]]:
    call = st.tuples(
        st.floats(0, 30, allow_nan=False),
        st.integers(1, most),
        st.sampled_from([Priority.ORDER, Priority.CHECK]),
    )
    return st.lists(call, min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(calls())
def test_no_span_of_time_holds_more_calls_than_burst_and_refill(asked: list[Call]) -> None:
    rate = LIMITS["RunInstances"].requests
    times = [at for at, _ in play(asked)]
    for first, last in itertools.combinations(range(len(times)), 2):
        span = times[last] - times[first]
        assert last - first + 1 <= rate.burst + rate.per_second * span + 1e-3


@settings(deadline=None, max_examples=60)
@given(calls(most=700))
def test_no_span_of_time_holds_more_instances_than_burst_and_refill(asked: list[Call]) -> None:
    rate = LIMITS["RunInstances"].instances
    assert rate is not None
    went = play(asked)
    for first, last in itertools.combinations(range(len(went)), 2):
        total = sum(asked[index][1] for _, index in went[first : last + 1])
        assert total <= rate.burst + rate.per_second * (went[last][0] - went[first][0]) + 1e-3


@settings(deadline=None, max_examples=60)
@given(calls(most=300))
def test_every_call_gets_its_turn_once(asked: list[Call]) -> None:
    assert sorted(index for _, index in play(asked)) == list(range(len(asked)))


@settings(deadline=None, max_examples=60)
@given(calls())
def test_an_order_waits_for_no_check_that_is_still_patient(asked: list[Call]) -> None:
    went = {index: at for at, index in play(asked)}
    for order, check in itertools.product(range(len(asked)), repeat=2):
        if asked[order][2] is Priority.ORDER and asked[check][2] is Priority.CHECK:
            both_wait = asked[order][0] < went[check] - 1e-3 and asked[check][0] < went[order]
            impatient = went[check] - asked[check][0] >= PATIENCE_SECONDS - 1e-3
            assert not (both_wait and went[check] < went[order]) or impatient


def test_a_check_is_not_starved_by_orders_without_end() -> None:
    orders: list[Call] = [
        (0.25 * n, 1, Priority.ORDER) for n in range(200)
    ]  # twice what the bucket gets back
    went = {index: at for at, index in play([*orders, (3.0, 1, Priority.CHECK)])}
    # Patience, and then the queue of orders that came before it.
    assert went[200] <= 3.0 + 2 * PATIENCE_SECONDS


def test_calls_of_one_action_take_nothing_from_another() -> None:
    async def story() -> None:
        clock = VirtualClock()
        limiter = Limiter(clock, random.Random(0))

        async def describes() -> None:
            for _ in range(100):
                await limiter.turn("DescribeInstances")
            await limiter.turn("RunInstances", 1)
            assert clock.monotonic() == 0

        await clock.run(describes())

    asyncio.run(story())


def test_more_instances_than_the_bucket_holds_wait_for_a_full_one() -> None:
    assert [at for at, _ in play([(0, 1, Priority.ORDER), (0, 5_000, Priority.ORDER)])] == [
        0,
        pytest.approx(0.5),
    ]


def test_a_cancelled_wait_takes_no_token_and_holds_nobody_up() -> None:
    async def story() -> None:
        clock = VirtualClock()
        limiter = Limiter(clock, random.Random(0), {"X": Limit(Rate(1, 1))})

        async def cancelled_then_next() -> None:
            await limiter.turn("X")
            waiting = [asyncio.create_task(limiter.turn("X")) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()  # it was first, and asleep
            waiting[1].cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert waiting[2].done()
            assert clock.monotonic() == pytest.approx(1)

        await clock.run(cancelled_then_next())

    asyncio.run(story())


@given(seed=st.integers(), failures=st.integers(1, 40))
def test_throttling_empties_the_bucket_and_backs_off_within_full_jitter(seed: int, failures: int) -> None:
    limiter = Limiter(VirtualClock(), random.Random(seed))
    waits = [limiter.throttled("DescribeInstances") for _ in range(failures)]
    for number, wait in enumerate(waits):
        refilled = 1 / LIMITS["DescribeInstances"].requests.per_second
        longest_before = max(BACKOFF_BASE_SECONDS * 2.0 ** min(n, 16) for n in range(number + 1))
        assert refilled <= wait <= max(refilled, min(BACKOFF_CAP_SECONDS, longest_before))


def test_an_answer_ends_the_growth_of_the_backoff() -> None:
    limiter = Limiter(VirtualClock(), random.Random(1))
    for _ in range(20):
        limiter.throttled("RunInstances")
    limiter.answered("RunInstances")
    fresh = Limiter(VirtualClock(), random.Random(1))
    assert fresh.throttled("RunInstances") <= max(BACKOFF_BASE_SECONDS, 0.5)


def test_a_throttled_launch_of_many_does_not_wait_for_their_tokens_again() -> None:
    async def story() -> None:
        clock = VirtualClock()
        limiter = Limiter(clock, random.Random(0))

        async def twice() -> None:
            await limiter.turn("RunInstances", 1_000)
            wait = limiter.throttled("RunInstances", 1_000)
            await limiter.turn("RunInstances", 1_000)
            assert clock.monotonic() == pytest.approx(wait)

        await clock.run(twice())

    asyncio.run(story())


def test_the_same_seed_gives_the_same_waits() -> None:
    def waits(seed: int) -> list[float]:
        limiter = Limiter(VirtualClock(), random.Random(seed))
        return [limiter.throttled("RunInstances") for _ in range(8)]

    assert waits(7) == waits(7)
    assert waits(7) != waits(8)


def test_the_queue_is_bounded() -> None:
    async def story() -> None:
        clock = VirtualClock()
        limiter = Limiter(clock, random.Random(0), {"X": Limit(Rate(1, 0.001))})
        waiting = [asyncio.create_task(limiter.turn("X")) for _ in range(WAITING_LIMIT + 1)]
        await asyncio.sleep(0)
        with pytest.raises(ThrottledError):
            await limiter.turn("X")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(story())
