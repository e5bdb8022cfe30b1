"""What every Store does, on both engines.

A new adapter, or a fake, joins by a `Shelf` of its own in the fixture `shelf`.
"""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.decision import Decision, Step, Vote
from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.group import Disk, Group, Image, LaunchParameters
from controller_asg.model.hold import Hold, Process
from controller_asg.model.instance import Instance, LifecycleState
from controller_asg.model.offering import Market, Offering
from controller_asg.model.record import (
    Change,
    DemandMinute,
    GroupRecord,
    LastChange,
    LaunchBackoff,
    LaunchMemory,
    LaunchTemplate,
    PolicyMemories,
    Scheduled,
    State,
    WishedRange,
)
from controller_asg.model.scaling_policy import TargetTracking, Thresholds
from controller_asg.model.scheduled_action import ScheduledAction
from controller_asg.store.migrate import migrate
from controller_asg.store.port import Store
from controller_asg.store.sql import SqlStore
from tests.contract.postgres import PostgresServer, postgres_server  # noqa: F401  the fixture

NOW = datetime(2025, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)


@dataclass(frozen=True)
class Shelf:
    """Where stores stand: each call of `empty_url` names a new one with tables, which any number may open."""

    empty_url: Callable[[], str]

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Store]:
        store = SqlStore(url)
        try:
            await store.open()
            yield store
        finally:
            await store.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    names = iter(range(1_000_000))
    if request.param == "sqlite":

        def empty_url() -> str:
            url = f"sqlite:///{tmp_path}/{next(names)}.db"
            migrate(url)
            return url
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        template = server.create_database()
        migrate(server.url(template))

        def empty_url() -> str:
            return server.url(server.create_database(template))

    return Shelf(empty_url)


@pytest.fixture
async def store(shelf: Shelf) -> AsyncIterator[Store]:
    async with shelf.open(shelf.empty_url()) as store:
        yield store


def group(name: str = "web", desired_capacity: int = 2) -> GroupRecord:
    spec = Group(name=name, launch=LaunchParameters(image=Image(id="ami-12345678")))
    return GroupRecord(spec, 1, "ami-12345678", "v1", desired_capacity, NOW)


def instance(number: int = 0, group: str = "web") -> Instance:
    return Instance(f"i-{number:017x}", group, LifecycleState.IN_SERVICE, NOW, NOW, "", "v1")


def activity(name: str, at: datetime = NOW, group: str = "web", ended_at: datetime | None = None) -> Activity:
    status = ActivityStatus.IN_PROGRESS if ended_at is None else ActivityStatus.SUCCESSFUL
    return Activity(name, group, ActivityKind.TERMINATE, status, "a test", 1, at, ended_at=ended_at)


def decision(summary: str = "nothing to do", group: str = "web", at: datetime = NOW) -> Decision:
    return Decision(group, at, at, 2, 2, (), (), (), summary)


# The life of a store


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.load() == State((), (), ())
    assert await store.activities() == ()
    assert await store.decisions("web") == ()


async def test_what_was_committed_is_there_after_a_reopening(shelf: Shelf) -> None:
    url = shelf.empty_url()
    async with shelf.open(url) as store:
        change = Change(groups=(group(),), instances=(instance(),), activities=(activity("a"),))
        await store.commit(change)
    async with shelf.open(url) as store:
        assert await store.load() == State((group(),), (instance(),), (activity("a"),))


async def test_each_opening_has_a_greater_epoch(shelf: Shelf) -> None:
    url = shelf.empty_url()
    epochs = []
    for _ in range(3):
        store = SqlStore(url)
        epochs += [await store.open(), await store.open()]
        await store.close()
    assert epochs == sorted(set(epochs))


async def test_a_closed_store_refuses_and_closes_again(shelf: Shelf) -> None:
    store = SqlStore(shelf.empty_url())
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.load()


# Commits


