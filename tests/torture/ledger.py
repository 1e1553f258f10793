"""What clients were told, beside what the database holds: a 2xx without its row is lost, one with two is doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db.tables import UserQuestion


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One 2xx: under which text and ids the client was told that its question is logged."""

    text: str
    request_id: str | None
    question_id: str
    logged: str


@dataclass(slots=True)
class Ledger:
    """What clients saw, from any number of threads. Every text is asked under one id, or once without any."""

    answers: list[Acknowledged] = field(default_factory=list)
    # Answers by status; 0 stands for a connection that broke.
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, status: int, seconds: float) -> None:
        """One request that ended, however it did."""
        with self._lock:
            self.statuses[status] += 1
            self.slowest_seconds = max(self.slowest_seconds, seconds)

    def acknowledge(self, text: str, answer: Mapping[str, Any]) -> None:
        """One 2xx of `/classify`."""
        found = Acknowledged(text, answer["request_id"], answer["question_id"], answer.get("logged", "db"))
        with self._lock:
            self.answers.append(found)

    @property
    def unforeseen(self) -> int:
        """Requests that ended otherwise than by an answer, a 503 or the death of the service."""
        return sum(count for status, count in self.statuses.items() if status not in (0, 200, 503))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the answers. All of these but `rows` must be zero."""

    rows: int
    # Acknowledged, and under neither of its ids in the database.
    lost: int
    # Rows beyond the first of one text.
    doubled: int
    # Acknowledged under a question id that is not its row's: another answer was kept.
    renamed: int

    def as_figures(self) -> dict[str, float]:
        """For a report."""
        return {"rows": self.rows, "lost": self.lost, "doubled": self.doubled, "renamed": self.renamed}


def check(engine: Engine, ledger: Ledger) -> Verdict:
    """Hold the ledger beside the rows of the database, which holds nothing else."""
    with Session(engine) as session:
        rows = session.execute(select(UserQuestion.question_id, UserQuestion.request_id, UserQuestion.question)).all()
    by_request = {row.request_id: row.question_id for row in rows if row.request_id is not None}
    ids = {row.question_id for row in rows}
    lost = renamed = 0
    for answer in ledger.answers:
        if answer.question_id in ids:
            continue
        if answer.request_id is not None and answer.request_id in by_request:
            renamed += 1
        else:
            lost += 1
    asked = {answer.text for answer in ledger.answers}
    per_text = Counter(row.question for row in rows)
    doubled = sum(count - 1 for text, count in per_text.items() if text in asked)
    return Verdict(len(rows), lost, doubled, renamed)
