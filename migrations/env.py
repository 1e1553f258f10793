"""Run the migrations on a connection that the caller gives, or on the database that the settings name."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection
from sqlalchemy.types import TypeEngine

from app.db import types
from app.db.session import connect
from app.db.tables import Base
from app.settings import Settings

_NAMED_TYPES = {
    id(getattr(types, name)): name for name in ("Id", "LongText", "Json", "UuidText", "HashText", "LabelText")
}


def render_type(kind: str, thing: Any, _: AutogenContext) -> str | Literal[False]:
    """Write our own column types by their names: they mean the same on all three databases."""
    if kind != "type" or not isinstance(thing, TypeEngine):
        return False
    if isinstance(thing, types.UtcDateTime):
        return "UtcDateTime()"
    return _NAMED_TYPES.get(id(thing), False)


def run(connection: Connection) -> None:
    """Bring this connection's database to the wanted revision."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_item=render_type,
        # SQLite changes a table by copying it; its name for that is a batch.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = connect(Settings().url)
    with engine.connect() as opened:
        run(opened)
        opened.commit()
    engine.dispose()
