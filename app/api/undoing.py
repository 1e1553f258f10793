"""Take back a labeler's last answers of a domain at once."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import PREFIX, AccessDep, Body, DomainName, LabelerId, Whole, Work
from app.api.problems import responses
from app.services import audit, domains, undoing
from app.services.domains import DEFAULT

router = APIRouter(prefix=f"{PREFIX}/labels", tags=["labeling"], route_class=StrictRoute)


class UndoRequest(Body):
    """Whose answers, and how many."""

    labeler_id: LabelerId
    count: Annotated[Whole, Field(ge=1, le=100, description="the last so many labels, skips and discards")]
    domain: DomainName = DEFAULT


class TakenBackOut(BaseModel):
    """One answer that no longer counts; `state` is that of its text now."""

    question_id: str
    annotation_id: int
    kind: str
    state: str


class SupersededOut(BaseModel):
    """One answer that another has replaced since: nothing was changed. `annotation_id` counts there now."""

    question_id: str
    annotation_id: int | None


class UndoneOut(BaseModel):
    """What became of the last answers, the newest first."""

    undone: list[TakenBackOut]
    superseded: list[SupersededOut]


@router.post(
    "/undo",
    response_model=UndoneOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("labeler")],
)
def undo_last(body: UndoRequest, work: Work, who: AccessDep) -> UndoneOut:
    """Take this labeler's last answers of the domain back, the newest first: all of them, or none."""
    who.require_labeler(body.labeler_id)

    def act(session: Session) -> undoing.Undone:
        domain = domains.find(session, body.domain)
        undone = undoing.undo_last(session, domain, labeler_id=body.labeler_id, count=body.count)
        if undone.taken_back:
            questions = [answer.question_id for answer in undone.taken_back]
            after = {"labeler_id": body.labeler_id, "questions": questions}
            audit.note(session, who.actor, "label.undo_last", body.domain, domain_id=domain.id, after=after)
        return undone

    undone = work(act)
    return UndoneOut(
        undone=[TakenBackOut.model_validate(one, from_attributes=True) for one in undone.taken_back],
        superseded=[SupersededOut.model_validate(one, from_attributes=True) for one in undone.kept],
    )
