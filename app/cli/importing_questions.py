"""Import questions that another system answered: a file of what `POST /questions` takes.

Apart from `importing`, for it needs the web framework, which takes half a second to import.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from app.api.bodies import parse
from app.api.predictions import prepare, read_many
from app.cli.import_run import ImportRun, Slice, skipped
from app.errors import IntentError
from app.exchange.objects import read_objects
from app.exchange.pieces import BadRow, Piece
from app.exchange.rows import type_of
from app.main import installation_secret
from app.services.imports import RowReport
from app.services.question_imports import QuestionRow, take_in
from app.serving.classifier import Secret
from app.settings import Settings

SLICE = 1000


def take_in_questions(run: ImportRun[QuestionRow], file: Path, given: Settings) -> None:
    """Log the questions of a file.

    Raises:
        UnreadableFile: it cannot be read.
    """
    secret = Secret(installation_secret(given))
    pieces = read_objects(file)

    def slices(done: int) -> Iterator[Slice[QuestionRow]]:
        left = skipped(pieces, done)
        while chunk := list(islice(left, SLICE)):
            yield _prepared(run, secret, chunk, done, given.max_json_depth)
            done += len(chunk)

    run.take_in(slices, take_in)


def _prepared(
    run: ImportRun[QuestionRow], secret: Secret, chunk: list[Piece | BadRow], done: int, max_depth: int
) -> Slice[QuestionRow]:
    raws = [_parsed(piece, run.domain, max_depth) for piece in chunk]
    # So that the same file, imported again, logs nothing twice: a row without an id is known by its place in it.
    keys = [run.key and f"import-{run.key[:32]}#{number}" for number in range(done + 1, done + len(chunk) + 1)]
    predictions = read_many(raws, keys)
    good: list[QuestionRow] = []
    left_out: list[RowReport] = []
    for piece, asked in zip(chunk, prepare(run.work, secret, predictions), strict=True):
        if isinstance(asked, IntentError):
            left_out.append(RowReport(piece.line, "refused", str(asked)))
        else:
            good.append(QuestionRow(piece.line, asked))
    return good, left_out


def _parsed(piece: Piece | BadRow, domain: str, max_depth: int) -> Any:
    """The object of a row, in this domain unless it names another; an error where there is none."""
    if isinstance(piece, BadRow):
        return IntentError(piece.reason)
    try:
        value = parse(piece.text.encode(), max_depth=max_depth)
    except IntentError as error:
        return IntentError(str(error).replace("the body", "the row"))
    if not isinstance(value, dict):
        return IntentError(f"{type_of(value)} instead of an object")
    return {"domain": domain} | value
