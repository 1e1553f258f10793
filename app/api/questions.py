"""Log predictions made elsewhere, and show one question."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Discriminator, Field, Tag, TypeAdapter

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import PREFIX, Body, Guess, IdempotencyKey, PathId, Services, ServicesDep, Work
from app.api.predictions import Prediction, identified, prepare, read_many
from app.api.problems import Problem, problem, responses
from app.db.session import UnitOfWork
from app.db.tables import Domain, UserQuestion
from app.errors import IntentError
from app.intent.questions import AskedQuestion
from app.services import intake

router = APIRouter(prefix=PREFIX, tags=["questions"], route_class=StrictRoute)

MOST_ITEMS = 1000
HOLDING_ITEMS = 100


class Predictions(Body):
    """Up to 1,000 of them; each item answers for itself."""

    questions: list[Any] = Field(max_length=MOST_ITEMS, description="objects as for a single question")


class LoggedOut(BaseModel):
    """The row that holds the question now; `duplicate` when an equal request made it before."""

    question_id: str
    request_id: str | None
    status: Literal["created", "duplicate"]


class LoggedErrorOut(BaseModel):
    """Why one item was not logged."""

    error: Problem


class LoggedManyOut(BaseModel):
    """One result per item, in order."""

    results: list[LoggedOut | LoggedErrorOut]


class QuestionOut(BaseModel):
    """One question with its answer and, once there is one, its label."""

    question_id: str
    request_id: str | None
    domain: str
    question: str | None
    intents: list[str]
    confidence: float | None
    method: str
    topk: list[Guess]
    verdicts: list[dict[str, Any]]
    route_used: list[str]
    trigger_check: bool
    model_version: str | None
    latency_ms: float | None
    source: str
    train_allowed: bool
    is_labeled: bool
    correct_intent: list[str] | None
    correct_time_intent: dict[str, Any] | None
    training_status: str
    labeler_id: str | None
    labeled_at: datetime | None
    priority: float | None
    priority_reason: str | None
    asked_at: datetime


_ANSWER = TypeAdapter(LoggedManyOut)


def _one_or_many(body: Any) -> str:
    many = "questions" in body if isinstance(body, dict) else isinstance(body, Predictions)
    return "many" if many else "one"


# Told apart before anything is checked: otherwise a mistake in one form is reported as one in both.
OneOrMany = Annotated[
    Annotated[Prediction, Tag("one")] | Annotated[Predictions, Tag("many")], Discriminator(_one_or_many)
]


@router.post(
    "/questions",
    response_model=LoggedOut | LoggedManyOut,
    responses=responses(400, 404, 413, 422, 503)
    | {
        200: {"description": "Many, each with its own result; or one that was logged before"},
        201: {"model": LoggedOut, "description": "Logged"},
    },
    dependencies=[needs("product")],
)
def log_questions(
    body: OneOrMany, given: ServicesDep, work: Work, response: Response, idempotency_key: IdempotencyKey = None
) -> Any:
    """Log one prediction (201), or up to 1,000 in one transaction (200, each with its own result)."""
    if isinstance(body, Prediction):
        [logged] = _log(given, work, [identified(body, idempotency_key)])
        if isinstance(logged, IntentError):
            raise logged
        response.status_code = 201 if logged.status == "created" else 200
        return logged
    keys = [f"{idempotency_key}#{position}" if idempotency_key else None for position in range(len(body.questions))]
    # Folding a thousand costs more than writing them, and nobody waits for it.
    with given.folder.held() if len(keys) >= HOLDING_ITEMS else nullcontext():
        answers = _log(given, work, read_many(body.questions, keys))
    results = [
        LoggedErrorOut(error=Problem(**problem(answer))) if isinstance(answer, IntentError) else answer
        for answer in answers
    ]
    # Written here: the framework would check our own thousand answers once more.
    return Response(_ANSWER.dump_json(LoggedManyOut(results=results)), media_type="application/json")


@router.get(
    "/questions/{question_id}",
    response_model=QuestionOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("product", "labeler")],
)
def show_question(question_id: PathId, work: Work) -> QuestionOut:
    """One question with all that is known of it."""
    return work.read(_show, question_id)


def _show(session: Any, question_id: str) -> QuestionOut:
    question = intake.find(session, question_id)
    domain = session.get(Domain, question.domain_id)
    fields = {name: getattr(question, name) for name in QuestionOut.model_fields if name != "domain"}
    return QuestionOut(domain=domain.name, **fields)


def _log(
    given: Services, work: UnitOfWork, predictions: Sequence[Prediction | IntentError]
) -> list[LoggedOut | IntentError]:
    prepared = prepare(work, given.secret, predictions)
    logged = iter(given.take_in(work, [row for row in prepared if isinstance(row, AskedQuestion)]))
    given.folder.nudge()
    return [row if isinstance(row, IntentError) else _logged(row, next(logged)) for row in prepared]


def _logged(asked: AskedQuestion, logged: intake.Logged) -> LoggedOut | IntentError:
    if isinstance(logged, IntentError):
        return logged
    duplicate = isinstance(logged, UserQuestion) or logged.question_id != asked.question_id
    return LoggedOut(
        question_id=logged.question_id,
        request_id=logged.request_id,
        status="duplicate" if duplicate else "created",
    )
