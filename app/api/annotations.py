"""What labelers answer: label, undo, skip, release."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.bodies import StrictRoute
from app.api.dependencies import LABELER_PATTERN, PREFIX, LabelerId, LabelPath, ServicesDep, Short, Work
from app.api.problems import responses
from app.intent.taxonomy import split
from app.services import annotations

router = APIRouter(prefix=f"{PREFIX}/questions/{{question_id}}", tags=["labeling"], route_class=StrictRoute)


class LabelRequest(BaseModel):
    """One person's answer. `correct_intent` holds full paths: one, in a single-label domain."""

    correct_intent: list[LabelPath] = Field(max_length=100, examples=[["硬件故障 > 电源问题 > 无法开机"]])
    labeler_id: LabelerId
    correct_time_intent: dict[str, Any] | None = Field(None, examples=[{"type": "this_year", "target_years": [2026]}])
    lease_token: Annotated[str, Field(max_length=64)] | None = None
    supersedes: int | None = Field(None, ge=1, description="the annotation that this one replaces")
    proposed_label: LabelPath | None = Field(
        None, description="a label that is missing; with correct_intent [其他]. At 50 texts it becomes one"
    )


class LabelOut(BaseModel):
    """The annotation that counts now. `twins`: how many questions carry the label."""

    annotation_id: int
    question_id: str
    label: str
    path: list[str]
    supersedes: int | None
    twins: int


class LabelerRequest(BaseModel):
    """Who hands the question back, and why."""

    labeler_id: LabelerId
    reason: Short | None = None
    lease_token: Annotated[str, Field(max_length=64)] | None = None


class StateOut(BaseModel):
    """Where the question's text stands now: unlabelled, labelled or skipped."""

    question_id: str
    state: str


@router.post("/label", response_model=LabelOut, responses=responses(400, 404, 409, 413, 422, 503))
def label(question_id: str, body: LabelRequest, work: Work, given: ServicesDep) -> LabelOut:
    """Label a question and all its twins; a second answer of the same labeler replaces the first."""
    submitted = work(
        annotations.submit,
        question_id,
        correct_intent=body.correct_intent,
        labeler_id=body.labeler_id,
        time_intent=body.correct_time_intent,
        proposed_label=body.proposed_label,
        supersedes=body.supersedes,
        proposal_size=given.proposal_size,
    )
    return LabelOut(
        annotation_id=submitted.annotation_id,
        question_id=submitted.question_id,
        label=submitted.label,
        path=list(split(submitted.label)),
        supersedes=submitted.supersedes,
        twins=submitted.twins,
    )


@router.delete("/label", response_model=StateOut, responses=responses(404, 409, 422, 503))
def undo(
    question_id: str,
    work: Work,
    labeler_id: Annotated[str, Query(min_length=1, max_length=128, pattern=LABELER_PATTERN)],
) -> StateOut:
    """Take this labeler's last answer (or skip) back; what counted before it counts again."""
    text = work(annotations.undo, question_id, labeler_id=labeler_id)
    return StateOut(question_id=question_id, state=text.state)


@router.post("/skip", response_model=StateOut, responses=responses(400, 404, 409, 413, 422, 503))
def skip(question_id: str, body: LabelerRequest, work: Work) -> StateOut:
    """Hide the question from this labeler; two labelers' skips retire it."""
    text = work(annotations.skip, question_id, labeler_id=body.labeler_id, reason=body.reason)
    return StateOut(question_id=question_id, state=text.state)


@router.post("/release", response_model=StateOut, responses=responses(400, 404, 409, 413, 422, 503))
def release(question_id: str, body: LabelerRequest, work: Work) -> StateOut:
    """Hand the question back unanswered: another labeler gets it at once."""
    text = work(annotations.release, question_id, labeler_id=body.labeler_id)
    return StateOut(question_id=question_id, state=text.state)
