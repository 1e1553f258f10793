"""How far people agree about the texts that several of them answered blind."""

from typing import Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.services import agreement, domains

app = typer.Typer()


@app.command("agreement")
def show_agreement(domain: DomainOption = domains.DEFAULT, as_json: JsonOption = False) -> None:
    """Print how far people agree about the texts that several of them answered without sight of each other.

    Krippendorff's α over the last 10,000 such answers: 1 where all agree, 0 where they agree no more than by chance.
    """

    def read(session: Session) -> dict[str, Any]:
        return agreement.of_domain(session, domains.find(session, domain)).as_json()

    with database(settings()) as work:
        found = work.read(read)
    if as_json:
        print_json(found)
        return
    interval = f" ({found['low']:.3f} to {found['high']:.3f})" if found["low"] is not None else ""
    console.print(
        f"α {_number(found['alpha'])}{interval}; {_number(found['share'])} of pairs agree, over {found['answers']} "
        f"answers about {found['texts']} texts",
        markup=False,
    )
    for title, rows in (("label", found["labels"]), ("labeler", found["labelers"])):
        table = Table(title, "answers", "pairs that agree", "α")
        for row in rows:
            name = row["label"] if title == "label" else row["labeler_id"]
            table.add_row(escape(name), str(row["answers"]), _number(row["share"]), _number(row["alpha"]))
        console.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
