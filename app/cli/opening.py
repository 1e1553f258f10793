"""What every command begins with: settings, logging, and a database that has the right schema."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from app.db.schema import is_current
from app.db.session import UnitOfWork, connect
from app.errors import SetupError
from app.settings import Settings

console = Console(highlight=False, soft_wrap=True)

DomainOption = Annotated[str, typer.Option("--domain", "-d", help="Name of the domain.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


def settings(**overrides: Any) -> Settings:
    """The settings of the environment, with what the command line says over them."""
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log for a process that runs on: one line an event, with its time."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


@contextmanager
def database(given: Settings) -> Iterator[UnitOfWork]:
    """The unit of work on a database that is ready.

    Raises:
        SetupError: its schema is not the one of this release.
    """
    if given.database_url is None and not (given.data_dir / "intentloop.db").exists():
        raise SetupError(f"there is no database in {given.data_dir}: run `intentloop migrate` first")
    engine = connect(given.url)
    try:
        if not is_current(engine):
            raise SetupError("the database has another schema than this release: run `intentloop migrate`")
        yield UnitOfWork(engine)
    finally:
        engine.dispose()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=str))
