"""Export the labelled texts of a domain."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import Progress

from app.cli.opening import DomainOption, JsonOption, console, database, print_json, settings
from app.db.session import UnitOfWork
from app.errors import IntentError
from app.exchange.pieces import UnreadableFile
from app.exchange.whole_files import whole_file
from app.exchange.writing import INSTRUCTION, WRITERS, Writing
from app.intent.taxonomy import SEPARATOR
from app.services import domains, exports

app = typer.Typer()

_STANDARD_OUTPUT = Path("-")
_ERRORS = Console(stderr=True, highlight=False, soft_wrap=True)
_BY_SUFFIX = {".csv": "csv", ".parquet": "parquet", ".yml": "rasa", ".yaml": "rasa"}


@app.command("export")
def export_labelled(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file, gzipped when it ends in .gz; - is standard output.")
    ] = _STANDARD_OUTPUT,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(WRITERS)}; by the file's name without it, or else labels."),
    ] = None,
    domain: DomainOption = domains.DEFAULT,
    split: Annotated[str, typer.Option(help=f"{', '.join(exports.SPLITS)}.")] = "all",
    since: Annotated[str | None, typer.Option(help="Only what was labelled then or later: 2026-11-01, or a time.")] = (
        None
    ),
    include_count: Annotated[bool, typer.Option("--include-count", help="Say how often each text was asked.")] = False,
    instruction: Annotated[str, typer.Option(help="What the form instruction puts before each text.")] = INSTRUCTION,
    as_json: JsonOption = False,
) -> None:
    """Write the labelled texts of a domain for other tools, in an order that never changes.

    Left out and counted: texts that must not be trained on, those kept only as a hash, and labels that were retired.
    """
    given = settings()
    form = form or _BY_SUFFIX.get(Path(output.name.removesuffix(".gz")).suffix.lower(), "labels")
    _check(form, split, output, include_count, as_json)
    moment = _moment(since, given.timezone) if since is not None else None
    with database(given) as work:
        export = work.read(exports.begin, domain, split=split, since=moment)
        found = work.read(exports.summary, export)
        nested = any(SEPARATOR in path for path in export.paths.values())
        writing = Writing(instruction, include_count, nested)
        try:
            with _opened(output) as out:
                WRITERS[form](_rows(work, export, found.count), out, writing)
        except UnreadableFile as error:
            raise IntentError(str(error)) from error
        except BrokenPipeError:
            # Whoever read has seen enough. Python would complain once more when it closes the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    left_out = dict(found.left_out) | dict(writing.left_out)
    if as_json:
        print_json({"written": writing.written, "left_out": left_out})
    else:
        said = console if output != _STANDARD_OUTPUT else _ERRORS
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        said.print(f"{writing.written} texts written" + (f"; left out: {reasons}" if reasons else ""))


def _check(form: str, split: str, output: Path, include_count: bool, as_json: bool) -> None:
    if form not in WRITERS:
        raise typer.BadParameter(f"one of {', '.join(WRITERS)}", param_hint="--format")
    if split not in exports.SPLITS:
        raise typer.BadParameter(f"one of {', '.join(exports.SPLITS)}", param_hint="--split")
    if include_count and form == "rasa":
        raise typer.BadParameter("the form rasa has no place for a count", param_hint="--include-count")
    if as_json and output == _STANDARD_OUTPUT:
        raise typer.BadParameter(
            "standard output is taken by the texts: name a file with --output", param_hint="--json"
        )
    if output != _STANDARD_OUTPUT and output.is_dir():
        raise typer.BadParameter("this is a folder", param_hint="--output")


def _moment(since: str, timezone: str) -> datetime:
    """A date or a time; without a zone, one of this installation's."""
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise typer.BadParameter(
            "a date or a time, as in 2026-11-01 or 2026-11-01T08:00", param_hint="--since"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(timezone))


@contextmanager
def _opened(output: Path) -> Iterator[IO[bytes]]:
    if output == _STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with whole_file(output) as out:
            yield out


def _rows(work: UnitOfWork, export: exports.Export, count: int) -> Iterator[exports.LabelledText]:
    """All of them, each page read in a transaction of its own: none is open while they are written."""
    with Progress(console=_ERRORS, transient=True, disable=not _ERRORS.is_terminal) as progress:
        bar = progress.add_task("exporting", total=count)
        after: str | None = ""
        while after is not None:
            texts, after = work.read(exports.page, export, after)
            yield from texts
            progress.advance(bar, len(texts))
