"""What earlier launches taught a group, and instances that somebody marked unhealthy."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("groups", sa.Column("launch_memory", sa.Text, nullable=False, server_default="{}"))
    op.add_column("instances", sa.Column("marked_unhealthy", sa.Text, nullable=False, server_default=""))
