"""Figures of a domain, and whether the process lives and can answer."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.api.access import ADMIN, needs
from app.api.dependencies import PREFIX, DomainQuery, Identity, ServicesDep, Work
from app.api.problems import respond, responses
from app.api.worth import Target, WorthOut
from app.errors import Unavailable
from app.services import domains, statistics
from app.services.domains import DEFAULT
from app.services.statistics import DAYS

Days = Annotated[int, Query(ge=1, le=366, description="how many days `by_day`, `by_week` and `latency` look back")]

router = APIRouter(tags=["operations"])


class HealthOut(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class DomainReadyOut(BaseModel):
    """What this process answers one domain with."""

    domain: str
    version: str | None
    epoch: int
    error: str | None


class ReadyOut(BaseModel):
    """Whether `/classify` can answer, and what is not as it should be."""

    status: Literal["ready", "degraded"]
    database: bool
    degraded_since: datetime | None
    spooled_rows: int
    spooled_bytes: int
    generative: Literal["off", "starting", "ready", "broken"]
    generative_reason: str | None
    domains: list[DomainReadyOut]


class VersionQualityOut(BaseModel):
    """A version as one line."""

    version: str
    recipe: str
    status: str
    is_active: bool
    train_count: int
    gold_count: int | None
    macro_f1: Any
    accuracy: Any
    evidence: str | None
    reason: str | None
    created_at: datetime
    activated_at: datetime | None


class NextBatchOut(BaseModel):
    """What the next batch waits for, in numbers and in words."""

    labels_new: int
    labels_missing: int
    due: bool
    reason: str


class AnswersOut(BaseModel):
    """What became of the questions that were answered here; a share is null of nothing."""

    served: int
    external: int
    above_threshold: int
    above_threshold_share: float | None
    to_person: int
    to_person_share: float | None
    llm_calls: int
    llm_call_rate: float | None
    outside_taxonomy: int


class AccuracyOut(BaseModel):
    """A share of right answers with its 95 % interval (Wilson)."""

    judged: int
    right: int
    accuracy: float | None
    low: float
    high: float


class LiveAccuracyOut(BaseModel):
    """How often people said what the model had said, on texts that were drawn uniformly."""

    overall: AccuracyOut
    active_version: AccuracyOut | None


class SelectionOut(BaseModel):
    """What the last selection put on top of the queue, and what people labelled so far, by strategy."""

    selected_at: datetime | None
    version: str | None
    selected: dict[str, int]
    labelled: dict[str, int]


class RulesOut(BaseModel):
    """Keyword rules: how many, how often they matched, how often a person's label was theirs."""

    by_status: dict[str, int]
    usage: int
    judged: int
    success: int
    success_rate: float | None


class TrainingOut(BaseModel):
    """What became of the batches that ended."""

    finished: int
    success_rate: float | None
    by_outcome: dict[str, int]
    median_seconds: float | None


class LatencyOut(BaseModel):
    """How long answers took in the last `days` days."""

    days: int
    answers: int
    p50_ms: float | None
    p99_ms: float | None


class PeriodOut(BaseModel):
    """One day, or one week that begins on a Monday."""

    start: date
    questions: int
    above_threshold: int
    to_person: int
    llm_calls: int
    labels: int
    judged: int
    right: int
    answers: int
    p50_ms: float | None
    p99_ms: float | None


class StatsOut(BaseModel):
    """The figures of one domain. `labelled` counts questions, `texts_labelled` distinct texts."""

    domain: str
    questions: int
    labelled: int
    label_rate: float
    by_method: dict[str, int]
    by_label: dict[str, int]
    by_answer: dict[str, int]
    answers: AnswersOut
    live_accuracy: LiveAccuracyOut
    selection: SelectionOut
    latency: LatencyOut
    texts: int
    texts_labelled: int
    texts_skipped: int
    texts_discarded: int
    texts_disputed: int
    texts_flagged: int
    suspects: int
    gold_labelled: int
    gold_candidates: int
    queue: int
    active_version: str | None
    epoch: int
    versions: list[VersionQualityOut]
    worth: WorthOut
    batches: dict[str, int]
    training: TrainingOut
    rules: RulesOut
    next_batch: NextBatchOut
    clock_running: bool
    by_day: list[PeriodOut]
    by_week: list[PeriodOut]


@router.get("/healthz", response_model=HealthOut)
async def health() -> HealthOut:
    """The process lives."""
    return HealthOut()


@router.get("/readyz", response_model=ReadyOut, responses=responses(503, door=False))
async def ready(given: ServicesDep, who: Identity) -> ReadyOut | JSONResponse:
    """200 whenever `/classify` can answer, without a model or a database too; it says what is degraded, since when.

    Which domains there are, it tells whoever may read all that is in them: with keys, only to an admin's.
    """
    # From memory alone: a database that hangs must not take this route with it.
    log, away = given.log, given.guard.away_since
    if given.draining:
        return respond(Unavailable("the service is shutting down"))
    if not log.can_answer or (away is not None and not log.spools):
        return respond(Unavailable("the database does not answer, and no further answer can be kept for it"))
    errors = given.watcher.errors
    found = [
        DomainReadyOut(
            domain=name,
            version=loaded.release.version,
            epoch=loaded.release.state.epoch,
            error=errors.get(name),
        )
        for name, loaded in sorted(given.runtime.loaded.items())
        if who is not None and who.role == ADMIN and who.sees(name)
    ]
    rows, size = log.spooled
    tier, reason = given.generative.standing() if given.generative is not None else ("off", None)
    since = min((moment for moment in (away, log.degraded_since) if moment is not None), default=None)
    return ReadyOut(
        status="degraded" if errors or since or tier == "broken" else "ready",
        database=since is None,
        degraded_since=since,
        spooled_rows=rows,
        spooled_bytes=size,
        generative=tier,
        # It may name versions, and with them domains.
        generative_reason=reason if who is not None and who.role == ADMIN and who.domains is None else None,
        domains=found,
    )


@router.get(
    f"{PREFIX}/stats",
    response_model=StatsOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("labeler")],
)
def stats(
    work: Work, given: ServicesDep, domain: DomainQuery = DEFAULT, days: Days = DAYS, target: Target = None
) -> dict[str, Any]:
    """What was asked, answered, labelled and trained, and what the next batch waits for."""

    def read(session: Session) -> dict[str, Any]:
        return statistics.of_domain(session, domains.find(session, domain), given.rule, days=days, target=target)

    return work.read(read)
