"""Count the figures of domains anew."""

from typing import Annotated

import typer
from sqlalchemy.orm import Session

from app.cli.opening import JsonOption, console, database, print_json, settings
from app.services import domains, recounting

app = typer.Typer()


@app.command()
def recount(
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="Only this domain; all without it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count what `/stats` tells anew from questions, texts and annotations, and say how many numbers were wrong.

    Questions are answered meanwhile; folding and labelling wait, about ten seconds for a million questions. On SQLite
    everything that writes waits. Exit status: 0 done, 1 there is no such domain.
    """

    def recount_one(session: Session, name: str) -> int:
        return recounting.rebuild(session, domains.find(session, name))

    with database(settings()) as work:
        names = [domain] if domain is not None else [row.name for row in work.read(domains.listing)]
        wrong = {name: work(recount_one, name) for name in names}
    if as_json:
        print_json({"wrong": wrong})
    else:
        for name, count in wrong.items():
            console.print(f"{name}: {count} numbers were wrong" if count else f"{name}: every number was right")
