"""What the policies of a group remember."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policy_memories",
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("group_name", name="pk_policy_memories"),
        sa.ForeignKeyConstraint(
            ["group_name"], ["groups.name"], name="fk_policy_memories_group_name", ondelete="CASCADE"
        ),
    )
