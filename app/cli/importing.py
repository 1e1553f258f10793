"""Import files into a domain: labelled texts, or questions that another system answered."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from app.cli.import_run import ImportRun, Slice, key_of, skipped
from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.errors import IntentError
from app.exchange.labelled import FORMATS, BadRow, LabelledRow, UnreadableFile, read_labelled
from app.intent.masking import mask
from app.intent.text import TextEmpty, TextTooLong, clean, sanitise
from app.services import audit, domains, imports

app = typer.Typer()

SLICE = 500
MOST_SHOWN = 20


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
    questions: Annotated[
        bool,
        typer.Option(
            "--questions", help="The rows are questions that another system answered, as for POST /questions."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write what became of each row, as JSON lines.", dir_okay=False)
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew instead of where an import that broke off was left.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take labelled texts from elsewhere: our own forms, Label Studio, Argilla, doccano, Rasa; or questions.

    A good row goes in, a bad one is reported with its line. After a break the same command goes on where it was left.

    Exit status: 0 every row is in or holds no label, 1 some were refused or the file cannot be read.
    """
    _refuse_contradictions(
        file, form, report, of_labels=bool(form or create_labels or suggestions), questions=questions
    )
    given = settings()
    with database(given) as work:
        key = key_of(file, "questions" if questions else "labels", form, create_labels, suggestions)
        run: ImportRun[Any] = ImportRun(work, domain, key, restart, report)
        try:
            if questions:
                from app.cli.importing_questions import take_in_questions

                take_in_questions(run, file, given)
            else:
                _take_in_labels(run, file, form, create_labels, suggestions)
        except UnreadableFile as error:
            raise IntentError(f"{file}: {error}") from error
        finally:
            _note(run, file, "questions.import" if questions else "labels.import")
    _say(run, as_json)
    if run.total.counts["refused"]:
        raise typer.Exit(1)


def _refuse_contradictions(
    file: Path, form: str | None, report: Path | None, *, of_labels: bool, questions: bool
) -> None:
    if form is not None and form not in FORMATS:
        raise typer.BadParameter(f"one of {', '.join(FORMATS)}", param_hint="--format")
    if questions and of_labels:
        raise typer.BadParameter(
            "goes with none of --format, --create-labels and --suggestions", param_hint="--questions"
        )
    if report is not None and report.resolve() == file.resolve():
        raise typer.BadParameter("the report would overwrite the file that is read", param_hint="--report")


def _take_in_labels(
    run: ImportRun[imports.ImportRow], file: Path, form: str | None, create_labels: bool, suggestions: bool
) -> None:
    def take(session: Session, rows: Sequence[imports.ImportRow]) -> imports.ImportReport:
        return imports.take_in(session, run.domain, rows, create_labels=create_labels)

    rows = read_labelled(file, form=form, guesses=suggestions)
    run.take_in(lambda done: _slices(skipped(rows, done)), take)


def _slices(rows: Iterator[LabelledRow | BadRow]) -> Iterator[Slice[imports.ImportRow]]:
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


def _note(run: ImportRun[Any], file: Path, action: str) -> None:
    """Put the import into the audit trail, also one that broke off, once anything came of it."""
    if not run.total.counts:
        return

    def write(session: Session) -> None:
        owner = domains.find(session, run.domain).id
        after = dict(sorted(run.total.counts.items()))
        audit.note(session, audit.COMMAND_LINE, action, sanitise(file.name), domain_id=owner, after=after)

    run.work(write)


def _say(run: ImportRun[Any], as_json: bool) -> None:
    total = run.total
    if as_json:
        print_json({"counts": total.counts, "refused": total.refused, "continued_after_rows": run.continued})
        return
    if run.continued:
        console.print(f"Continued after {run.continued:,} rows that an earlier run took in; all together:")
    console.print(", ".join(f"{count} {kind}" for kind, count in sorted(total.counts.items())) or "The file is empty.")
    for line, reason in total.refused[:MOST_SHOWN]:
        console.print(f"  line {line}: {reason}", markup=False)
    if (hidden := total.counts["refused"] - min(MOST_SHOWN, len(total.refused))) > 0:
        console.print(f"  … and {hidden} more")
