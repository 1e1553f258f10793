"""What labelers answer: label, undo, skip, discard, release."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator
from sqlalchemy.orm import Session

from app.api.access import ADMIN, Access, needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    LABELER_PATTERN,
    PREFIX,
    AccessDep,
    Body,
    LabelerId,
    LabelPath,
    PathId,
    ServicesDep,
    Short,
    SmallObject,
    Whole,
    Work,
)
from app.api.problems import responses
from app.db.tables import Annotation, Text
from app.intent.masking import mask
from app.intent.taxonomy import split
from app.intent.text import normalise
from app.services import annotations, audit, intake, undoing

router = APIRouter(prefix=f"{PREFIX}/questions/{{question_id}}", tags=["labeling"], route_class=StrictRoute)

LeaseToken = Annotated[str, Field(max_length=64)]


class LabelRequest(Body):
    """One person's answer. `correct_intent` holds full paths: one, in a single-label domain."""

    correct_intent: list[LabelPath] = Field(max_length=100, examples=[["硬件故障 > 电源问题 > 无法开机"]])
    labeler_id: LabelerId
    correct_time_intent: SmallObject | None = Field(None, examples=[{"type": "this_year", "target_years": [2026]}])
    lease_token: LeaseToken | None = None
    supersedes: Whole | None = Field(None, ge=1, description="the annotation that this one replaces")
    proposed_label: LabelPath | None = Field(
        None, description="a label that is missing; with correct_intent [其他]. At 50 texts it becomes one"
    )
    adjudicate: bool = Field(False, description="decide about answers that differ: one that is none of yours")

    @model_validator(mode="after")
    def _answers_something(self) -> "LabelRequest":
        if not self.correct_intent and self.proposed_label is None:
            raise ValueError("correct_intent names a label; it may be empty only beside a proposed_label")
        return self


class AnnotationOut(BaseModel):
    """The annotation that was stored. `twins`: how many questions carry the label that the text has now.

    `state`: labelled; while answers of others are missing unlabelled, disputed when they all are in and differ.
    """

    annotation_id: int
    question_id: str
    label: str
    path: list[str]
    supersedes: int | None
    twins: int
    state: str


class LabelerRequest(Body):
    """Who does something about the question, why, and with which lease."""

    labeler_id: LabelerId
    reason: Short | None = None
    lease_token: LeaseToken | None = None

    def said(self) -> dict[str, Any]:
        """Who, why and with which lease, as services take it."""
        # A reason may quote the question; masked, it may have grown.
        reason = mask(normalise(self.reason))[:255] if self.reason else None
        return {"labeler_id": self.labeler_id, "reason": reason, "lease_token": self.lease_token}


class StateOut(BaseModel):
    """Where the question's text stands now: unlabelled, labelled, skipped, discarded or disputed."""

    question_id: str
    state: str


@router.post(
    "/label",
    response_model=AnnotationOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("labeler")],
)
def label(question_id: PathId, body: LabelRequest, work: Work, given: ServicesDep, who: AccessDep) -> AnnotationOut:
    """Label a question and all its twins; a second answer of the same labeler replaces the first."""
    who.require_labeler(body.labeler_id)

    def submit(session: Session) -> annotations.Submitted:
        submitted = annotations.submit(
            session,
            question_id,
            correct_intent=body.correct_intent,
            labeler_id=body.labeler_id,
            time_intent=body.correct_time_intent,
            proposed_label=body.proposed_label,
            supersedes=body.supersedes,
            lease_token=body.lease_token,
            adjudicate=body.adjudicate,
            may_decide_own=who.role == ADMIN,
            proposal_size=given.proposal_size,
        )
        former = session.get(Annotation, submitted.supersedes) if submitted.supersedes else None
        before = {"label": former.answer[0], "labeler_id": former.labeler_id} if former and former.answer else None
        after = {"label": submitted.label, "annotation_id": submitted.annotation_id, "state": submitted.state}
        note(session, who, "label.submit", question_id, body.labeler_id, before, after)
        return submitted

    submitted = work(submit)
    return AnnotationOut(
        annotation_id=submitted.annotation_id,
        question_id=submitted.question_id,
        label=submitted.label,
        path=list(split(submitted.label)),
        supersedes=submitted.supersedes,
        twins=submitted.twins,
        state=submitted.state,
    )


@router.delete(
    "/label",
    response_model=StateOut,
    responses=responses(404, 409, 422, 503),
    dependencies=[needs("labeler")],
)
def undo(
    question_id: PathId,
    work: Work,
    who: AccessDep,
    labeler_id: Annotated[str, Query(min_length=1, max_length=128, pattern=LABELER_PATTERN)],
) -> StateOut:
    """Take this labeler's last answer (skip, discard) back; what counted before it counts again."""
    who.require_labeler(labeler_id)

    def take_back(session: Session) -> Text:
        text = undoing.undo(session, question_id, labeler_id=labeler_id)
        note(session, who, "label.undo", question_id, labeler_id, None, {"state": text.state})
        return text

    text = work(take_back)
    return StateOut(question_id=question_id, state=text.state)


@router.post(
    "/skip",
    response_model=StateOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("labeler")],
)
def skip(question_id: PathId, body: LabelerRequest, work: Work, who: AccessDep) -> StateOut:
    """Hide the question from this labeler; two labelers' skips retire it."""
    who.require_labeler(body.labeler_id)

    def hide(session: Session) -> Text:
        text = annotations.skip(session, question_id, **body.said())
        note(session, who, "label.skip", question_id, body.labeler_id, None, {"state": text.state})
        return text

    text = work(hide)
    return StateOut(question_id=question_id, state=text.state)


@router.post(
    "/discard",
    response_model=StateOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("labeler")],
)
def discard(question_id: PathId, body: LabelerRequest, work: Work, who: AccessDep) -> StateOut:
    """Say that this is nothing to label (nonsense, spam): it is never asked or trained on again."""
    who.require_labeler(body.labeler_id)

    def throw_out(session: Session) -> Text:
        text = annotations.discard(session, question_id, **body.said())
        note(session, who, "label.discard", question_id, body.labeler_id, None, {"state": text.state})
        return text

    text = work(throw_out)
    return StateOut(question_id=question_id, state=text.state)


@router.post(
    "/release",
    response_model=StateOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("labeler")],
)
def release(question_id: PathId, body: LabelerRequest, work: Work, who: AccessDep) -> StateOut:
    """Hand the question back unanswered: another labeler gets it at once."""
    who.require_labeler(body.labeler_id)
    text = work(annotations.release, question_id, labeler_id=body.labeler_id, lease_token=body.lease_token)
    return StateOut(question_id=question_id, state=text.state)


def note(
    session: Session,
    who: Access,
    action: str,
    question_id: str,
    labeler_id: str,
    before: dict[str, Any] | None,
    after: dict[str, Any],
) -> None:
    """Write down what a labeler did about a question."""
    domain_id = intake.find(session, question_id).domain_id
    after = {"labeler_id": labeler_id, **after}
    audit.note(session, who.actor, action, question_id, domain_id=domain_id, before=before, after=after)
