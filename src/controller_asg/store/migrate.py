"""Bring a store's schema to this release's: Alembic, run by us. The daemon imports none of this.

All steps of one run are one transaction on both engines, so a step that fails leaves the store as it was.
"""

from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from controller_asg.model.errors import StoreError
from controller_asg.store.connect import (
    create_sqlite_file,
    display,
    is_sqlite,
    make_engine,
    parse_url,
    sqlite_path,
)
from controller_asg.store.driver_errors import store_error

ADVISORY_LOCK = 0x415347  # "ASG"; two migrations of one PostgreSQL database wait for each other


@dataclass(frozen=True, slots=True)
class Migrated:
    """The schema's revisions, by their four digits. `before` is None for a store that had no tables."""

    before: str | None
    after: str

    @property
    def changed(self) -> bool:
        return self.before != self.after


def migrate(url: str, revision: str = "head") -> Migrated:
    """Bring the store to `revision`, forward only; make SQLite's file (mode 0600) where there is none.

    Stop the controller first, and back the store up. Raises StoreError, and then nothing has changed.
    """
    parsed = parse_url(url)
    if is_sqlite(parsed):
        create_sqlite_file(parsed)
    engine = make_engine(parsed, None)
    try:
        with engine.begin() as connection:
            if not is_sqlite(parsed):
                connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            before = _revision(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            after = _revision(connection)
        assert after is not None
        return Migrated(before, after)
    except DBAPIError as error:
        raise store_error(error, display(parsed)) from error
    except CommandError as error:
        mend = "run the `controller-asg migrate` of the release that wrote it, or of a newer one"
        raise StoreError(str(error), display(parsed), mend) from error
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The revision the store is at; None when it has no tables, or no file. Changes nothing."""
    parsed = parse_url(url)
    return None if is_sqlite(parsed) and not sqlite_path(parsed).exists() else _current(parsed)


def head() -> str:
    """The revision that `migrate` brings a store to."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _current(url: URL) -> str | None:
    engine = make_engine(url, None)
    try:
        with engine.begin() as connection:
            return _revision(connection)
    except DBAPIError as error:
        raise store_error(error, display(url)) from error
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "controller_asg.store:migrations")
    config.set_main_option("path_separator", "os")
    return config
