"""Schemas: what migrations make is what the code declares, old rows come along, and the wrong schema is named."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from controller_asg.model.activity import Activity, ActivityKind, ActivityStatus, LaunchRequest
from controller_asg.model.decision import Decision, Step, Vote
from controller_asg.model.errors import StoreError
from controller_asg.model.record import Change, DemandMinute, PolicyMemories, State
from controller_asg.store import partial_index  # noqa: F401 - it belongs to METADATA
from controller_asg.store.connect import create_sqlite_file, make_engine, parse_url
from controller_asg.store.migrate import Migrated, _config, current, head, migrate
from controller_asg.store.schema import METADATA, SCHEMA_REVISION
from controller_asg.store.sql import SqlStore
from tests.contract.postgres import PostgresServer, postgres_server  # noqa: F401  the fixture
from tests.contract.test_store_contract import NOW, group, instance

# The rows of each schema that a release wrote, as that release wrote them. Never edited; a migration adds its own.
LAUNCH_0001 = (
    '{"client_token":"a1","group":"web","launch_version":"v1","count":2,"image_id":"ami-12345678",'
    '"instance_type":"t2.micro","subnet_id":"","zone":"us-east-1a","security_groups":["sg-12345678"],'
    '"key_pair":"","instance_profile":"","disks":[["/dev/xvda",8,"gp3",0,0,null,true]],'
    '"tags":[["Name","web"]],"user_data":"#!/bin/sh\\n","metadata_tokens":"required","spot":false}'
)
ROWS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "0001": (
        ("UPDATE writer SET epoch = 41, commit_number = 7", {}),
        (
            "INSERT INTO groups VALUES ('web', 1, 'ami-12345678', 'v1', 2, 5, 2, 1740830400123, :document, "
            "'[]', '[]')",
            {"document": '{"name":"web","launch":{"image":{"id":"ami-12345678"}}}'},
        ),
        (
            "INSERT INTO instances VALUES ('i-00000000000000000', 'web', 'InService', 1740830400123, "
            "1740830400123, '', 'v1', '', '', '', NULL, false, '', NULL)",
            {},
        ),
        (
            "INSERT INTO activities VALUES ('a1', 'web', 'launch', 'InProgress', 'a test', 2, 1740830400123, "
            "'[\"i-1\",\"i-2\"]', NULL, '', 1, :launch, '', true)",
            {"launch": LAUNCH_0001},
        ),
        (
            "INSERT INTO decisions (group_name, first_unix_ms, last_unix_ms, desired_before, desired_after, "
            "votes, steps, actions, summary, count) VALUES ('web', 1740830400123, 1740830400123, 2, 5, :votes, "
            ":steps, '[\"launch 3\"]', 'grow', 3)",
            {
                "votes": '[{"policy":"cpu","capacity":9,"reason":"hot","victims":[]}]',
                "steps": '[{"name":"max_size","before":9,"after":5,"reason":"max_size is 5"}]',
            },
        ),
    ),
}
# The next one added columns only, which have defaults.
ROWS["0002"] = tuple(
    (
        statement.replace("'[]', '[]')", "'[]', '[]', '{}')").replace(
            "false, '', NULL)", "false, '', NULL, '')"
        ),
        values,
    )
    for statement, values in ROWS["0001"]
)
ROWS["0003"] = (*ROWS["0002"], ("INSERT INTO policy_memories VALUES ('web', '{}')", {}))
ROWS["0004"] = (*ROWS["0003"], ("INSERT INTO demand_minutes VALUES ('web', 1740830400000, 1.5, 2.0)", {}))
ROWS["0005"] = tuple(
    (statement.replace("false, '', NULL, '')", "false, '', NULL, '', '{}')"), values)
    for statement, values in ROWS["0004"]
)
LAUNCH = LaunchRequest(
    "a1",
    "web",
    "v1",
    2,
    "ami-12345678",
    "t2.micro",
    zone="us-east-1a",
    security_groups=("sg-12345678",),
    disks=(("/dev/xvda", 8, "gp3", 0, 0, None, True),),
    tags=(("Name", "web"),),
    user_data="#!/bin/sh\n",
)
ACTIVITY = Activity(
    "a1",
    "web",
    ActivityKind.LAUNCH,
    ActivityStatus.IN_PROGRESS,
    "a test",
    2,
    NOW,
    instance_ids=("i-1", "i-2"),
    decision_id=1,
    launch=LAUNCH,
    acknowledged=True,
)
DECISION = Decision(
    "web",
    NOW,
    NOW,
    2,
    5,
    (Vote("cpu", 9, "hot"),),
    (Step("max_size", 9, 5, "max_size is 5"),),
    ("launch 3",),
    "grow",
    3,
    1,
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """URLs of stores that nobody migrated; SQLite's have no file."""
    names = iter(range(1_000_000))
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{next(names)}.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return lambda: server.url(server.create_database())


def execute(url: str, *statements: tuple[str, dict[str, Any]]) -> None:
    engine = make_engine(parse_url(url), 5)
    with engine.begin() as connection:
        for statement, parameters in statements:
            connection.execute(text(statement), parameters)
    engine.dispose()


