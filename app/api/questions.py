"""Log predictions made elsewhere, and show one question."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError, model_validator

from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    DomainName,
    LabelPath,
    RequestId,
    Services,
    ServicesDep,
    Work,
)
from app.api.problems import Problem, malformed, problem, responses
from app.db.tables import Domain, UserQuestion
from app.errors import DomainNotFound, IntentError, Malformed, TextRefused
from app.intent.questions import AskedQuestion, new_question_id
from app.intent.text import text_hash
from app.services import domains, intake
from app.services.domains import DEFAULT
from app.serving.classifier import cleaned

router = APIRouter(prefix=PREFIX, tags=["questions"], route_class=StrictRoute)

MOST_ITEMS = 1000
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

Method = Literal["local_model", "keyword_fallback", "generative", "llm_fallback", "none"]


class Prediction(BaseModel):
    """One question that another system answered."""

    question: str = Field(min_length=1, max_length=20_000)
    intents: list[LabelPath] = Field(default_factory=list, max_length=100)
    confidence: float | None = Field(None, ge=0, le=1)
    method: Method = "none"
    request_id: RequestId | None = None
    domain: DomainName = DEFAULT
    user_id: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    model_version: Annotated[str, Field(max_length=128)] | None = None
    asked_at: AwareDatetime | None = Field(None, description="between 2000 and tomorrow")
    train_allowed: bool = True
    topk: list[tuple[LabelPath, Annotated[float, Field(ge=0, le=1)]]] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _of_this_time(self) -> "Prediction":
        if self.asked_at is not None and not EARLIEST <= self.asked_at <= datetime.now(UTC) + timedelta(days=1):
            raise ValueError("asked_at must lie between 2000 and tomorrow")
        return self


class Predictions(BaseModel):
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
    topk: list[tuple[str, float]]
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


_PREDICTION = TypeAdapter(Prediction)


@router.post(
    "/questions",
    response_model=LoggedOut | LoggedManyOut,
    responses={200: {"description": "Logged, or logged before"}, 201: {"model": LoggedOut}}
    | responses(400, 404, 413, 422, 503),
)
def log_questions(body: Predictions | Prediction, given: ServicesDep, response: Response) -> Any:
    """Log one prediction (201), or up to 1,000 in one transaction (200, each with its own result)."""
    if isinstance(body, Prediction):
        [logged] = _log(given, [body])
        if isinstance(logged, IntentError):
            raise logged
        response.status_code = 201 if logged.status == "created" else 200
        return logged
    items = [_parse(raw) for raw in body.questions]
    results = iter(_log(given, [item for item in items if isinstance(item, Prediction)]))
    answers = [next(results) if isinstance(item, Prediction) else item for item in items]
    return LoggedManyOut(
        results=[
            LoggedErrorOut(error=Problem(**problem(answer))) if isinstance(answer, IntentError) else answer
            for answer in answers
        ]
    )


@router.get("/questions/{question_id}", response_model=QuestionOut, responses=responses(404, 422, 503))
def show_question(question_id: str, work: Work) -> QuestionOut:
    """One question with all that is known of it."""
    return work.read(_show, question_id)


def _show(session: Any, question_id: str) -> QuestionOut:
    question = intake.find(session, question_id)
    domain = session.get(Domain, question.domain_id)
    fields = {name: getattr(question, name) for name in QuestionOut.model_fields if name != "domain"}
    return QuestionOut(domain=domain.name, **fields)


def _parse(raw: Any) -> Prediction | IntentError:
    try:
        return _PREDICTION.validate_python(raw)
    except ValidationError as error:
        return malformed(error)


def _log(given: Services, predictions: list[Prediction]) -> list[LoggedOut | IntentError]:
    known = {domain.name: domain for domain in given.work.read(domains.listing)}
    prepared = [_asked(given, prediction, known.get(prediction.domain)) for prediction in predictions]
    rows = [row for row in prepared if isinstance(row, AskedQuestion)]
    logged = iter(given.work(intake.record, rows))
    given.folder.nudge()
    return [row if isinstance(row, IntentError) else _logged(row, next(logged)) for row in prepared]


def _asked(given: Services, prediction: Prediction, domain: Domain | None) -> AskedQuestion | IntentError:
    if domain is None:
        return DomainNotFound("there is no domain of this name")
    if len(prediction.intents) > 1 and domain.task == "single_label":
        return Malformed(f"domain {domain.name!r} takes one intent, written as its full path")
    try:
        text = cleaned(prediction.question)
    except TextRefused as error:
        return error
    return AskedQuestion(
        domain_id=domain.id,
        question_id=new_question_id(),
        request_id=prediction.request_id,
        body_hash=given.secret.of_body(prediction.model_dump(exclude={"request_id", "domain"})),
        user_hash=given.secret.of_user(prediction.user_id),
        text=text if domain.keep_text else None,
        text_hash=text_hash(text) if domain.keep_text else text_hash(text, secret=given.secret.key),
        source="external",
        train_allowed=prediction.train_allowed,
        asked_at=prediction.asked_at or datetime.now(UTC),
        intents=prediction.intents,
        confidence=prediction.confidence,
        method=prediction.method,
        topk=[list(entry) for entry in prediction.topk] or _best_alone(prediction),
        trigger_check=not prediction.intents,
        model_version=prediction.model_version,
    )


def _best_alone(prediction: Prediction) -> list[list[Any]]:
    if not prediction.intents or prediction.confidence is None:
        return []
    return [[prediction.intents[0], prediction.confidence]]


def _logged(asked: AskedQuestion, logged: intake.Logged) -> LoggedOut | IntentError:
    if isinstance(logged, IntentError):
        return logged
    duplicate = isinstance(logged, UserQuestion) or logged.question_id != asked.question_id
    return LoggedOut(
        question_id=logged.question_id,
        request_id=logged.request_id,
        status="duplicate" if duplicate else "created",
    )
