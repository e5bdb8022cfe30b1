"""The demand of each group, by the minute."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "demand_minutes",
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("minute_unix_ms", sa.BigInteger, nullable=False),
        sa.Column("demand", sa.Double, nullable=False),
        sa.Column("in_service", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("group_name", "minute_unix_ms", name="pk_demand_minutes"),
        sa.ForeignKeyConstraint(
            ["group_name"], ["groups.name"], name="fk_demand_minutes_group_name", ondelete="CASCADE"
        ),
    )
