"""`intentloop …` and `python -m app …`: run a command; a failure is one sentence and an exit code."""

import sys

from pydantic import ValidationError
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from app.cli import app
from app.errors import IntentError


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 could not be done, 2 was asked wrongly."""
    complain = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except IntentError as error:
        complain.print(f"[red]{error}[/red]", markup=True)
        sys.exit(1)
    except DBAPIError as error:
        complain.print(f"[red]The database refused: {type(error.orig).__name__}.[/red] Is it there, and migrated?")
        sys.exit(1)
    except ValidationError as error:
        for found in error.errors():
            name = "INTENTLOOP_" + ".".join(str(part) for part in found["loc"]).upper()
            complain.print(f"[red]{name}: {found['msg']}[/red]")
        sys.exit(2)


if __name__ == "__main__":
    main()
