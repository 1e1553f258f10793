"""Take in questions that another system answered, with a report for every row."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.errors import IntentError
from app.intent.questions import AskedQuestion
from app.services import intake
from app.services.imports import ImportReport


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One question, masked, with its line in the file."""

    line: int
    asked: AskedQuestion


def take_in(session: Session, rows: Sequence[QuestionRow]) -> ImportReport:
    """Log these questions: one slice of a file, in one transaction.

    `duplicate`: its request id was logged before with the same body; `conflict`: with another one, which stays.
    """
    report = ImportReport()
    for row, logged in zip(rows, intake.record(session, [row.asked for row in rows]), strict=True):
        if isinstance(logged, IntentError):
            report.note(row.line, "conflict", str(logged))
        elif logged is row.asked:
            report.note(row.line, "imported")
        else:
            report.note(row.line, "duplicate")
    return report
