"""Errors of real drivers, without a store around them."""

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

from controller_asg.store.driver_errors import BUG, MIGRATE, store_error


def wrapped(error: Exception) -> DBAPIError:
    return OperationalError("INSERT INTO secrets", {"user_data": "hunter2"}, error, hide_parameters=True)


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "small.db")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE words (word TEXT)")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO words VALUES (?)", ["x" * 100_000])
    connection.close()
    error = store_error(wrapped(caught.value), "store sqlite:///small.db")
    assert str(error) == "store sqlite:///small.db: database or disk is full; free space on the file's disk"


def test_a_missing_table_means_migrate() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT * FROM groups")
    connection.close()
    assert store_error(wrapped(caught.value), "store").mend == MIGRATE


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (psycopg.errors.UndefinedTable, MIGRATE),
        (psycopg.errors.CheckViolation, BUG),
        (psycopg.errors.DiskFull, "give the server room: disk, memory or max_connections"),
        (psycopg.errors.AdminShutdown, "see that PostgreSQL runs; it was stopping or starting"),
        (psycopg.errors.InsufficientPrivilege, "grant the store's user its rights, or let it own the tables"),
        (psycopg.OperationalError, "see that PostgreSQL runs and that this machine reaches it"),
    ],
)
def test_the_sqlstate_finds_the_mend(error: type[psycopg.Error], mend: str) -> None:
    assert store_error(wrapped(error("no luck")), "store").mend == mend


def test_neither_sql_nor_parameters_nor_detail_are_told() -> None:
    cause = psycopg.errors.CheckViolation("violates check\nDETAIL:  Failing row contains (hunter2)")
    error = store_error(wrapped(cause), "store")
    assert str(error) == f"store: violates check; {BUG}"
