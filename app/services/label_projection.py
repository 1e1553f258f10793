"""Bring the labels of many texts to their questions: a bounded number at once, the others by the clock."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.tables import Text, UserQuestion

T = TypeVar("T")

PAGE: Final = 1000
# Beyond so many twins of one text, and so many questions in all, the clock brings the label after.
MOST_TWINS: Final = 1000
MOST_PROJECTED: Final = 20_000

# The rows are not in the session: there is nothing to bring up to date.
BLIND: Final = {"synchronize_session": False}


@dataclass(slots=True)
class Projection:
    """How many questions this transaction still brings their label."""

    left: int = MOST_PROJECTED

    def bring(self, session: Session, texts: Sequence[Any], values: Mapping[str, Any]) -> None:
        """Write these columns of the questions of these texts, a bounded number of them now."""
        now_: list[int] = []
        later: list[int] = []
        taken = 0
        for text in texts:
            if text.count == 0:
                continue
            if text.count > MOST_TWINS or text.count > self.left:
                later.append(text.id)
                continue
            self.left -= text.count
            taken += text.count
            now_.append(text.id)
            if taken >= MOST_TWINS:
                _write(session, now_, values)
                now_, taken = [], 0
        _write(session, now_, values)
        postpone(session, later)


def _write(session: Session, text_ids: Sequence[int], values: Mapping[str, Any]) -> None:
    for page in paged(text_ids):
        session.execute(
            update(UserQuestion).where(UserQuestion.text_id.in_(page)).values(**values), execution_options=BLIND
        )


def postpone(session: Session, text_ids: Sequence[int]) -> None:
    """Leave it to the clock to bring the questions of these texts what they are to show."""
    for page in paged(text_ids):
        session.execute(update(Text).where(Text.id.in_(page)).values(projection_due=True), execution_options=BLIND)


def paged(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Lists of a length that one statement takes."""
    return (rows[start : start + PAGE] for start in range(0, len(rows), PAGE))
