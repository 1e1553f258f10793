"""What labelers were given and told, beside what the database holds: given twice, lost, late, and what came up."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Text, UserQuestion

Event = Mapping[str, Any]
# Whoever is late, or comes twice, is told 409; 503 says that the database is busy, and the labeler comes again.
FORESEEN = frozenset({200, 409, 503})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the labels. `doubled`, `lost`, `stray`, `late` and `unforeseen` must be zero.

    doubled: given to a labeler while as many others as may hold it held it. lost: told 200, and not in the database
    under this labeler, question and number. stray: in the database as what nobody sent. late: taken in although the
    text was with others since. unforeseen: answers other than 200, 409 and 503. busy: those with 503.
    """

    answers: int
    refused: int
    doubled: int
    lost: int
    stray: int
    late: int
    unforeseen: int
    busy: int

    def as_figures(self) -> dict[str, float]:
        """By name."""
        return {name: float(getattr(self, name)) for name in self.__slots__}


def read(path: Path) -> list[Event]:
    """A ledger that the labelers wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check(engine: Engine, events: Sequence[Event], *, slots: int = 1, lease_seconds: float = 900.0) -> Verdict:
    """Compare a ledger with the database. `slots`: how many people may hold a text at once, each for so long."""
    told = [event for event in events if event["what"] == "told"]
    statuses = Counter(event["status"] for event in events if "status" in event)
    accepted = {event["annotation"]: event for event in told if event["status"] == 200}
    stored = UnitOfWork(engine).read(_stored)
    lost = sum(
        stored.get(number) != (event["labeler"], event["text"])
        for number, event in _with_texts(engine, accepted.items())
    )
    sent = {(event["labeler"], event["question"]) for event in events if event["what"] in ("told", "cut")}
    texts = UnitOfWork(engine).read(_texts)
    sent_about = {(labeler, texts.get(question)) for labeler, question in sent}
    stray = sum(row not in sent_about for row in stored.values())
    held = _held(events, lease_seconds)
    return Verdict(
        answers=len(accepted),
        refused=statuses[409],
        doubled=sum(_most_at_once(spans) > slots for spans in held.values()),
        lost=lost,
        stray=stray,
        late=sum(_is_late(event, events_of, slots) for event, events_of in _accepted_with_takings(events)),
        unforeseen=sum(count for status, count in statuses.items() if status not in FORESEEN),
        busy=statuses[503],
    )


def _stored(session: Session) -> dict[int, tuple[str, int]]:
    rows = session.execute(
        select(Annotation.id, Annotation.labeler_id, Annotation.text_id).where(
            Annotation.kind == "label", Annotation.labeler_id.like("person-%")
        )
    )
    return {number: (labeler, text_id) for number, labeler, text_id in rows}


def _texts(session: Session) -> dict[str, int]:
    rows = session.execute(select(UserQuestion.question_id, UserQuestion.text_id))
    return {question: text_id for question, text_id in rows if text_id is not None}


def _with_texts(engine: Engine, accepted: Iterable[tuple[int, Event]]) -> list[tuple[int, dict[str, Any]]]:
    texts = UnitOfWork(engine).read(_texts)
    return [(number, {**event, "text": texts.get(event["question"])}) for number, event in accepted]


def _held(events: Sequence[Event], lease_seconds: float) -> dict[str, list[tuple[float, float]]]:
    """From when to when each question was with somebody, as they can know it.

    It begins when they heard of it and ends when they sent something that could end it, or when the lease did: shorter
    than it really was, so that what overlaps did so.
    """
    ends: dict[tuple[str, str], float] = {}
    for event in events:
        if event["what"] in ("told", "cut", "released"):
            ends.setdefault((event["labeler"], event["token"]), event.get("sent", event["at"]))
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seen = set()
    for event in events:
        if event["what"] != "taken" or (event["labeler"], event["token"]) in seen:
            continue
        seen.add((event["labeler"], event["token"]))
        # A second less: the lease began before the answer was here.
        until = event["at"] + lease_seconds - 1.0
        found[event["question"]].append((event["at"], min(until, ends.get((event["labeler"], event["token"]), until))))
    return found


def _most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many of these spans overlap at most."""
    turns = sorted(turn for begin, end in spans if end > begin for turn in ((begin, 1), (end, -1)))
    most = now = 0
    for _, change in turns:
        now += change
        most = max(most, now)
    return most


def _accepted_with_takings(events: Sequence[Event]) -> Iterable[tuple[Event, list[Event]]]:
    taken: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["what"] == "taken":
            taken[event["question"]].append(event)
    for event in events:
        if event["what"] == "told" and event["status"] == 200:
            yield event, taken[event["question"]]


def _is_late(event: Event, takings: Sequence[Event], slots: int) -> bool:
    """Whether an answer was taken in for a lease that others' leases had taken the place of before it was sent."""
    if slots > 1:
        # Another slot may have been free: whose place was taken, the labelers cannot know.
        return False
    since = min(one["at"] for one in takings if one["token"] == event["token"])
    return any(one["labeler"] != event["labeler"] and since < one["at"] < event["sent"] for one in takings)


def waiting(engine: Engine) -> int:
    """How many texts wait for an answer still."""

    def count(session: Session) -> int:
        rows = session.scalars(select(Text.id).where(Text.state == "unlabelled", Text.priority.is_not(None)))
        return len(rows.all())

    return UnitOfWork(engine).read(count)
