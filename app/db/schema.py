"""Bring the database to the schema of this release, one process at a time, and say whether it is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import migrations
from app.db.session import database_lock

LOCK = "intentloop_migrate"


class SchemaBroken(Exception):
    """A migration would leave the database inconsistent; nothing was changed."""


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
    with database_lock(engine, LOCK), _changing(engine) as connection:
        config = configuration()
        config.attributes["connection"] = connection
        if revision == "base" or revision.startswith("-"):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)


@contextmanager
def _changing(engine: Engine) -> Iterator[Connection]:
    """One transaction. On SQLite a changed table is a new one under the old name: meanwhile no key may be enforced."""
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        # Within a transaction SQLite ignores this switch: it is thrown before the first begins.
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise SchemaBroken(f"the migration left rows of {broken[0]} that refer to nothing")
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def head() -> str:
    """The revision of this release's schema."""
    return str(ScriptDirectory.from_config(configuration()).get_current_head())


def is_current(engine: Engine) -> bool:
    """Whether the database has the schema of this release."""
    wanted = set(ScriptDirectory.from_config(configuration()).get_heads())
    with engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == wanted
