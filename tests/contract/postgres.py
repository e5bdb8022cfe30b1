"""A real PostgreSQL server for tests: Debian's binaries, a directory of its own, a unix socket in it.

A TCP port only when it is given an address, and then for that address's network and with a password made at run time.

Import the fixture `postgres_server` by name. Root can't run PostgreSQL, so as root it runs as `postgres` or `nobody`.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

ABSENT = (
    "no PostgreSQL under /usr/lib/postgresql/*/bin: "
    "run `apt-get install postgresql`, or deselect these tests with -m 'not postgres'"
)


def newest_binaries() -> Path:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        pytest.fail(ABSENT, pytrace=False)
    return max(found, key=lambda path: float(path.parent.name))


def unprivileged_user() -> str | None:
    """Whom PostgreSQL runs as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServer:
    """One server. `durable` False spares the disk: it still survives its own crash, only not the machine's."""

    def __init__(self, directory: Path, *, durable: bool = False, address: str = "") -> None:
        self.directory = directory
        self._address, self._password = address, secrets.token_urlsafe(16)
        self._binaries, self._user = newest_binaries(), unprivileged_user()
        self._options = f"-k {directory} -c listen_addresses='{address}'" + (
            "" if durable else " -c fsync=off"
        )
        self._databases = 0
        if self._user is not None:
            shutil.chown(directory, self._user)
        self._run(
            "initdb", "-D", str(directory / "data"), "-U", "asg", "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        if address:
            with (directory / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all asg samenet scram-sha-256\n")
        self.start()
        if address:
            with self.connect("postgres") as connection:
                connection.execute(sql.SQL("ALTER ROLE asg PASSWORD {}").format(sql.Literal(self._password)))

    def start(self) -> None:
        self._control("start", "-l", str(self.directory / "log"), "-o", self._options)

    def stop(self) -> None:
        """As in a crash: no goodbye to anyone, and recovery at the next start."""
        self._control("stop", "-m", "immediate")

    def restart(self) -> None:
        self.stop()
        self.start()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://asg@/{database}?host={quote(str(self.directory))}"

    def network_url(self, database: str) -> str:
        return f"postgresql+psycopg://asg:{quote(self._password)}@{self._address}:5432/{database}"

    def create_database(self, template: str = "template1") -> str:
        """The name of a new database, equal to `template`."""
        self._databases += 1
        name = f"asg_{self._databases}"
        with self.connect("postgres") as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(host=str(self.directory), user="asg", dbname=database, autocommit=True)

    def socket_path(self) -> Path:
        return self.directory / ".s.PGSQL.5432"

    def _control(self, verb: str, *arguments: str) -> None:
        self._run("pg_ctl", verb, "-w", "-D", str(self.directory / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        as_user = [] if self._user is None else ["runuser", "-u", self._user, "--"]
        # Not a pipe: the server that pg_ctl leaves behind would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            command = [*as_user, str(self._binaries / program), *arguments]
            ended = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )
            output.seek(0)
            assert ended.returncode == 0, f"{program} {' '.join(arguments)}: {output.read()}"


@contextmanager
def running_postgres(address: str = "") -> Iterator[PostgresServer]:
    # Not pytest's tmp_path, which another user can't enter and whose length a unix socket's name does not bear.
    directory = Path(tempfile.mkdtemp(prefix="asg-postgres-"))
    try:
        server = PostgresServer(directory, address=address)
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server
