"""Questions that somebody should look at: flag one, list them, take the flags of one down."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.annotations import LabelerRequest, note
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    LABELER_PATTERN,
    PREFIX,
    AccessDep,
    Cursor,
    DomainQuery,
    Limit,
    PathId,
    Work,
    next_cursor,
    page_before,
)
from app.api.problems import responses
from app.db.tables import Text
from app.services import domains, flags
from app.services.domains import DEFAULT

router = APIRouter(prefix=f"{PREFIX}/questions", tags=["labeling"], route_class=StrictRoute)


class FlagOut(BaseModel):
    """Who asked for a look, when and why."""

    labeler_id: str
    reason: str | None
    flagged_at: datetime


class FlaggedOut(BaseModel):
    """A flagged question. `state` is what it was without the flags."""

    question_id: str
    question: str
    count: int
    state: str
    flags: list[FlagOut]


class FlaggedListOut(BaseModel):
    """The newest texts first."""

    items: list[FlaggedOut]
    next_cursor: str | None


class FlagStateOut(BaseModel):
    """Where the question's text stands, and whether somebody should look at it."""

    question_id: str
    state: str
    is_flagged: bool


@router.get(
    "/flagged",
    response_model=FlaggedListOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("labeler")],
)
def list_flagged(work: Work, domain: DomainQuery = DEFAULT, limit: Limit = 50, cursor: Cursor = None) -> FlaggedListOut:
    """The questions that somebody should look at."""

    def read(session: Session) -> FlaggedListOut:
        owner = domains.find(session, domain)
        found = flags.page(session, owner.id, before=page_before(cursor), limit=limit)
        raised = flags.standing(session, [text.id for text in found])
        items = [
            FlaggedOut(
                question_id=text.question_id or "",
                question=text.text or "",
                count=text.count,
                state=text.state,
                flags=[
                    FlagOut(labeler_id=one.labeler_id, reason=one.reason, flagged_at=one.created_at)
                    for one in raised.get(text.id, ())
                ],
            )
            for text in found
        ]
        return FlaggedListOut(items=items, next_cursor=next_cursor(found, limit))

    return work.read(read)


@router.post(
    "/{question_id}/flag",
    response_model=FlagStateOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("labeler")],
)
def flag(question_id: PathId, body: LabelerRequest, work: Work, who: AccessDep) -> FlagStateOut:
    """Ask that somebody look at the question; its state and its lease stay."""
    who.require_labeler(body.labeler_id)

    def act(session: Session) -> Text:
        text = flags.flag(session, question_id, **body.said())
        note(session, who, "label.flag", question_id, body.labeler_id, None, {"state": text.state})
        return text

    return _state(question_id, work(act))


@router.delete(
    "/{question_id}/flag",
    response_model=FlagStateOut,
    responses=responses(404, 409, 422, 503),
    dependencies=[needs("labeler")],
)
def take_down(
    question_id: PathId,
    work: Work,
    who: AccessDep,
    labeler_id: Annotated[str, Query(min_length=1, max_length=128, pattern=LABELER_PATTERN)],
) -> FlagStateOut:
    """Say that somebody has looked: every flag of the question is taken down, whoever raised it."""
    who.require_labeler(labeler_id)

    def act(session: Session) -> Text:
        text = flags.lower(session, question_id, labeler_id=labeler_id)
        note(session, who, "label.unflag", question_id, labeler_id, None, {"state": text.state})
        return text

    return _state(question_id, work(act))


def _state(question_id: str, text: Text) -> FlagStateOut:
    return FlagStateOut(question_id=question_id, state=text.state, is_flagged=text.is_flagged)