def catalog(url: str) -> dict[str, Any]:
    """What the engine itself knows of each table of ours, in a form that two databases can be compared by."""
    engine = make_engine(parse_url(url), 5)
    inspector = inspect(engine)
    never_reused: set[str] = set()  # SQLite's AUTOINCREMENT, which no inspector reflects
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            query = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
            never_reused = set(connection.exec_driver_sql(query).scalars())
    found = {
        table: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"] is not None)
                for column in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
            "foreign keys": sorted(map(repr, inspector.get_foreign_keys(table))),
            "checks": sorted(map(repr, inspector.get_check_constraints(table))),
            "indexes": sorted(
                (index["name"], index["column_names"], index["unique"], _options(index))
                for index in inspector.get_indexes(table)
            ),
            "ids never come back": table in never_reused,
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }
    engine.dispose()
    return found


def _options(index: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A partial index's condition among them; as text, for SQL expressions do not compare."""
    return sorted((key, str(value)) for key, value in (index.get("dialect_options") or {}).items())


def test_the_newest_migration_is_the_schema_the_code_declares(new_url: Callable[[], str]) -> None:
    assert head() == SCHEMA_REVISION
    migrated, declared = new_url(), new_url()
    migrate(migrated)
    if declared.startswith("sqlite"):
        create_sqlite_file(parse_url(declared))
    engine = make_engine(parse_url(declared), 5)
    METADATA.create_all(engine)
    engine.dispose()
    assert catalog(migrated) == catalog(declared)
    assert len(catalog(migrated)["activities"]["indexes"]) == 4


def test_migrating_says_what_it_did_and_a_second_time_does_nothing(new_url: Callable[[], str]) -> None:
    url = new_url()
    assert current(url) is None
    assert migrate(url) == Migrated(None, SCHEMA_REVISION)
    assert not migrate(url).changed
    assert current(url) == SCHEMA_REVISION


def test_asking_for_the_revision_makes_no_file(tmp_path: Path) -> None:
    assert current(f"sqlite:///{tmp_path}/absent.db") is None
    assert list(tmp_path.iterdir()) == []


def test_every_released_schema_has_rows_to_migrate() -> None:
    revisions = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    assert revisions == set(ROWS)


@pytest.mark.parametrize("revision", ROWS)
async def test_rows_of_an_older_release_come_along(new_url: Callable[[], str], revision: str) -> None:
    url = new_url()
    migrate(url, revision)
    execute(url, *ROWS[revision])
    migrate(url)
    store = SqlStore(url)
    assert await store.open() == 42
    assert await store.load() == State((group(),), (instance(),), (ACTIVITY,))
    assert await store.decisions("web") == (DECISION,)
    assert await store.memories() == ((PolicyMemories("web", "{}"),) if revision >= "0003" else ())
    minute = DemandMinute("web", NOW.replace(microsecond=0), 1.5, 2.0)
    recorded = await store.demand("web", NOW - timedelta(days=1), NOW)
    assert recorded == ((minute,) if revision >= "0004" else ())
    await store.commit(Change(deleted_groups=("web",)))
    await store.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(new_url: Callable[[], str]) -> None:
    url = new_url()
    if url.startswith("sqlite"):
        create_sqlite_file(parse_url(url))
    execute(url, ("CREATE TABLE decisions (mine INTEGER)", {}))  # in the way of the last table of all
    with pytest.raises(StoreError, match="already exists"):
        migrate(url)
    assert list(catalog(url)) == ["decisions"]
    assert current(url) is None


async def test_a_store_without_tables_names_the_mend(new_url: Callable[[], str]) -> None:
    url = new_url()
    if url.startswith("sqlite"):
        create_sqlite_file(parse_url(url))
    store = SqlStore(url)
    with pytest.raises(StoreError, match="no tables yet; run `controller-asg migrate`"):
        await store.open()
    with pytest.raises(StoreError, match="run `controller-asg migrate`"):
        await store.load()
    await store.close()


@pytest.mark.parametrize(
    ("revision", "mend"), [("0000", "run `controller-asg migrate`"), ("9999", "start the newer release")]
)
async def test_another_releases_schema_is_refused_by_name(
    new_url: Callable[[], str], revision: str, mend: str
) -> None:
    url = new_url()
    migrate(url)
    execute(url, ("UPDATE alembic_version SET version_num = :revision", {"revision": revision}))
    store = SqlStore(url)
    with pytest.raises(StoreError, match=f"its schema is {revision}, this release needs .*; {mend}"):
        await store.open()
    await store.close()


def test_an_unknown_revision_is_not_migrated(new_url: Callable[[], str]) -> None:
    url = new_url()
    migrate(url)
    execute(url, ("UPDATE alembic_version SET version_num = '9999'", {}))
    with pytest.raises(StoreError, match=r"9999.*of the release that wrote it"):
        migrate(url)


def test_a_file_that_cannot_be_made_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="make its directory"):
        migrate(f"sqlite:///{tmp_path}/absent/store.db")


def test_the_daemon_does_not_import_alembic() -> None:
    code = (
        "import sys, controller_asg.store.sql; sys.exit('alembic' in sys.modules or 'psycopg' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
