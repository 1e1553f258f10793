"""Where several people's blind answers differ, and how far they agree."""

from collections import Counter
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.access import ADMIN, needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    AccessDep,
    Cursor,
    DomainQuery,
    Guess,
    Limit,
    Work,
    next_cursor,
    page_before,
)
from app.api.problems import responses
from app.db.tables import Annotation, Text
from app.services import agreement, domains
from app.services.domains import DEFAULT

router = APIRouter(prefix=PREFIX, tags=["labeling"], route_class=StrictRoute)


class BlindAnswerOut(BaseModel):
    """One person's answer; who it was, only an admin is told."""

    annotation_id: int
    label: str
    proposed_label: str | None
    labeler_id: str | None


class DisputedOut(BaseModel):
    """A question whose answers came to no majority; `by_label` counts them."""

    question_id: str
    question: str
    count: int
    intents: list[str]
    topk: list[Guess]
    answers: list[BlindAnswerOut]
    by_label: dict[str, int]
    asked_at: datetime | None


class DisputedListOut(BaseModel):
    """The newest texts first."""

    items: list[DisputedOut]
    next_cursor: str | None


class AgreedOut(BaseModel):
    """Answers that can be compared with another's, the share of pairs that agree, and Krippendorff's α."""

    answers: int
    share: float | None
    alpha: float | None


class AgreedLabelOut(AgreedOut):
    """Of one label: α of "this one or another"."""

    label: str


class AgreedLabelerOut(AgreedOut):
    """Of one labeler against all others."""

    labeler_id: str


class AgreementOut(AgreedOut):
    """Over the last 10,000 blind answers of a domain; `low` to `high` is a 95 % interval of α."""

    domain: str
    texts: int
    low: float | None
    high: float | None
    labels: list[AgreedLabelOut]
    labelers: list[AgreedLabelerOut]


@router.get(
    "/questions/disputed",
    response_model=DisputedListOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("labeler")],
)
def list_disputed(
    work: Work, who: AccessDep, domain: DomainQuery = DEFAULT, limit: Limit = 50, cursor: Cursor = None
) -> DisputedListOut:
    """The questions about which a person must decide: POST …/label with `adjudicate` does."""

    def read(session: Session) -> DisputedListOut:
        owner = domains.find(session, domain)
        found = agreement.disputed(session, owner.id, before=page_before(cursor), limit=limit)
        given = agreement.answers_about(session, found)
        items = [_disputed(text, given[text.id], named=who.role == ADMIN) for text in found]
        return DisputedListOut(items=items, next_cursor=next_cursor(found, limit))

    return work.read(read)


@router.get(
    "/agreement",
    response_model=AgreementOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def show_agreement(work: Work, domain: DomainQuery = DEFAULT) -> dict[str, Any]:
    """How far people agree about the texts that several of them answered without sight of each other."""
    return work.read(lambda session: agreement.of_domain(session, domains.find(session, domain)).as_json())


def _disputed(text: Text, given: list[Annotation], *, named: bool) -> DisputedOut:
    # In the order of the labels: that of time would tell who was first.
    given = sorted(given, key=lambda answer: (_path(answer), answer.proposed_label or ""))
    return DisputedOut(
        question_id=text.question_id or "",
        question=text.text or "",
        count=text.count,
        intents=text.intents,
        topk=[(str(label), float(probability)) for label, probability in text.topk],
        answers=[
            BlindAnswerOut(
                annotation_id=answer.id,
                label=_path(answer),
                proposed_label=answer.proposed_label,
                labeler_id=answer.labeler_id if named else None,
            )
            for answer in given
        ],
        by_label=dict(Counter(map(_path, given)).most_common()),
        asked_at=text.last_asked_at,
    )


def _path(answer: Annotation) -> str:
    return str((answer.answer or [""])[0])
