"""The schema's partial index, brought in where tables are made or compared, never by the daemon.

To declare it loads both dialects, and PostgreSQL's costs a daemon on SQLite 3 MiB.
"""

from sqlalchemy import Index

from controller_asg.store.schema import ACTIVITIES

Index(
    "ix_activities_open",
    ACTIVITIES.c.started_unix_ms,
    sqlite_where=ACTIVITIES.c.status == "InProgress",
    postgresql_where=ACTIVITIES.c.status == "InProgress",
)
