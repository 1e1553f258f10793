"""Bring the database to the schema of this release, one process at a time, and say whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

import migrations
from app.db.session import database_lock

LOCK = "intentloop_migrate"


def configuration() -> Config:
    """Alembic's configuration, with the revisions that are installed with this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def migrate(engine: Engine, revision: str = "head") -> None:
    """Run the missing migrations under a lock that every process on this database respects.

    SQLite and PostgreSQL change the schema in one transaction. MySQL and MariaDB commit each statement by itself: a
    migration that broke off is finished by hand, which is why each of ours has few statements.
    """
    # The lock outlives the transaction: whoever gets it next must find what was committed.
    with database_lock(engine, LOCK), engine.begin() as connection:
        config = configuration()
        config.attributes["connection"] = connection
        if revision == "base" or revision.startswith("-"):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)


def is_current(engine: Engine) -> bool:
    """Whether the database has the schema of this release."""
    wanted = set(ScriptDirectory.from_config(configuration()).get_heads())
    with engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == wanted