async def test_a_second_commit_replaces_what_the_first_wrote(store: Store) -> None:
    await store.commit(Change(groups=(group(),), instances=(instance(),), activities=(activity("a"),)))
    grown = replace(group(desired_capacity=5), version=2)
    gone = replace(instance(), state=LifecycleState.TERMINATING, reason="scale in")
    ended = activity("a", ended_at=NOW)
    await store.commit(Change(groups=(grown,), instances=(gone,), activities=(ended,)))
    assert await store.load() == State((grown,), (gone,), ())
    assert await store.activities() == (ended,)


async def test_what_policies_remember_is_one_document_a_group_however_large(store: Store) -> None:
    await store.commit(Change(groups=(group("web"), group("batch"))))
    assert await store.memories() == ()
    await store.commit(Change(memories=(PolicyMemories("web", "{}"), PolicyMemories("batch", "{"))))
    large = PolicyMemories("web", "7" * 400_000)
    await store.commit(Change(memories=(large,)))
    assert await store.memories() == (PolicyMemories("batch", "{"), large)
    with pytest.raises(StoreError):
        await store.commit(Change(memories=(PolicyMemories("never-was", "{}"),)))


async def test_demand_is_kept_by_the_minute_and_pruned_by_its_own_age(store: Store) -> None:
    minutes = tuple(DemandMinute("web", NOW + timedelta(minutes=n), n / 7, 2.5) for n in range(1201))
    other = replace(minutes[0], group="batch")
    await store.commit(Change(groups=(group("web"), group("batch")), demand=(*minutes[::-1], other)))
    assert await store.demand("web", NOW, NOW + timedelta(minutes=3)) == minutes[:3]
    again = replace(minutes[1], demand=0.0)  # a clock set back went through it a second time
    await store.commit(Change(demand=(again,)))
    assert await store.demand("web", minutes[1].minute_at, minutes[2].minute_at) == (again,)
    assert await store.prune(NOW, minutes[1199].minute_at) == 1200
    assert await store.demand("web", NOW, NOW + timedelta(days=2)) == minutes[1199:]
    with pytest.raises(StoreError):
        await store.commit(Change(demand=(replace(other, group="never-was"),)))


async def test_deleting_a_group_takes_its_instances_memories_and_demand_and_keeps_its_history(
    store: Store,
) -> None:
    both = Change(
        groups=(group("web"), group("batch")),
        instances=(instance(1, "web"), instance(2, "batch")),
        activities=(activity("a", group="web"),),
        memories=(PolicyMemories("web", "{}"), PolicyMemories("batch", "{}")),
        demand=(DemandMinute("web", NOW, 1.5, 2.0), DemandMinute("batch", NOW, 1.5, 2.0)),
        decision=decision(group="web"),
    )
    await store.commit(both)
    await store.commit(Change(deleted_groups=("web", "never-was")))
    assert await store.memories() == (PolicyMemories("batch", "{}"),)
    later = NOW + timedelta(days=1)
    assert await store.demand("web", NOW, later) == ()
    assert len(await store.demand("batch", NOW, later)) == 1
    state = await store.load()
    assert [record.group.name for record in state.groups] == ["batch"]
    assert state.instances == (instance(2, "batch"),)
    assert await store.activities("web") == (activity("a"),)
    assert len(await store.decisions("web")) == 1


async def test_what_a_change_both_writes_and_deletes_is_gone(store: Store) -> None:
    await store.commit(Change(groups=(group(), group("batch"))))
    change = Change(
        groups=(group(),),
        instances=(instance(1), instance(2, "batch")),
        deleted_groups=("web",),
        deleted_instances=(instance(2).instance_id, "i-never-was"),
    )
    await store.commit(change)
    assert await store.load() == State((group("batch"),), (), ())


