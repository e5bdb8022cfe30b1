"""The first tables: writer, groups, instances, activities, decisions.

A migration spells its tables out and imports nothing of `schema.py`, which will have moved on when this is run.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    writer()
    groups()
    instances()
    activities()
    decisions()


def writer() -> None:
    table = op.create_table(
        "writer",
        sa.Column("writer_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("commit_number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("writer_id", name="pk_writer"),
        sa.CheckConstraint("writer_id = 1", name=op.f("ck_writer_single")),
    )
    op.bulk_insert(table, [{"writer_id": 1, "epoch": 0, "commit_number": 0}])


def groups() -> None:
    op.create_table(
        "groups",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("image_id", sa.Text, nullable=False),
        sa.Column("launch_version", sa.Text, nullable=False),
        sa.Column("min_size", sa.Integer, nullable=False),
        sa.Column("max_size", sa.Integer, nullable=False),
        sa.Column("desired_capacity", sa.Integer, nullable=False),
        sa.Column("applied_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("backoffs", sa.Text, nullable=False),
        sa.Column("last_changes", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_groups"),
        sa.CheckConstraint("min_size >= 0 AND min_size <= max_size", name=op.f("ck_groups_sizes")),
        sa.CheckConstraint("desired_capacity >= 0", name=op.f("ck_groups_desired_capacity")),
    )


def instances() -> None:
    op.create_table(
        "instances",
        sa.Column("instance_id", sa.Text, nullable=False),
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_since_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("launched_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("activity_id", sa.Text, nullable=False),
        sa.Column("launch_version", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("instance_type", sa.Text, nullable=False),
        sa.Column("private_ip", sa.Text, nullable=False),
        sa.Column("in_service_unix_ms", sa.BigInteger),
        sa.Column("protected_from_scale_in", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("bootstrapped_unix_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("instance_id", name="pk_instances"),
        sa.ForeignKeyConstraint(
            ["group_name"], ["groups.name"], name="fk_instances_group_name", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_instances_group_name", "instances", ["group_name"])


def activities() -> None:
    op.create_table(
        "activities",
        sa.Column("activity_id", sa.Text, nullable=False),
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("instance_count", sa.Integer, nullable=False),
        sa.Column("started_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("instance_ids", sa.Text, nullable=False),
        sa.Column("ended_unix_ms", sa.BigInteger),
        sa.Column("status_message", sa.Text, nullable=False),
        sa.Column("decision_id", sa.BigInteger),
        sa.Column("launch", sa.Text),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("acknowledged", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("activity_id", name="pk_activities"),
        sa.CheckConstraint("instance_count >= 0", name=op.f("ck_activities_instance_count")),
    )
    op.create_index(
        "ix_activities_group_name_started_unix_ms_activity_id",
        "activities",
        ["group_name", "started_unix_ms", "activity_id"],
    )
    op.create_index(
        "ix_activities_started_unix_ms_activity_id", "activities", ["started_unix_ms", "activity_id"]
    )
    op.create_index("ix_activities_ended_unix_ms", "activities", ["ended_unix_ms"])
    op.create_index(
        "ix_activities_open",
        "activities",
        ["started_unix_ms"],
        sqlite_where=sa.text("status = 'InProgress'"),
        postgresql_where=sa.text("status = 'InProgress'"),
    )


def decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("first_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("last_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("desired_before", sa.Integer, nullable=False),
        sa.Column("desired_after", sa.Integer, nullable=False),
        sa.Column("votes", sa.Text, nullable=False),
        sa.Column("steps", sa.Text, nullable=False),
        sa.Column("actions", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("decision_id", name="pk_decisions"),
        sa.CheckConstraint("count >= 1", name=op.f("ck_decisions_count")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decisions_group_name_decision_id", "decisions", ["group_name", "decision_id"])
    op.create_index("ix_decisions_last_unix_ms", "decisions", ["last_unix_ms"])
