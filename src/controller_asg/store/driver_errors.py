"""What the two drivers say, as StoreErrors an operator can act on.

Only the driver's own first line is kept. SQL, parameters and PostgreSQL's DETAIL stay out: they may hold user data.
"""

from sqlalchemy.exc import DBAPIError

from controller_asg.model.errors import StoreError

MIGRATE = "run `controller-asg migrate`"
BUG = "report it as a bug of controller-asg, with the journal's lines before this one"

# By the start of SQLite's name of the error (https://sqlite.org/rescode.html).
SQLITE_MENDS = {
    "SQLITE_BUSY": "end the other process that writes to the file (`fuser` names it)",
    "SQLITE_LOCKED": "end the other process that writes to the file (`fuser` names it)",
    "SQLITE_FULL": "free space on the file's disk",
    "SQLITE_IOERR": "look at the file's disk: space, quota, and the kernel's log",
    "SQLITE_READONLY": "let the daemon's user write the file and its directory",
    "SQLITE_CANTOPEN": "let the daemon's user write the file and its directory",
    "SQLITE_PERM": "let the daemon's user write the file and its directory",
    "SQLITE_CORRUPT": "restore a backup, or move the file away and migrate: EC2's tags rebuild the fleet's state",
    "SQLITE_NOTADB": "name a store's file in store_url, or restore a backup",
    "SQLITE_CONSTRAINT": BUG,
}

# By the start of the SQLSTATE (PostgreSQL's documentation, appendix A); the longest match counts.
POSTGRESQL_MENDS = {
    "08": "see that PostgreSQL runs and that this machine reaches it",
    "22": BUG,
    "23": BUG,
    "25006": "let store_url name the primary, this server is a read-only standby",
    "28": "mend the user or password in store_url, or the server's pg_hba.conf",
    "3D000": "create the database, or mend its name in store_url",
    "40": "nothing; the call is made again",
    "42501": "grant the store's user its rights, or let it own the tables",
    "42703": MIGRATE,
    "42P01": MIGRATE,
    "53": "give the server room: disk, memory or max_connections",
    "55P03": "end the transaction that holds the lock (pg_stat_activity names it)",
    "57014": "look for locks and load on the server; the statement took too long",
    "57P": "see that PostgreSQL runs; it was stopping or starting",
    "58": "look at the server's disk and log",
    "XX": "look at the server's log; it found damage or a bug of its own",
}


def store_error(error: DBAPIError, where: str) -> StoreError:
    """The StoreError for a driver's error; the caller raises it `from` that error."""
    return StoreError(_first_line(error), where, _mend(error))


def _first_line(error: DBAPIError) -> str:
    primary: str | None = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    lines = (primary or str(error.orig)).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def _mend(error: DBAPIError) -> str:
    name: str | None = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        if "no such table" in str(error.orig) or "no such column" in str(error.orig):
            return MIGRATE
        return next((mend for start, mend in SQLITE_MENDS.items() if name.startswith(start)), "")
    # No SQLSTATE: libpq itself failed, before or after it had a server to talk to.
    state: str = getattr(error.orig, "sqlstate", None) or "08000"
    starts = [start for start in POSTGRESQL_MENDS if state.startswith(start)]
    return POSTGRESQL_MENDS[max(starts, key=len)] if starts else ""
