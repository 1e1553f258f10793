"""What every command begins with: settings, logging, and a database that has the right schema."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError

from app import logs
from app.db.schema import is_current
from app.db.session import UnitOfWork, connect
from app.errors import SetupError
from app.services import counters
from app.settings import Settings

console = Console(highlight=False, soft_wrap=True)

DomainOption = Annotated[str, typer.Option("--domain", "-d", help="Name of the domain.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


def settings(**overrides: Any) -> Settings:
    """The settings of the environment, with what the command line says over them."""
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log as the settings say: one line an event. `level` is what is written where they say nothing."""
    given = settings()
    if "log_level" in given.model_fields_set:
        level = logging.getLevelNamesMapping()[given.log_level.upper()]
    logs.configure(given.log_format, level)


@contextmanager
def database(given: Settings) -> Iterator[UnitOfWork]:
    """The unit of work on a database that is ready.

    Raises:
        SetupError: its schema is not the one of this release.
    """
    if given.database_url is None and not (given.data_dir / "intentloop.db").exists():
        raise SetupError(f"there is no database in {given.data_dir}: run `intentloop migrate` first")
    engine = reach(given)
    try:
        if not is_current(engine):
            raise SetupError("the database has another schema than this release: run `intentloop migrate`")
        yield UnitOfWork(engine)
    finally:
        engine.dispose()


def reach(given: Settings) -> Engine:
    """The engine for the settings' URL; nothing is opened yet.

    Raises:
        SetupError: no database can be meant by it, or its driver is not installed.
    """
    try:
        engine = connect(given.url)
    except (ArgumentError, ValueError) as error:
        # The URL may hold a password: it is not repeated.
        raise SetupError(
            "INTENTLOOP_DATABASE_URL is no database URL; sqlite:///…, postgresql://… or mysql://…"
        ) from error
    except ImportError as error:
        raise SetupError(f"the database needs the package {error.name}, which is not installed") from error
    counters.keep_days_in(engine, given.zone)
    return engine


def print_json(value: Any) -> None:
    """One JSON document on standard output; times are UTC with Z."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
