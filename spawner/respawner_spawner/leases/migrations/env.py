"""Alembic runs this file. The connection, its transaction and its lock are the caller's (`database.upgrade`)."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,  # SQLite too: the caller has begun the transaction
)
context.run_migrations()
