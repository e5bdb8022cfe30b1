"""The store's tables, and the three column types that turn model values into SQL ones and back.

What the migrations make must equal this file; `tests/contract/test_store_migrations.py` compares the two on both
engines. A change here is a new file in `migrations/versions/` and a new `SCHEMA_REVISION`.

Closed sets (states, kinds, statuses) carry no CHECK: each new member would cost a copy of the whole table on SQLite,
and a reader refuses an unknown one anyway. What is compared or summed by SQL, and what two rows must agree on, does.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

SCHEMA_REVISION = "0005"  # the newest file in migrations/versions; a daemon starts on this one only

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
# PostgreSQL's text has no NUL, and UTF-8 no half of a surrogate pair. Both come in what machines say (a console's end).
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def to_unix_ms(at: datetime) -> int:
    """Whole milliseconds since 1970 UTC, rounded down."""
    assert at.tzinfo is not None, f"a time without a zone: {at}"
    return (at - EPOCH) // MILLISECOND


def from_unix_ms(unix_ms: int) -> datetime:
    return EPOCH + unix_ms * MILLISECOND


class UnixMs(TypeDecorator[datetime]):
    """An aware datetime outside, integer milliseconds in SQL. Microseconds are cut off."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_unix_ms(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_unix_ms(value)


class Document(TypeDecorator[Any]):
    """JSON-ready values outside, ASCII JSON text in SQL: every string survives, whatever is in it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"), allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class Prose(TypeDecorator[str]):
    """Text for people. A character that no engine can hold becomes U+FFFD, for it must not stop a commit."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else UNSTORABLE.sub("\ufffd", value)


METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row. Who may write, and the number of its last transaction: after a lost answer it tells whether that one landed.
WRITER = Table(
    "writer",
    METADATA,
    Column("writer_id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("commit_number", BigInteger, nullable=False),
    CheckConstraint("writer_id = 1", name="single"),
)

GROUPS = Table(
    "groups",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("image_id", Text, nullable=False),
    Column("launch_version", Text, nullable=False),
    Column("min_size", Integer, nullable=False),  # these two repeat the document, so that SQL can hold them
    Column("max_size", Integer, nullable=False),
    Column("desired_capacity", Integer, nullable=False),
    Column("applied_unix_ms", UnixMs, nullable=False),
    Column("document", Document, nullable=False),
    Column("backoffs", Document, nullable=False),
    Column("last_changes", Document, nullable=False),
    Column("memory", Document, nullable=False, server_default="{}"),
    CheckConstraint("min_size >= 0 AND min_size <= max_size", name="sizes"),
    CheckConstraint("desired_capacity >= 0", name="desired_capacity"),
)

INSTANCES = Table(
    "instances",
    METADATA,
    Column("instance_id", Text, primary_key=True),
    Column("group_name", Text, ForeignKey("groups.name", ondelete="CASCADE"), nullable=False),
    Column("state", Text, nullable=False),
    Column("state_since_unix_ms", UnixMs, nullable=False),
    Column("launched_unix_ms", UnixMs, nullable=False),
    Column("activity_id", Text, nullable=False),
    Column("launch_version", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("instance_type", Text, nullable=False),
    Column("private_ip", Text, nullable=False),
    Column("in_service_unix_ms", UnixMs),
    Column("protected_from_scale_in", Boolean, nullable=False),
    Column("reason", Prose, nullable=False),
    Column("bootstrapped_unix_ms", UnixMs),
    Column("marked_unhealthy", Prose, nullable=False, server_default=""),
    Column("memory", Document, nullable=False, server_default="{}"),
    Index(None, "group_name"),
)

# A table of its own: the row is large, and changes when nothing else of the group does.
POLICY_MEMORIES = Table(
    "policy_memories",
    METADATA,
    Column("group_name", Text, ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
    Column("document", Text, nullable=False),
)

DEMAND_MINUTES = Table(
    "demand_minutes",
    METADATA,
    Column("group_name", Text, ForeignKey("groups.name", ondelete="CASCADE"), primary_key=True),
    Column("minute_unix_ms", UnixMs, primary_key=True),
    Column("demand", Double, nullable=False),
    Column("in_service", Double, nullable=False),
)

# No foreign key to groups or decisions: history outlives both.
ACTIVITIES = Table(
    "activities",
    METADATA,
    Column("activity_id", Text, primary_key=True),
    Column("group_name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("cause", Prose, nullable=False),
    Column("instance_count", Integer, nullable=False),
    Column("started_unix_ms", UnixMs, nullable=False),
    Column("instance_ids", Document, nullable=False),
    Column("ended_unix_ms", UnixMs),
    Column("status_message", Prose, nullable=False),
    Column("decision_id", BigInteger),
    Column("launch", Document),
    Column("details", Prose, nullable=False),
    Column("acknowledged", Boolean, nullable=False),
    CheckConstraint("instance_count >= 0", name="instance_count"),
    Index(None, "group_name", "started_unix_ms", "activity_id"),
    Index(None, "started_unix_ms", "activity_id"),
    Index(None, "ended_unix_ms"),
)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("decision_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("group_name", Text, nullable=False),
    Column("first_unix_ms", UnixMs, nullable=False),
    Column("last_unix_ms", UnixMs, nullable=False),
    Column("desired_before", Integer, nullable=False),
    Column("desired_after", Integer, nullable=False),
    Column("votes", Document, nullable=False),
    Column("steps", Document, nullable=False),
    Column("actions", Document, nullable=False),
    Column("summary", Prose, nullable=False),
    Column("count", Integer, nullable=False),
    CheckConstraint("count >= 1", name="count"),
    Index(None, "group_name", "decision_id"),
    Index(None, "last_unix_ms"),
    sqlite_autoincrement=True,  # else SQLite gives the number of a pruned decision to a new one
)
