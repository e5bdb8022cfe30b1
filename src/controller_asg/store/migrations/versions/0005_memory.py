"""What the controller keeps of a group or instance beside its columns; one more key of it costs no migration."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("groups", "launch_memory", new_column_name="memory")
    op.add_column("instances", sa.Column("memory", sa.Text, nullable=False, server_default="{}"))
