"""Training batches: open, run, watch."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    AccessDep,
    Body,
    Caller,
    Cursor,
    DomainName,
    DomainQuery,
    Limit,
    PathId,
    SmallObject,
    Work,
    next_cursor,
    page_before,
)
from app.api.problems import responses
from app.db.tables import Domain, TrainingBatch
from app.intent.recipes import Recipe
from app.services import audit, batches, domains, statistics
from app.services.domains import DEFAULT

router = APIRouter(prefix=f"{PREFIX}/batches", tags=["training"], route_class=StrictRoute)


class BatchRequest(Body):
    """What to train. Without `recipe` the domain's own."""

    domain: DomainName = DEFAULT
    description: str | None = Field(None, max_length=500)
    recipe: Recipe | None = None
    config: SmallObject | None = Field(None, description="settings of the recipe that differ from its defaults")
    retrain: bool = Field(False, description="true: also without a new label, on all that there are")


class RunRequest(Body):
    """How to run a batch."""

    auto_extract_keywords: bool = Field(False, description="mine keyword rules after the batch; kept on its row")


class BatchOut(BaseModel):
    """A batch: pending → queued → training → evaluating → completed, or failed."""

    batch_id: str
    domain: str
    training_status: str
    outcome: str | None
    model_version: str | None
    parent_version: str | None
    recipe: str
    config: dict[str, Any]
    description: str | None
    opened_by: str
    auto_extract_keywords: bool
    question_count: int
    replay_count: int
    gold_count: int
    progress: float
    stage: str | None
    error: str | None
    attempt: int
    model_path: str | None
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class QueuedOut(BatchOut):
    """A queued batch, and whether any clock is there to take it."""

    clock_running: bool
    message: str


class BatchesOut(BaseModel):
    """The newest first."""

    items: list[BatchOut]
    next_cursor: str | None


@router.post(
    "",
    response_model=BatchOut,
    status_code=201,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def open_batch(body: BatchRequest, work: Work, who: AccessDep) -> BatchOut:
    """Freeze the new labels of a domain in a batch. It trains when it is run."""

    def opened(session: Session) -> BatchOut:
        batch = batches.open_batch(
            session,
            body.domain,
            opened_by=who.by("person"),
            recipe=body.recipe,
            config=body.config,
            description=body.description,
            retrain=body.retrain,
        )
        after = {name: getattr(batch, name) for name in ("recipe", "question_count", "replay_count", "gold_count")}
        audit.note(session, who.actor, "batch.open", batch.batch_id, domain_id=batch.domain_id, after=after)
        return _batch(session, batch)

    return work(opened)


@router.get(
    "",
    response_model=BatchesOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def list_batches(work: Work, domain: DomainQuery = DEFAULT, limit: Limit = 50, cursor: Cursor = None) -> BatchesOut:
    """The batches of a domain."""
    before = page_before(cursor)

    def read(session: Session) -> BatchesOut:
        rows = batches.listing(session, domains.find(session, domain).id, limit=limit, before=before)
        return BatchesOut(items=[_batch(session, row) for row in rows], next_cursor=next_cursor(rows, limit))

    return work.read(read)


@router.get(
    "/{batch_id}",
    response_model=BatchOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def show_batch(batch_id: PathId, work: Work) -> BatchOut:
    """One batch with its progress and, if it failed, why."""

    def read(session: Session) -> BatchOut:
        return _batch(session, batches.find(session, batch_id))

    return work.read(read)


@router.post(
    "/{batch_id}/run",
    response_model=QueuedOut,
    status_code=202,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def run_batch(batch_id: PathId, work: Work, who: Caller, body: RunRequest | None = None) -> QueuedOut:
    """Queue a batch: any running clock takes it within two seconds. Poll the batch for what becomes of it."""

    def queued(session: Session) -> QueuedOut:
        asked = body or RunRequest(auto_extract_keywords=False)
        before = {"training_status": batches.find(session, batch_id).training_status}
        batch = batches.run(session, batch_id, auto_extract_keywords=asked.auto_extract_keywords)
        after = {"training_status": batch.training_status, **asked.model_dump()}
        audit.note(session, who, "batch.run", batch_id, domain_id=batch.domain_id, before=before, after=after)
        running = statistics.clock_running(session)
        message = (
            "a running clock takes it within two seconds"
            if running
            else "no clock is running: start one with `intentloop clock`, and it takes the batch at once"
        )
        return QueuedOut(**_batch(session, batch).model_dump(), clock_running=running, message=message)

    return work(queued)


def _batch(session: Session, batch: TrainingBatch) -> BatchOut:
    domain = session.get(Domain, batch.domain_id)
    fields = {name: getattr(batch, name) for name in BatchOut.model_fields if name != "domain"}
    return BatchOut(domain=domain.name if domain else "", **fields)
