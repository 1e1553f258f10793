"""Import labelled files into a domain."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.db.session import UnitOfWork
from app.errors import IntentError
from app.exchange.labelled import FORMATS, BadRow, LabelledRow, UnreadableFile, read_labelled
from app.intent.masking import mask
from app.intent.text import TextEmpty, TextTooLong, clean, sanitise
from app.services import audit, domains, imports

app = typer.Typer()

SLICE = 500
MOST_SHOWN = 20

Slice = tuple[list[imports.ImportRow], list[imports.RowReport]]


@app.command("import")
def import_labelled(
    file: Annotated[
        Path, typer.Argument(help="JSON lines, JSON, CSV, YAML or Parquet, also .gz.", exists=True, dir_okay=False)
    ],
    domain: DomainOption = domains.DEFAULT,
    form: Annotated[
        str | None, typer.Option("--format", help=f"Instead of what the content speaks of: {', '.join(FORMATS)}.")
    ] = None,
    create_labels: Annotated[
        bool,
        typer.Option(help="Add labels that the taxonomy does not have; without it such rows are refused."),
    ] = False,
    suggestions: Annotated[
        bool,
        typer.Option("--suggestions", help="Also take labels that only a model suggested and nobody answered."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write what became of each row, as JSON lines.", dir_okay=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take labelled texts from elsewhere: our own forms, Label Studio, Argilla, doccano, Rasa.

    A good row goes in, a bad one is reported with its line. Run it again after a break: what is in stays as it is.

    Exit status: 0 every row is in or holds no label, 1 some were refused or the file cannot be read.
    """
    if form is not None and form not in FORMATS:
        raise typer.BadParameter(f"one of {', '.join(FORMATS)}", param_hint="--format")
    if report is not None and report.resolve() == file.resolve():
        raise typer.BadParameter("the report would overwrite the file that is read", param_hint="--report")
    with ExitStack() as stack:
        work = stack.enter_context(database(settings()))
        rows_out = stack.enter_context(report.open("w", encoding="utf-8")) if report else None
        total = imports.ImportReport()
        try:
            rows = read_labelled(file, form=form, guesses=suggestions)
            _take_in(work, _slices(rows), domain, create_labels, total, rows_out)
        except UnreadableFile as error:
            raise IntentError(f"{file}: {error}") from error
        finally:
            _note(work, domain, file, total)
    _say(total, as_json)
    if total.counts["refused"]:
        raise typer.Exit(1)


def _take_in(
    work: UnitOfWork,
    slices: Iterator[Slice],
    domain: str,
    create_labels: bool,
    total: imports.ImportReport,
    rows_out: TextIO | None,
) -> None:
    # On standard error: standard output is the report.
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("importing", total=None)
        for good, left_out in slices:
            taken = work(imports.take_in, domain, good, create_labels=create_labels)
            for row in left_out:
                taken.note(row.line, row.status, row.reason)
            total.add(taken)
            if rows_out is not None:
                rows_out.writelines(_as_json(row) for row in sorted(taken.rows, key=lambda row: row.line))
                rows_out.flush()
            progress.advance(bar, len(taken.rows))


def _slices(rows: Iterator[LabelledRow | BadRow]) -> Iterator[Slice]:
    """Some hundred rows at a time: those to take in, masked, and those that are left out."""
    good: list[imports.ImportRow] = []
    left_out: list[imports.RowReport] = []
    for row in rows:
        if isinstance(row, BadRow):
            left_out.append(imports.RowReport(row.line, "ignored" if row.ignored else "refused", row.reason))
        else:
            try:
                good.append(imports.ImportRow(row.line, mask(clean(row.text)), row.label, row.proposed))
            except (TextEmpty, TextTooLong) as error:
                left_out.append(imports.RowReport(row.line, "refused", str(error)))
        if len(good) + len(left_out) == SLICE:
            yield good, left_out
            good, left_out = [], []
    if good or left_out:
        yield good, left_out


def _as_json(row: imports.RowReport) -> str:
    said = {"line": row.line, "status": row.status} | ({"reason": row.reason} if row.reason else {})
    return json.dumps(said, ensure_ascii=False) + "\n"


def _note(work: UnitOfWork, domain: str, file: Path, total: imports.ImportReport) -> None:
    """Put the import into the audit trail, also one that broke off, once anything came of it."""
    if not total.counts:
        return

    def write(session: Session) -> None:
        owner = domains.find(session, domain).id
        audit.note(
            session,
            audit.COMMAND_LINE,
            "labels.import",
            sanitise(file.name),
            domain_id=owner,
            after=dict(sorted(total.counts.items())),
        )

    work(write)


def _say(total: imports.ImportReport, as_json: bool) -> None:
    if as_json:
        print_json({"counts": total.counts, "refused": total.refused})
        return
    console.print(", ".join(f"{count} {kind}" for kind, count in sorted(total.counts.items())) or "The file is empty.")
    for line, reason in total.refused[:MOST_SHOWN]:
        console.print(f"  line {line}: {reason}", markup=False)
    if (hidden := total.counts["refused"] - min(MOST_SHOWN, len(total.refused))) > 0:
        console.print(f"  … and {hidden} more")