async def test_an_empty_change_is_a_commit_too(store: Store) -> None:
    assert await store.commit(Change()) == 0


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(Change(instances=(instance(9, "no-such-group"),)), id="instance-without-group"),
        pytest.param(Change(groups=(group(desired_capacity=-1),)), id="capacity-below-zero"),
        pytest.param(
            Change(groups=(replace(group(), group=replace(group().group, min_size=6)),)), id="min-above-max"
        ),
    ],
)
async def test_a_refused_change_leaves_nothing(store: Store, refused: Change) -> None:
    await store.commit(Change(groups=(group(),)))
    half = replace(refused, activities=(activity("a"),), decision=decision())
    with pytest.raises(StoreError):
        await store.commit(half)
    assert await store.load() == State((group(),), (), ())
    assert await store.decisions("web") == ()
    assert await store.commit(Change(decision=decision())) > 0


async def test_commits_of_many_tasks_are_each_whole(store: Store) -> None:
    await store.commit(Change(groups=(group(),)))
    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            change = Change(instances=(instance(number),), activities=(activity(f"a{number}"),))
            tasks.create_task(store.commit(change), name=f"commit:{number}")
    state = await store.load()
    assert len(state.instances) == len(state.open_activities) == 20


async def test_words_no_engine_can_hold_do_not_stop_a_commit(store: Store) -> None:
    console = replace(activity("a"), details="boot\x00ed \udcff\n")
    await store.commit(Change(activities=(console,)))
    assert (await store.activities())[0].details == "boot\ufffded \ufffd\n"


async def test_a_launch_request_survives_whatever_its_user_data_holds(store: Store) -> None:
    launch = LaunchRequest("a", "web", "v1", 2, "ami-12345678", "t2.micro", user_data="#!\x00\ud800 ü 𝄞\r\n")
    launching = replace(activity("a"), kind=ActivityKind.LAUNCH, launch=launch)
    await store.commit(Change(activities=(launching,)))
    assert (await store.activities())[0].launch == launch


async def test_times_are_cut_to_whole_milliseconds(store: Store) -> None:
    await store.commit(Change(activities=(activity("a", at=NOW + timedelta(microseconds=999)),)))
    assert (await store.activities())[0].started_at == NOW


# Decisions


async def test_a_repeated_decision_stays_one_record(store: Store) -> None:
    first = await store.commit(Change(decision=decision()))
    later = NOW + timedelta(seconds=9)
    again = replace(
        decision(),
        decision_id=first,
        last_at=later,
        count=2,
        votes=(Vote("cpu", None, "no sample"), Vote("queue", 4, "long", victims=("i-1",))),
        steps=(Step("max_size", 9, 5, "max_size is 5"),),
        actions=("launch 3",),
        summary="grow",
    )
    assert await store.commit(Change(decision=again)) == first
    assert await store.decisions("web") == (again,)


async def test_decisions_come_newest_first_of_one_group(store: Store) -> None:
    for number in range(5):
        await store.commit(Change(decision=decision(str(number), "web")))
        await store.commit(Change(decision=decision(str(number), "batch")))
    newest = await store.decisions("web", limit=3)
    assert [(one.group, one.summary) for one in newest] == [("web", "4"), ("web", "3"), ("web", "2")]


async def test_a_decision_whose_record_was_pruned_gets_a_new_one(store: Store) -> None:
    first = await store.commit(Change(decision=decision()))
    assert await store.prune(NOW + timedelta(days=1), NOW) == 1
    second = await store.commit(Change(decision=replace(decision(), decision_id=first)))
    assert second > first
    assert [one.decision_id for one in await store.decisions("web")] == [second]


async def test_a_decision_never_overwrites_another_groups(store: Store) -> None:
    first = await store.commit(Change(decision=decision(group="web")))
    second = await store.commit(Change(decision=replace(decision(group="batch"), decision_id=first)))
    assert second != first
    assert [one.group for one in await store.decisions("web")] == ["web"]


# Activities


