"""What a labeler is to look at next."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.dependencies import (
    LABELER_PATTERN,
    PREFIX,
    AccessDep,
    DomainQuery,
    Guess,
    ServicesDep,
    Work,
)
from app.api.problems import responses
from app.services import domains, queue
from app.services.domains import DEFAULT

router = APIRouter(prefix=PREFIX, tags=["labeling"])


STRATEGY = "priority (default), random, review, new_scenario, or a strategy of the mix: only what it selected"


class NeighbourOut(BaseModel):
    """A labelled question that is near to the one in doubt, with the label that it has now."""

    question: str
    label: str


class ReviewOut(BaseModel):
    """Why a label is in doubt: what it is, which one is likelier, and the nearest labelled questions."""

    label: str
    suspicion: float
    answer: str | None
    confidence: float | None
    model_version: str | None
    neighbours: list[NeighbourOut]


class QueueItemOut(BaseModel):
    """One distinct text, the question that stands for it, the model's answer, and the lease if one was taken."""

    question_id: str
    question: str
    count: int
    group_size: int
    intents: list[str]
    confidence: float | None
    topk: list[Guess]
    priority: float
    reason: str | None
    strategy: str | None
    sampling_probability: float | None
    lease_token: str | None
    lease_expires_at: datetime | None
    review: ReviewOut | None


class QueueOut(BaseModel):
    """The texts, the most valuable first. There is no next page: the queue is always taken from the top."""

    items: list[QueueItemOut]
    next_cursor: None = None


@router.get(
    "/questions/unlabeled",
    response_model=QueueOut,
    responses=responses(404, 409, 422, 503),
    dependencies=[needs("labeler")],
)
def unlabelled(
    work: Work,
    given: ServicesDep,
    who: AccessDep,
    domain: DomainQuery = DEFAULT,
    limit: Annotated[int, Query(ge=1, le=500, description="texts wanted; at most 100 can be leased")] = 100,
    strategy: Annotated[str | None, Query(max_length=32, description=STRATEGY)] = None,
    labeler_id: Annotated[
        str | None, Query(min_length=1, max_length=128, pattern=LABELER_PATTERN, description="takes leases")
    ] = None,
    lease_seconds: Annotated[int | None, Query(ge=1, le=86_400)] = None,
) -> QueueOut:
    """The next questions worth a person's time, or labels that look wrong; without `labeler_id` only a look."""
    if labeler_id is not None:
        who.require_labeler(labeler_id)

    def take(session: Session) -> list[queue.QueueItem]:
        return queue.unlabelled(
            session,
            domains.find(session, domain),
            limit=limit,
            strategy=strategy,
            labeler_id=labeler_id,
            lease_seconds=lease_seconds or given.lease_seconds,
        )

    items = work(take) if labeler_id is not None else work.read(take)
    return QueueOut(items=[QueueItemOut.model_validate(item, from_attributes=True) for item in items])
