"""Import labelled files into a domain."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.db.session import UnitOfWork
from app.errors import IntentError
from app.exchange.labelled import BadRow, UnreadableFile, read_labelled
from app.intent.masking import mask
from app.intent.text import TextEmpty, TextTooLong, clean
from app.services import audit, domains, imports

app = typer.Typer()

SLICE = 500
MOST_SHOWN = 20


@app.command("import")
def import_labelled(
    file: Annotated[Path, typer.Argument(help="JSON lines, JSON or CSV, also .gz.", exists=True, dir_okay=False)],
    domain: DomainOption = domains.DEFAULT,
    create_labels: Annotated[
        bool,
        typer.Option(help="Add labels that the taxonomy does not have; without it such rows are refused."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take labelled texts from elsewhere: `text`/`label`, `text`/`labels` (levels) or `user_input`/`intent_code`.

    A good row goes in, a bad one is reported with its line. Run it again after a break: what is in stays as it is.

    Exit status: 0 every row is in, 1 some were refused or the file cannot be read.
    """
    with database(settings()) as work:
        try:
            report = _take_in(work, file, domain, create_labels)
        except UnreadableFile as error:
            raise IntentError(f"{file}: {error}") from error
    if as_json:
        print_json({"counts": report.counts, "refused": report.refused})
    else:
        console.print(
            ", ".join(f"{count} {kind}" for kind, count in sorted(report.counts.items())) or "The file is empty."
        )
        for line, reason in report.refused[:MOST_SHOWN]:
            console.print(f"  line {line}: {reason}", markup=False)
        if (hidden := report.counts["refused"] - min(MOST_SHOWN, len(report.refused))) > 0:
            console.print(f"  … and {hidden} more")
    if report.counts["refused"]:
        raise typer.Exit(1)


def _take_in(work: UnitOfWork, file: Path, domain: str, create_labels: bool) -> imports.ImportReport:
    total = imports.ImportReport()
    # On standard error: standard output is the report.
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("importing", total=None)
        for slice_ in _slices(file, total):
            report = work(imports.take_in, domain, slice_, create_labels=create_labels)
            total.counts += report.counts
            total.refused += report.refused[: total.MOST_REASONS - len(total.refused)]
            progress.advance(bar, len(slice_))
    work(_note, domain, total)
    # The reader reports rows before those of the same slice are taken in.
    total.refused.sort()
    return total


def _note(session: Session, domain: str, report: imports.ImportReport) -> None:
    after = {"counts": dict(report.counts)}
    domain_id = domains.find(session, domain).id
    audit.note(session, audit.COMMAND_LINE, "import.take_in", domain, domain_id=domain_id, after=after)


def _slices(file: Path, report: imports.ImportReport) -> Iterator[list[imports.ImportRow]]:
    slice_: list[imports.ImportRow] = []
    for row in read_labelled(file):
        if isinstance(row, BadRow):
            report.refuse(row.line, row.reason)
            continue
        try:
            slice_.append(imports.ImportRow(row.line, mask(clean(row.text)), row.label))
        except (TextEmpty, TextTooLong) as error:
            report.refuse(row.line, str(error))
        if len(slice_) == SLICE:
            yield slice_
            slice_ = []
    if slice_:
        yield slice_
