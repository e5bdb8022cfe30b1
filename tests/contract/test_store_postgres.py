"""What only PostgreSQL does: it is somewhere else, so connections break, servers restart, answers are lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from controller_asg.model.errors import FencedError, StoreError
from controller_asg.model.record import Change
from controller_asg.store.migrate import migrate
from controller_asg.store.sql import SqlStore
from tests.contract.postgres import PostgresServer, postgres_server  # noqa: F401  the fixture
from tests.contract.test_store_contract import activity, decision, group

pytestmark = pytest.mark.postgres


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:  # noqa: F811
    name = postgres_server.create_database()
    migrate(postgres_server.url(name))
    return name


@pytest.fixture
async def store(postgres_server: PostgresServer, database: str) -> AsyncIterator[SqlStore]:  # noqa: F811
    store = SqlStore(postgres_server.url(database), timeout_seconds=5)
    await store.open()
    yield store
    await store.close()


async def test_an_open_store_outlives_a_restart_of_the_server(
    store: SqlStore,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    await store.commit(Change(groups=(group(),)))
    postgres_server.restart()
    await store.commit(Change(activities=(activity("a"),)))
    state = await store.load()
    assert (state.groups, state.open_activities) == ((group(),), (activity("a"),))


async def test_each_call_fails_while_the_server_is_down_and_works_when_it_is_back(
    store: SqlStore,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    postgres_server.stop()
    try:
        for _ in range(2):
            with pytest.raises(StoreError, match="see that PostgreSQL runs"):
                await store.commit(Change(groups=(group(),)))
            with pytest.raises(StoreError, match="see that PostgreSQL runs"):
                await store.load()
    finally:
        postgres_server.start()
    assert (await store.load()).groups == ()
    await store.commit(Change(groups=(group(),)))
    assert (await store.load()).groups == (group(),)


async def test_a_connection_ended_by_the_server_costs_no_commit(
    store: SqlStore,
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    with postgres_server.connect("postgres") as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])
    await store.commit(Change(groups=(group(),)))
    assert (await store.load()).groups == (group(),)


async def test_a_frozen_server_is_an_error_in_bounded_time(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    store = SqlStore(postgres_server.url(database), timeout_seconds=2)
    await store.open()
    with postgres_server.connect(database) as admin:
        found = admin.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", [database]).fetchall()
        backends = [pid for (pid,) in found if pid != admin.info.backend_pid]
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="no answer in 2 s; what was written may yet get into it"):
            await store.commit(Change(groups=(group(),)))
        with pytest.raises(StoreError, match="no answer in 2 s"):
            await store.commit(Change(groups=(group("batch"),)))
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    await store.commit(Change(groups=(group("edge"),)))
    # The second commit had not left the queue, so it never came to pass.
    names = {record.group.name for record in (await store.load()).groups}
    assert names - {"web"} == {"edge"}
    await store.close()


async def test_a_lock_held_by_another_session_is_an_error_and_leaves_nothing(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    store = SqlStore(postgres_server.url(database), timeout_seconds=1)
    await store.open()
    with postgres_server.connect(database) as other, other.transaction():
        other.execute("LOCK TABLE decisions IN EXCLUSIVE MODE")
        with pytest.raises(StoreError, match="look for locks"):
            await store.commit(Change(groups=(group(),), decision=decision()))
    assert (await store.load()).groups == ()
    await store.close()


async def test_commits_are_durable_on_a_server_set_to_be_hasty(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    with postgres_server.connect("postgres") as admin:
        admin.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    store = SqlStore(postgres_server.url(database))
    await store.open()
    with store._engine.begin() as connection:  # the only witness of a session's own setting
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    await store.close()


# The answer to a COMMIT that never came


class Wire:
    """A proxy before the server that breaks the connection at a COMMIT, before or after the server has it."""

    def __init__(self, upstream: Path) -> None:
        self.upstream = upstream
        self.break_at_commit = ""  # "before", "after", or not at all
        self.refuse = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refuse:
                return
            server_reader, server_writer = await asyncio.open_unix_connection(self.upstream)
            answers = asyncio.create_task(self._pump(server_reader, writer), name="wire:answers")
            try:
                while data := await reader.read(65536):
                    if b"COMMIT\x00" in data and self.break_at_commit:
                        broken, self.break_at_commit = self.break_at_commit, ""
                        answers.cancel()
                        await asyncio.wait([answers])  # two can't read one stream
                        if broken == "after":
                            server_writer.write(data)
                            await server_reader.read(65536)  # the server has answered: the commit is there
                        return
                    server_writer.write(data)
            finally:
                answers.cancel()
                server_writer.close()
        finally:
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def wired(server: PostgresServer, database: str) -> AsyncIterator[tuple[Wire, SqlStore]]:
    """A store that reaches the server through a wire of its own."""
    directory = server.directory / f"wire-{database}"
    directory.mkdir()
    wire = Wire(server.socket_path())
    listener = await asyncio.start_unix_server(wire.serve, directory / ".s.PGSQL.5432")
    store = SqlStore(server.url(database).replace(quote(str(server.directory)), quote(str(directory))))
    try:
        await store.open()
        yield wire, store
    finally:
        await store.close()
        listener.close()


async def test_a_commit_whose_answer_was_lost_is_found_and_acknowledged(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    async with wired(postgres_server, database) as (wire, store):
        wire.break_at_commit = "after"
        decision_id = await store.commit(Change(groups=(group(),), decision=decision()))
        assert (await store.load()).groups == (group(),)
        assert [one.decision_id for one in await store.decisions("web")] == [decision_id]


async def test_a_commit_that_never_reached_the_server_is_an_error(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    async with wired(postgres_server, database) as (wire, store):
        await store.commit(Change(groups=(group("batch"),)))
        wire.break_at_commit = "before"
        with pytest.raises(StoreError, match="see that PostgreSQL runs"):
            await store.commit(Change(groups=(group(),), decision=decision()))
        assert (await store.load()).groups == (group("batch"),)
        await store.commit(Change(groups=(group(),)))


async def test_a_commit_that_nobody_can_ask_about_is_said_to_be_in_doubt(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    async with wired(postgres_server, database) as (wire, store):
        wire.break_at_commit, wire.refuse = "after", True
        with pytest.raises(StoreError, match="which may be in the store or not"):
            await store.commit(Change(groups=(group(),)))
        wire.refuse = False
        assert (await store.load()).groups == (group(),)


async def test_a_lost_answer_under_a_newer_controller_is_a_fence(
    database: str,
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    async with wired(postgres_server, database) as (wire, store):
        newer = SqlStore(postgres_server.url(database))
        wire.break_at_commit = "before"
        pump = wire._pump

        async def open_newer_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not wire.break_at_commit:  # the connection that asks what became of the commit
                await newer.open()
            await pump(reader, writer)

        wire._pump = open_newer_first  # type: ignore[method-assign]
        with pytest.raises(FencedError):
            await store.commit(Change(groups=(group(),)))
        assert (await newer.load()).groups == ()
        await newer.close()
