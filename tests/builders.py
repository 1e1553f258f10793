"""Builders with defaults, so that a test shows only what matters to it."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Domain, Lease, ModelVersion, Text, TrainingBatch
from app.intent.questions import AskedQuestion, new_question_id
from app.intent.selection import is_gold_candidate
from app.intent.taxonomy import parse_taxonomy
from app.intent.text import MaskedText, text_hash
from app.services import annotations, domains, folding, intake, taxonomy

_numbers = itertools.count(1)


def asked(text: str, *, domain_id: int = 1, **changes: Any) -> AskedQuestion:
    """A question that nobody answered."""
    values: dict[str, Any] = {
        "domain_id": domain_id,
        "question_id": new_question_id(),
        "request_id": None,
        "body_hash": hashlib.sha256(text.encode()).hexdigest(),
        "user_hash": None,
        "text": MaskedText(text),
        "text_hash": text_hash(MaskedText(text)),
        "source": "served",
        "train_allowed": True,
        "asked_at": datetime.now(UTC),
        "intents": [],
        "confidence": None,
        "method": "none",
    }
    return AskedQuestion(**(values | changes))


def domain_id(work: UnitOfWork, name: str = "default") -> int:
    """The id of a domain; servers number on from the tests before."""
    return work.read(lambda session: domains.find(session, name).id)


def ask(work: UnitOfWork, *questions: str, domain: str = "default", **changes: Any) -> list[str]:
    """Log these texts, fold them, and return the ids of the questions."""
    owner = domain_id(work, domain)
    rows = [asked(text, domain_id=owner, **changes) for text in questions]
    work(intake.record, rows)
    while work(folding.fold):
        pass
    return [row.question_id for row in rows]


def set_taxonomy(work: UnitOfWork, labels: Sequence[str], domain: str = "default") -> None:
    """Make these the labels of a domain."""

    def replace(session: Session) -> None:
        taxonomy.replace(session, domains.locked(session, domain), parse_taxonomy(list(labels)))

    work(replace)


def trainable_text(label: str) -> str:
    """A text that nobody used yet, that speaks of the label, and that is not gold."""
    while True:
        text = f"{label} 第{next(_numbers)}句"
        if not is_gold_candidate(text_hash(MaskedText(text))):
            return text


def gold_text(label: str) -> str:
    """A text that nobody used yet, and that the hash holds out."""
    while True:
        text = f"{label} 第{next(_numbers)}句"
        if is_gold_candidate(text_hash(MaskedText(text))):
            return text


def make_labelled_texts(
    work: UnitOfWork, counts: Mapping[str, int], *, gold: int = 0, domain: str = "default"
) -> list[str]:
    """So many labelled texts per label (and `gold` more of each that are held out); returns the question ids."""
    known = work.read(
        lambda session: [label.path for label in taxonomy.active(session, domains.find(session, domain).id)]
    )
    if missing := [label for label in counts if label not in known]:
        set_taxonomy(work, [*known, *missing], domain)
    made: list[str] = []
    for label, count in counts.items():
        wanted = [trainable_text(label) for _ in range(count)] + [gold_text(label) for _ in range(gold)]
        for question_id in ask(work, *wanted, domain=domain):
            work(annotations.submit, question_id, correct_intent=[label], labeler_id="ana")
            made.append(question_id)
    return made


def make_version(session: Session, *, domain: str = "default", **changes: Any) -> ModelVersion:
    """A registered version that passed the gate; there is no artifact behind it."""
    owner = domains.locked(session, domain)
    owner.version_seq += 1
    values: dict[str, Any] = {
        "domain_id": owner.id,
        "version": f"{owner.name}-v{owner.version_seq}",
        "recipe": "ngram",
        "model_path": "nowhere",
        "artifact_digest": f"{owner.version_seq:064x}",
        "status": "passed",
        "evaluation": {"gold": {"count": 60, "macro_f1": {"value": 0.9}}},
        "threshold": 0.5,
    }
    version = ModelVersion(**(values | changes))
    session.add(version)
    session.flush()
    return version


def text_of(session: Session, question_id: str) -> Text:
    """The text that a question asked."""
    question = intake.find(session, question_id)
    return session.execute(select(Text).where(Text.id == question.text_id)).scalar_one()


def batch_of(session: Session, batch_id: str) -> TrainingBatch:
    """A batch by its id."""
    return session.execute(select(TrainingBatch).where(TrainingBatch.batch_id == batch_id)).scalar_one()


def domain_of(session: Session, name: str = "default") -> Domain:
    """A domain by its name."""
    return domains.find(session, name)


def label(work: UnitOfWork, question_id: str, path: str, *, by: str = "ana", **changes: Any) -> annotations.Submitted:
    """Answer a question."""
    return work(annotations.submit, question_id, correct_intent=[path], labeler_id=by, **changes)


def expire_leases(work: UnitOfWork) -> None:
    """Let the time of every lease be over."""
    past = datetime(2020, 1, 1, tzinfo=UTC)

    def expire(session: Session) -> None:
        session.execute(update(Lease).values(expires_at=past))
        session.execute(update(Text).where(Text.leased_until.is_not(None)).values(leased_until=past))

    work(expire)


def column(work: UnitOfWork, *columns: Any) -> list[Any]:
    """The values of these columns in all rows, in the order of the table's key; tuples where there are several."""
    table = columns[0].class_.__table__

    def read(session: Session) -> list[Any]:
        rows = session.execute(select(*columns).order_by(*table.primary_key.columns)).all()
        return [row[0] if len(columns) == 1 else tuple(row) for row in rows]

    return work.read(read)
