"""Groups of questions that no label fits: list them, make one a label, or dismiss it."""

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.db.tables import Label, Scenario
from app.intent.text import normalise
from app.services import domains, scenarios
from app.services.audit import COMMAND_LINE

app = typer.Typer(help="Groups of questions that no label fits, proposed as new labels.", no_args_is_help=True)

ScenarioArgument = Annotated[int, typer.Argument(min=1, help="Number of the scenario.")]
SHOWN = ("id", "status", "text_count", "question_count", "keywords", "decided_by", "decided_at", "created_at")


class Status(StrEnum):
    """What a scenario can be."""

    proposed = "proposed"
    accepted = "accepted"
    dismissed = "dismissed"


@app.command("list")
def list_scenarios(
    domain: DomainOption = domains.DEFAULT,
    status: Annotated[Status | None, typer.Option(help="Only those that are so.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the scenarios of a domain, the newest first. `intentloop job propose_scenarios` looks for them now."""

    def read(session: Session) -> list[dict[str, Any]]:
        rows = scenarios.listing(session, domains.find(session, domain).id, limit=limit, status=status)
        return _rows(session, rows)

    with database(settings()) as work:
        rows = work.read(read)
    if as_json:
        print_json(rows)
        return
    table = Table("scenario", "status", "texts", "questions", "key words", "typical", "label")
    for row in rows:
        table.add_row(
            str(row["id"]),
            row["status"],
            str(row["text_count"]),
            str(row["question_count"]),
            escape(" ".join(row["keywords"])),
            escape("\n".join(row["typical"])),
            escape(row["label"] or ""),
        )
    console.print(table)


@app.command("accept")
def accept_scenario(
    scenario: ScenarioArgument,
    label: Annotated[str, typer.Argument(help="The label it becomes, as its path joined by ' > '.")],
    guideline: Annotated[str | None, typer.Option(help="What labelers are told about a new label.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a scenario a label, and let its questions be asked first; a person labels each."""
    given = settings()

    def act(session: Session) -> dict[str, Any]:
        done = scenarios.accept(
            session,
            scenario,
            normalise(label),
            by=COMMAND_LINE,
            guideline=guideline,
            trains_from=given.proposal_size,
        )
        [row] = _rows(session, [done.scenario])
        return row | {"created": done.created, "queued": done.queued, "trains_from": done.label.trains_from}

    with database(given) as work:
        row = work(act)
    if as_json:
        print_json(row)
        return
    console.print(
        f"Scenario {scenario} is the label {row['label']}; {row['queued']} texts are asked first.", markup=False
    )
    if row["created"]:
        console.print(f"It trains from {row['trains_from']} labelled texts on.")


@app.command("dismiss")
def dismiss_scenario(scenario: ScenarioArgument, as_json: JsonOption = False) -> None:
    """Say that a scenario is no label; it is not proposed again."""

    def act(session: Session) -> dict[str, Any]:
        [row] = _rows(session, [scenarios.dismiss(session, scenario, by=COMMAND_LINE)])
        return row

    with database(settings()) as work:
        row = work(act)
    if as_json:
        print_json(row)
    else:
        console.print(f"Scenario {scenario} is {row['status']}.")


def _rows(session: Session, rows: Any) -> list[dict[str, Any]]:
    typical = scenarios.typical(session, rows)
    return [
        {name: getattr(row, name) for name in SHOWN}
        | {"typical": [text.text for text in typical[row.id]], "label": _label(session, row)}
        for row in rows
    ]


def _label(session: Session, scenario: Scenario) -> str | None:
    label = session.get(Label, scenario.label_id) if scenario.label_id is not None else None
    return label.path if label else None
