"""`intentloop …` and `python -m app …`: run a command; a failure is one sentence and an exit code."""

import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from app import logs
from app.cli import app
from app.errors import IntentError

DONE_NOT, ASKED_WRONGLY = 1, 2


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 could not be done, 2 was asked wrongly."""
    logs.catch_all()
    try:
        app(prog_name="intentloop")
    except IntentError as error:
        _end(DONE_NOT, str(error))
    except SQLAlchemyError as error:
        # The kind alone: the message may repeat the values of a row.
        kind = getattr(error, "orig", None) or error
        _end(DONE_NOT, f"The database refused: {type(kind).__name__}. Is it there, and migrated?")
    except OSError as error:
        _end(DONE_NOT, f"{error.strerror or type(error).__name__}: {error.filename or 'no file'}")
    except ValidationError as error:
        names = ("INTENTLOOP_" + ".".join(map(str, found["loc"])).upper() for found in error.errors())
        sentences = (f"{name}: {found['msg']}" for name, found in zip(names, error.errors(), strict=True))
        _end(ASKED_WRONGLY, *sentences)
    except SettingsError as error:
        _end(ASKED_WRONGLY, f"INTENTLOOP_…: {error}")


def _end(status: int, *sentences: str) -> None:
    complain = Console(stderr=True, highlight=False, soft_wrap=True)
    for sentence in sentences:
        # A file's name or a trainer's last words may hold what no log should.
        complain.print(f"[red]{escape(logs.masked(sentence))}[/red]")
    sys.exit(status)


if __name__ == "__main__":
    main()
