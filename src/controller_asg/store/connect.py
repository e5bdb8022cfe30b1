"""From a store's URL to a SQLAlchemy engine on which a commit is durable and no wait is endless."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from controller_asg.model.errors import StoreError

EXAMPLES = "name sqlite:////var/lib/controller-asg/store.db or postgresql://user@host/database"
DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
# How a transaction begins on SQLite, as an execution option. IMMEDIATE takes the write lock at once: a transaction
# that read first and wrote later would fail as busy without waiting when another one wrote in between.
BEGIN_OPTION = "controller_asg_begin"


def parse_url(text: str) -> URL:
    """The URL with its driver. Raises StoreError; the text is not in it, for it may hold a password."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise StoreError("not a database URL", "store_url", EXAMPLES) from error
    driver = DRIVERS.get(url.drivername)
    if driver is None:
        raise StoreError(f"{url.drivername} is no engine of ours", "store_url", EXAMPLES)
    url = url.set(drivername=driver)
    if is_sqlite(url) and (not url.database or ":memory:" in url.database or url.query):
        raise StoreError("SQLite needs a plain file here: memory forgets", "store_url", EXAMPLES)
    return url


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def display(url: URL) -> str:
    """What errors call the store. No user, password or option."""
    if is_sqlite(url):
        return f"store sqlite:///{url.database}"
    host = url.host or url.query.get("host") or "local"
    return f"store postgresql://{host if isinstance(host, str) else ','.join(host)}/{url.database or ''}"


def sqlite_path(url: URL) -> Path:
    assert url.database is not None
    return Path(url.database)


def create_sqlite_file(url: URL) -> None:
    """An empty file that only its owner reads, durably named in its directory; nothing when it exists.

    SQLite gives the WAL beside it the same mode.
    """
    path = sqlite_path(url)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        return
    except OSError as error:
        mend = "make its directory, and let the daemon's user write there"
        raise StoreError(error.strerror or str(error), display(url), mend) from error


def make_engine(url: URL, wait_seconds: float | None) -> Engine:
    """One connection at a time. `wait_seconds` bounds each wait for a lock, a statement and a connection.

    None, for migrations, waits as long as it takes for a statement, and the drivers' usual times for the rest.
    """
    return _sqlite_engine(url, wait_seconds) if is_sqlite(url) else _postgresql_engine(url, wait_seconds)


def _sqlite_engine(url: URL, wait_seconds: float | None) -> Engine:
    busy_ms = 5000 if wait_seconds is None else round(wait_seconds * 1000)
    engine = create_engine(url, hide_parameters=True, pool_size=1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # else the sqlite3 module begins transactions by its own rules
        connection.execute(f"PRAGMA busy_timeout = {busy_ms}")  # first: the next one may meet a lock
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(
            "PRAGMA synchronous = FULL"
        )  # in WAL mode, NORMAL loses the last commits in a power cut

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(BEGIN_OPTION, "BEGIN IMMEDIATE"))

    return engine


def _postgresql_engine(url: URL, wait_seconds: float | None) -> Engine:
    arguments: dict[str, Any] = {}
    if wait_seconds is not None:
        # A peer that vanished without a word is noticed within wait_seconds, whether we were writing or reading.
        # libpq takes whole seconds, and 2 of them at least to connect.
        probe_seconds = max(1, round(wait_seconds / 3))
        arguments = {
            "connect_timeout": max(2, round(wait_seconds)),
            "tcp_user_timeout": round(wait_seconds * 1000),
            "keepalives_idle": probe_seconds,
            "keepalives_interval": probe_seconds,
            "keepalives_count": 2,
        }
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,  # one round trip a call, and a server that was restarted costs no call
        isolation_level="READ COMMITTED",  # the fence waits for a newer writer and then sees it, instead of failing
        connect_args=arguments,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        with connection.cursor() as cursor:
            # A server may be set to acknowledge commits before they are on its disk; this store may not live with that.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
            if wait_seconds is not None:
                cursor.execute(f"SET statement_timeout = {max(1, round(wait_seconds * 1000))}")
                cursor.execute("SET idle_in_transaction_session_timeout = 60000")
        connection.commit()

    return engine
