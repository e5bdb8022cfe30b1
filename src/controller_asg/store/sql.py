"""The SQL adapter of the port `Store`: SQLite by default, PostgreSQL by another URL.

Every call runs in the store's own thread, one after the other, and in one transaction. Every transaction that writes
begins with the fence: it sets the writer row's `commit_number` where the epoch is still ours, which also locks that
row on PostgreSQL, so a newer writer's `open` and our commit can't pass each other.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cache, partial
from importlib import import_module
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    Delete,
    Engine,
    Insert,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    insert,
    inspect,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from controller_asg.model.activity import Activity, ActivityStatus
from controller_asg.model.decision import Decision
from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.record import Change, DemandMinute, PolicyMemories, State
from controller_asg.store.connect import (
    BEGIN_OPTION,
    display,
    is_sqlite,
    make_engine,
    parse_url,
    sqlite_path,
)
from controller_asg.store.driver_errors import MIGRATE, store_error
from controller_asg.store.rows import (
    Row,
    activity_from_row,
    activity_to_row,
    decision_from_row,
    decision_to_row,
    demand_from_row,
    demand_to_row,
    group_from_row,
    group_to_row,
    instance_from_row,
    instance_to_row,
    memories_from_row,
    memories_to_row,
)
from controller_asg.store.schema import (
    ACTIVITIES,
    DECISIONS,
    DEMAND_MINUTES,
    GROUPS,
    INSTANCES,
    POLICY_MEMORIES,
    SCHEMA_REVISION,
    WRITER,
)

PRUNE_BATCH_ROWS = 500  # a transaction of some 10 ms, so that a pass's commit never waits long behind it

T = TypeVar("T")


class SqlStore:
    """A `Store`. `url` is SQLAlchemy's; no connection is made before the first call.

    `timeout_seconds` bounds every call as a whole, its time in the queue included; a lock, a statement or a connection
    is waited for half as long, so that the reason is known before the call ends. A commit that timed out, or whose
    connection was lost, may be in the store: the error says so. Making it again is right; at worst its decision is
    there twice.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        self._url = parse_url(url)
        self._where = display(self._url)
        self._timeout_seconds = timeout_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._engine = make_engine(self._url, timeout_seconds / 2)
        self._reader = _reader(self._engine)
        self._epoch = 0
        self._commit_number = 0
        self._closed = False

    async def open(self) -> int:
        return await self._call(self._open)

    async def load(self) -> State:
        return await self._call(self._load)

    async def memories(self) -> tuple[PolicyMemories, ...]:
        query = select(POLICY_MEMORIES).order_by(POLICY_MEMORIES.c.group_name)
        return await self._call(partial(self._read, query, memories_from_row))

    async def commit(self, change: Change) -> int:
        return await self._call(partial(self._write, partial(_apply, change)))

    async def activities(
        self, group: str = "", limit: int = 50, open_only: bool = False
    ) -> tuple[Activity, ...]:
        assert limit >= 0, "a limit below zero is none at all on SQLite and an error on PostgreSQL"
        query = _newest_activities(open_only).limit(limit)
        if group:
            query = query.where(ACTIVITIES.c.group_name == group)
        return await self._call(partial(self._read, query, activity_from_row))

    async def decisions(self, group: str, limit: int = 20) -> tuple[Decision, ...]:
        """Newest first by the order of their making, for the clock may have stepped."""
        assert limit >= 0, "a limit below zero is none at all on SQLite and an error on PostgreSQL"
        query = (
            select(DECISIONS)
            .where(DECISIONS.c.group_name == group)
            .order_by(DECISIONS.c.decision_id.desc())
            .limit(limit)
        )
        return await self._call(partial(self._read, query, decision_from_row))

    async def demand(self, group: str, since: datetime, until: datetime) -> tuple[DemandMinute, ...]:
        minute = DEMAND_MINUTES.c.minute_unix_ms
        query = (
            select(DEMAND_MINUTES)
            .where(DEMAND_MINUTES.c.group_name == group, minute >= since, minute < until)
            .order_by(minute)
        )
        return await self._call(partial(self._read, query, demand_from_row))

    async def prune(self, before: datetime, demand_before: datetime) -> int:
        """Each batch is a call and a transaction of its own: commits pass between, and a failure keeps the rest."""
        pruned = 0
        for batch in (_stale_activities(before), _stale_decisions(before), _stale_demand(demand_before)):
            while True:
                gone = await self._call(partial(self._write, partial(_delete, batch)))
                pruned += gone
                if gone < PRUNE_BATCH_ROWS:
                    break
        return pruned

    async def close(self) -> None:
        """Waits for the call under way. Harmless when repeated; every other call afterwards raises StoreError."""
        if self._closed:
            return
        try:
            await self._call(self._engine.dispose)
        finally:
            self._closed = True
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _call(self, work: Callable[[], T]) -> T:
        """Run `work` in the store's thread; every failure of the world is a StoreError."""
        if self._closed:
            raise StoreError("closed", self._where)
        loop = asyncio.get_running_loop()
        try:
            # On a timeout, work that still waits in the queue is taken out of it; work under way can't be stopped.
            async with asyncio.timeout(self._timeout_seconds):
                return await loop.run_in_executor(self._thread, work)
        except TimeoutError as error:
            what = f"no answer in {self._timeout_seconds:g} s; what was written may yet get into it"
            raise StoreError(what, self._where, "look at the load and the disk of the store") from error
        except DBAPIError as error:
            raise store_error(error, self._where) from error
        except SQLAlchemyError as error:
            raise StoreError(str(error), self._where) from error

    # What follows runs in the store's thread.

    def _open(self) -> int:
        if is_sqlite(self._url) and not sqlite_path(self._url).exists():
            raise StoreError("there is no such file", self._where, MIGRATE)
        with self._engine.begin() as connection:
            self._check_schema(connection)
            epoch = connection.execute(
                update(WRITER).values(epoch=WRITER.c.epoch + 1, commit_number=0).returning(WRITER.c.epoch)
            ).scalar_one_or_none()
            if epoch is None:
                raise StoreError("the row of table writer is gone", self._where, "restore a backup")
        self._epoch, self._commit_number = epoch, 0
        return self._epoch

    def _check_schema(self, connection: Connection) -> None:
        """Alembic's own table is read, so that the daemon need not import Alembic."""
        if not inspect(connection).has_table("alembic_version"):
            raise StoreError("it has no tables yet", self._where, MIGRATE)
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""
        if found == SCHEMA_REVISION:
            return
        what = f"its schema is {found or 'empty'}, this release needs {SCHEMA_REVISION}"
        if found < SCHEMA_REVISION:  # four digits, so text compares as numbers do
            raise StoreError(what, self._where, MIGRATE)
        mend = "start the newer release whose `controller-asg migrate` made it, or restore the backup from before"
        raise StoreError(what, self._where, mend)

    def _load(self) -> State:
        """One transaction, hence one moment, also while another controller writes."""
        with self._reader.begin() as connection:
            groups = _rows(connection, select(GROUPS).order_by(GROUPS.c.name))
            instances = _rows(connection, select(INSTANCES).order_by(INSTANCES.c.instance_id))
            activities = _rows(connection, _newest_activities(open_only=True))
        return State(
            groups=self._decode(groups, group_from_row),
            instances=self._decode(instances, instance_from_row),
            open_activities=self._decode(activities, activity_from_row)[
                ::-1
            ],  # oldest first: the order of replay
        )

    def _read(self, query: Select[Any], decode: Callable[[Row], T]) -> tuple[T, ...]:
        with self._reader.begin() as connection:
            rows = _rows(connection, query)
        return self._decode(rows, decode)

    def _decode(self, rows: Iterable[Row], decode: Callable[[Row], T]) -> tuple[T, ...]:
        decoded = []
        for row in rows:
            try:
                decoded.append(decode(row))
            except (ValueError, KeyError, TypeError) as error:
                key, value = next(iter(row.items()))
                what = f"the row with {key} {value} is not readable by this release ({type(error).__name__})"
                mend = "start the release that wrote it, or restore a backup"
                raise StoreError(what, self._where, mend) from error
        return tuple(decoded)

    def _write(self, work: Callable[[Connection], T]) -> T:
        """One fenced transaction, all of it or nothing."""
        assert self._epoch > 0, "open() comes before every write"
        self._commit_number += 1  # also after a failure: no two transactions of an epoch share a number
        number, committing = self._commit_number, False
        try:
            with self._engine.begin() as connection:
                self._fence(connection, number)
                result = work(connection)
                committing = True
        except DBAPIError as error:
            if not (committing and error.connection_invalidated):
                raise
            if not self._landed(number, error):
                raise
        return result

    def _fence(self, connection: Connection, number: int) -> None:
        ours = update(WRITER).where(WRITER.c.epoch == self._epoch).values(commit_number=number)
        if connection.execute(ours).rowcount != 1:
            raise self._fenced()

    def _fenced(self) -> FencedError:
        what = f"another controller has taken it over since epoch {self._epoch}"
        return FencedError(what, self._where, "stop this one; a store has one writer")

    def _landed(self, number: int, lost: DBAPIError) -> bool:
        """Whether the transaction whose COMMIT was not answered is in the store. PostgreSQL only.

        Its session may not have ended yet. It holds the writer row's lock, so we wait for that before we look.
        """
        try:
            with self._engine.begin() as connection:
                writer = connection.execute(select(WRITER).with_for_update()).one()
        except DBAPIError:
            what = "the connection was lost in a COMMIT, which may be in the store or not"
            mend = "see that PostgreSQL runs and that this machine reaches it"
            raise StoreError(what, self._where, mend) from lost
        if writer.epoch != self._epoch:
            raise self._fenced() from lost
        return bool(writer.commit_number == number)


