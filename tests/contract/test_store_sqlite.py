"""What only SQLite does: a file, its mode, its durability, its locks, a full disk."""

import os
import resource
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from controller_asg.model.errors import StoreError
from controller_asg.model.record import Change
from controller_asg.store.connect import make_engine, parse_url
from controller_asg.store.migrate import migrate
from controller_asg.store.sql import SqlStore
from tests.contract.test_store_contract import activity, decision, group


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
async def store(file: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(f"sqlite:///{file}", timeout_seconds=1)
    await store.open()
    yield store
    await store.close()


async def test_only_the_owner_reads_the_file_and_its_log(file: Path, store: SqlStore) -> None:
    await store.commit(Change(groups=(group(),)))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


def test_a_commit_is_on_the_disk_before_it_is_acknowledged(file: Path) -> None:
    engine = make_engine(parse_url(f"sqlite:///{file}"), 1)
    with engine.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    full = 2  # SQLite's documentation, PRAGMA synchronous
    assert pragmas == {"journal_mode": "wal", "synchronous": full, "foreign_keys": 1, "busy_timeout": 1000}


async def test_a_locked_file_is_an_error_and_the_next_commit_works(file: Path, store: SqlStore) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"locked.*fuser"):
        await store.commit(Change(groups=(group(),)))
    assert (await store.load()).groups == ()  # readers don't wait for a writer
    other.execute("ROLLBACK")
    other.close()
    await store.commit(Change(groups=(group(),)))
    assert (await store.load()).groups == (group(),)


async def test_a_disk_that_refuses_leaves_no_half(file: Path, store: SqlStore) -> None:
    await store.commit(Change(groups=(group(),)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    room = os.stat(f"{file}-wal").st_size + 8192
    big = replace(activity("big"), details="x" * 100_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(StoreError, match="disk"):
            await store.commit(Change(activities=(big,), decision=decision()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert await store.activities() == ()
    assert await store.decisions("web") == ()
    await store.commit(Change(activities=(big,)))
    assert await store.activities() == (big,)


async def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database at all\n" * 100)
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreError, match=r"notes.txt: file is not a database; name a store's file"):
        await store.open()
    await store.close()


async def test_opening_makes_no_file(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/absent.db")
    with pytest.raises(StoreError, match="run `controller-asg migrate`"):
        await store.open()
    await store.close()
    assert os.listdir(tmp_path) == []


async def test_a_row_this_release_cannot_read_is_named(file: Path, store: SqlStore) -> None:
    await store.commit(Change(groups=(group(),)))
    with sqlite3.connect(file) as other:
        other.execute("""UPDATE groups SET document = '{"name": "web", "surprise": 1}'""")
    other.close()
    with pytest.raises(StoreError, match="name web is not readable by this release"):
        await store.load()
