"""Alembic's entry: run the steps on the connection, and in the transaction, that `store/migrate.py` hands over."""

from alembic import context

from controller_asg.store import partial_index  # noqa: F401 - it belongs to METADATA
from controller_asg.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite too: our engine begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