def _reader(engine: Engine) -> Engine:
    """The same connections, for transactions that see one moment and write nothing."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{BEGIN_OPTION: "BEGIN"})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [row._asdict() for row in connection.execute(query)]


def _apply(change: Change, connection: Connection) -> int:
    """All of the change. Deletions come last: what is both written and deleted is gone."""
    _upsert_all(connection, GROUPS, map(group_to_row, change.groups))
    _upsert_all(connection, INSTANCES, map(instance_to_row, change.instances))
    _upsert_all(connection, ACTIVITIES, map(activity_to_row, change.activities))
    _upsert_all(connection, POLICY_MEMORIES, map(memories_to_row, change.memories))
    _upsert_all(connection, DEMAND_MINUTES, map(demand_to_row, change.demand))
    decision_id = 0 if change.decision is None else _write_decision(connection, change.decision)
    if change.deleted_instances:
        gone = [{"key": instance_id} for instance_id in change.deleted_instances]
        connection.execute(delete(INSTANCES).where(INSTANCES.c.instance_id == bindparam("key")), gone)
    if change.deleted_groups:  # the foreign keys take their instances, memories and demand along
        gone = [{"key": name} for name in change.deleted_groups]
        connection.execute(delete(GROUPS).where(GROUPS.c.name == bindparam("key")), gone)
    return decision_id


def _upsert_all(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    written = list(rows)
    if written:
        connection.execute(_upsert(connection.dialect.name, table), written)


@cache
def _upsert(dialect: str, table: Table) -> Insert:
    statement = import_module(f"sqlalchemy.dialects.{dialect}").insert(table)
    updated = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    upsert: Insert = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=updated)
    return upsert


def _write_decision(connection: Connection, decision: Decision) -> int:
    """The id of its row: a new one also where the old one was pruned meanwhile."""
    row = decision_to_row(decision)
    if decision.decision_id:
        names = ("last_unix_ms", "count", "votes", "steps", "actions", "summary")
        known = and_(
            DECISIONS.c.decision_id == decision.decision_id, DECISIONS.c.group_name == decision.group
        )
        again = update(DECISIONS).where(known).values({name: row[name] for name in names})
        if connection.execute(again).rowcount == 1:
            return decision.decision_id
    new = insert(DECISIONS).returning(DECISIONS.c.decision_id)
    return int(connection.execute(new, row).scalar_one())


def _newest_activities(open_only: bool) -> Select[Any]:
    query = select(ACTIVITIES).order_by(ACTIVITIES.c.started_unix_ms.desc(), ACTIVITIES.c.activity_id.desc())
    # A literal, not a parameter: a prepared statement's plan uses the partial index only when it sees the value.
    return query.where(ACTIVITIES.c.status == text("'InProgress'")) if open_only else query


def _stale_activities(before: datetime) -> Delete:
    ended, started = ACTIVITIES.c.ended_unix_ms, ACTIVITIES.c.started_unix_ms
    stale = (
        select(ACTIVITIES.c.activity_id)
        .where(ACTIVITIES.c.status != ActivityStatus.IN_PROGRESS.value)
        .where(or_(ended < before, and_(ended.is_(None), started < before)))
        .limit(PRUNE_BATCH_ROWS)
    )
    return delete(ACTIVITIES).where(ACTIVITIES.c.activity_id.in_(stale))


def _stale_decisions(before: datetime) -> Delete:
    last = DECISIONS.c.last_unix_ms
    stale = select(DECISIONS.c.decision_id).where(last < before).limit(PRUNE_BATCH_ROWS)
    return delete(DECISIONS).where(DECISIONS.c.decision_id.in_(stale))


def _stale_demand(before: datetime) -> Delete:
    key = tuple_(DEMAND_MINUTES.c.group_name, DEMAND_MINUTES.c.minute_unix_ms)
    stale = (
        select(DEMAND_MINUTES.c.group_name, DEMAND_MINUTES.c.minute_unix_ms)
        .where(DEMAND_MINUTES.c.minute_unix_ms < before)
        .limit(PRUNE_BATCH_ROWS)
    )
    return delete(DEMAND_MINUTES).where(key.in_(stale))


def _delete(statement: Delete, connection: Connection) -> int:
    return connection.execute(statement).rowcount