async def test_activities_come_newest_first(store: Store) -> None:
    at = [NOW + timedelta(seconds=number) for number in range(4)]
    made = (
        activity("a", at[0], "web"),
        activity("b", at[1], "batch", ended_at=at[3]),
        activity("c", at[2], "web", ended_at=at[3]),
        activity("d", at[3], "web"),
    )
    await store.commit(Change(activities=made))
    a, b, c, d = made
    assert await store.activities() == (d, c, b, a)
    assert await store.activities(limit=2) == (d, c)
    assert await store.activities("web") == (d, c, a)
    assert await store.activities("web", open_only=True) == (d, a)
    assert await store.activities("nobody") == ()
    assert (await store.load()).open_activities == (a, d)


# Pruning


async def test_prune_forgets_what_ended_before_and_nothing_else(store: Store) -> None:
    old, young = NOW - timedelta(days=40), NOW
    ended_unstamped = replace(activity("bug", old), status=ActivityStatus.FAILED)
    made = (
        activity("open", old),
        activity("old", old, ended_at=old),
        activity("long", old, ended_at=young),
        activity("young", young, ended_at=young),
        ended_unstamped,
    )
    await store.commit(Change(activities=made, decision=decision("old", at=old)))
    await store.commit(Change(decision=replace(decision("long", at=old), last_at=young)))
    assert await store.prune(NOW - timedelta(days=30), NOW) == 3
    assert {one.activity_id for one in await store.activities()} == {"open", "long", "young"}
    assert [one.summary for one in await store.decisions("web")] == ["long"]
    assert await store.prune(NOW - timedelta(days=30), NOW) == 0


async def test_prune_goes_on_past_a_batch(store: Store) -> None:
    made = tuple(activity(f"a{number}", ended_at=NOW) for number in range(1203))
    await store.commit(Change(activities=made))
    assert await store.prune(NOW + timedelta(seconds=1), NOW) == 1203


# The fence


async def test_an_older_controller_can_neither_commit_nor_prune(shelf: Shelf) -> None:
    url = shelf.empty_url()
    async with shelf.open(url) as older:
        await older.commit(Change(groups=(group(),)))
        async with shelf.open(url) as newer:
            with pytest.raises(FencedError):
                await older.commit(Change(deleted_groups=("web",), decision=decision()))
            with pytest.raises(FencedError):
                await older.prune(NOW, NOW)
            await newer.commit(Change(instances=(instance(),)))
            assert await older.load() == await newer.load() == State((group(),), (instance(),), ())
        with pytest.raises(FencedError):
            await older.commit(Change())


@given(script=st.lists(st.tuples(st.sampled_from(["open", "commit"]), st.integers(0, 2)), max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_only_the_last_to_open_ever_writes(shelf: Shelf, script: list[tuple[str, int]]) -> None:
    url = shelf.empty_url()
    stores = [SqlStore(url) for _ in range(3)]
    opened, leader, written = set[int](), -1, 0
    for verb, who in script:
        if verb == "open" or who not in opened:
            await stores[who].open()
            opened.add(who)
            leader = who
        elif who == leader:
            written = await stores[who].commit(Change(decision=decision()))
        else:
            with pytest.raises(FencedError):
                await stores[who].commit(Change(decision=decision()))
    assert [one.decision_id for one in await stores[0].decisions("web", limit=1)] == [written] * (written > 0)
    for store in stores:
        await store.close()


# Any change round-trips

words = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
any_words = st.text(max_size=12)  # NUL and lone surrogates too: JSON holds them
names = st.sampled_from(["web", "batch", "edge"])
times = st.integers(0, 4_000_000_000_000).map(
    lambda unix_ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
)
sizes = st.integers(0, 10_000)
launches = st.builds(
    LaunchRequest,
    client_token=any_words,
    group=names,
    launch_version=any_words,
    count=sizes,
    image_id=any_words,
    instance_type=any_words,
    security_groups=st.lists(any_words, max_size=2).map(tuple),
    disks=st.lists(
        st.tuples(any_words, sizes, any_words, sizes, sizes, st.none() | st.booleans(), st.booleans()),
        max_size=2,
    ).map(tuple),
    tags=st.lists(st.tuples(any_words, any_words), max_size=2).map(tuple),
    user_data=any_words,
    spot=st.booleans(),
)
activities = st.builds(
    Activity,
    activity_id=st.uuids().map(str),
    group=names,
    kind=st.sampled_from(ActivityKind),
    status=st.sampled_from(ActivityStatus),
    cause=words,
    instance_count=sizes,
    started_at=times,
    instance_ids=st.lists(any_words, max_size=3).map(tuple),
    ended_at=st.none() | times,
    status_message=words,
    decision_id=st.none() | st.integers(1, 2**40),
    launch=st.none() | launches,
    details=words,
    acknowledged=st.booleans(),
)
instances = st.builds(
    Instance,
    instance_id=st.integers(0, 2**64).map("i-{:017x}".format),
    group=names,
    state=st.sampled_from(LifecycleState),
    state_since_at=times,
    launched_at=times,
    activity_id=words,
    launch_version=words,
    zone=words,
    instance_type=words,
    private_ip=words,
    in_service_at=st.none() | times,
    protected_from_scale_in=st.booleans(),
    reason=words,
    bootstrapped_at=st.none() | times,
    marked_unhealthy=words,
    market=st.sampled_from(Market),
)
policies = st.builds(TargetTracking, metric=words, target=st.floats(0.001, 1e9), name=words) | st.builds(
    Thresholds, metric=words, create_above=st.floats(-1e9, 1e9), enabled=st.booleans()
)
launches = st.builds(
    LaunchParameters,
    image=st.builds(Image, name=words),
    tags=st.dictionaries(words, words, max_size=2),
    disks=st.lists(st.builds(Disk, device=st.just("/dev/xvda"), size_gib=st.integers(1, 99))).map(tuple),
    user_data=words,
)
specs = st.builds(
    Group,
    name=st.just("web"),
    launch=launches,
    min_size=st.integers(0, 5),
    max_size=st.integers(5, 10_000),
    policies=st.lists(policies, max_size=2).map(tuple),
    scheduled_actions=st.lists(
        st.builds(ScheduledAction, st.just("morning"), start_time=times | st.datetimes(), min_size=sizes),
        max_size=2,
    ).map(tuple),
    default_instance_warmup_seconds=st.floats(0, 600_000),
)
offerings = st.builds(Offering, words, st.just("t3.micro"), st.sampled_from(Market))
holds = st.builds(Hold, any_words, any_words, times, st.none() | times, st.booleans())
records = st.builds(
    GroupRecord,
    group=specs,
    version=st.integers(1, 2**31 - 1),
    image_id=words,
    launch_version=words,
    desired_capacity=sizes,
    applied_at=times,
    spot_returned_at=st.none() | times,
    backoffs=st.lists(
        st.builds(LaunchBackoff, st.none() | offerings, sizes, times, any_words), max_size=2
    ).map(tuple),
    last_changes=st.lists(st.builds(LastChange, any_words, any_words, times), max_size=2).map(tuple),
    launch_memory=st.builds(
        LaunchMemory,
        good=st.none() | st.builds(LaunchTemplate, any_words, any_words, launches, st.just("role")),
        failures=st.lists(st.tuples(any_words, sizes), max_size=2).map(tuple),
        recent=st.lists(st.tuples(times, sizes), max_size=2).map(tuple),
    ),
    size_changes=st.lists(st.tuples(times, st.integers(-9, 9)), max_size=2).map(tuple),
    wished=st.lists(st.builds(WishedRange, times, st.none() | times, sizes, sizes), max_size=2).map(tuple),
    scheduled=st.lists(st.builds(Scheduled, any_words, times, st.booleans()), max_size=2).map(tuple),
    suspended=st.lists(st.tuples(st.sampled_from(Process), holds), max_size=2).map(tuple),
    protections=st.lists(st.tuples(any_words, holds), max_size=2).map(tuple),
)
votes = st.builds(Vote, any_words, st.none() | sizes, any_words, st.lists(any_words, max_size=2).map(tuple))
steps = st.builds(Step, any_words, st.integers(), st.integers(), any_words)
decisions = st.builds(
    Decision,
    group=names,
    first_at=times,
    last_at=times,
    desired_before=sizes,
    desired_after=sizes,
    votes=st.lists(votes, max_size=2).map(tuple),
    steps=st.lists(steps, max_size=2).map(tuple),
    actions=st.lists(any_words, max_size=2).map(tuple),
    summary=words,
    count=st.integers(1, 2**31 - 1),
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Groups of all names, so that every instance has one; ids within a change are unique."""
    groups = tuple(
        replace(record, group=replace(record.group, name=name))
        for name, record in zip(
            ["batch", "edge", "web"], draw(st.tuples(records, records, records)), strict=True
        )
    )
    return Change(
        groups=groups,
        instances=tuple(draw(st.lists(instances, max_size=4, unique_by=lambda one: one.instance_id))),
        activities=tuple(draw(st.lists(activities, max_size=4, unique_by=lambda one: one.activity_id))),
        decision=draw(st.none() | decisions),
    )


@given(change=changes())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_change_comes_back_as_it_was_written(store: Store, change: Change) -> None:
    before = await store.load()
    away = tuple(one.instance_id for one in before.instances)
    closed = tuple(
        replace(one, status=ActivityStatus.CANCELLED, ended_at=NOW) for one in before.open_activities
    )
    await store.commit(Change(deleted_instances=away, activities=closed))

    decision_id = await store.commit(change)

    state = await store.load()
    assert state.groups == change.groups
    assert set(state.instances) == set(change.instances)
    still_open = {one for one in change.activities if one.status is ActivityStatus.IN_PROGRESS}
    assert set(state.open_activities) == still_open
    assert set(change.activities) <= set(await store.activities(limit=10_000))
    if change.decision is None:
        assert decision_id == 0
    else:
        written = replace(change.decision, decision_id=decision_id)
        assert await store.decisions(change.decision.group, limit=1) == (written,)


# Crashes

COMMIT_LOOP = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from tests.contract.test_store_contract import Change, SqlStore, numbered

async def main():
    store = SqlStore(sys.argv[2])
    await store.open()
    number = 0
    while True:
        number += 1
        await store.commit(numbered(number))
        print(number, flush=True)

asyncio.run(main())
"""


def numbered(number: int) -> Change:
    """The change a crashing process makes as its n-th: a part of it in every table."""
    return Change(
        groups=(group(desired_capacity=number),),
        instances=(instance(2 * number), instance(2 * number + 1)),
        activities=(activity(f"a{number:09}"),),
        decision=decision(str(number)),
    )


def commit_until_killed(url: str, commits: int) -> int:
    """Kill a committing process somewhere after so many commits; the number of the last one it had acknowledged."""
    command = [sys.executable, "-c", COMMIT_LOOP, str(Path(__file__).parents[2]), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        lines += process.stdout.readlines()
    return max(int(line) for line in lines if line.endswith("\n"))


@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_process_loses_no_acknowledged_commit_and_leaves_no_half(
    shelf: Shelf, seed: int
) -> None:
    url = shelf.empty_url()
    acknowledged = commit_until_killed(url, random.Random(seed).randrange(1, 200))
    async with shelf.open(url) as store:
        state = await store.load()
        written = state.groups[0].desired_capacity
        # The one under way when the process died may be there too, or not.
        assert acknowledged <= written <= acknowledged + 1
        assert len(state.instances) == 2 * written
        assert [one.activity_id for one in state.open_activities] == [
            f"a{number:09}" for number in range(1, written + 1)
        ]
        assert len(await store.decisions("web", limit=10_000)) == written
        await store.commit(Change(deleted_groups=("web",)))
