"""Log predictions made elsewhere, and show one question."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    Body,
    DomainName,
    Guess,
    IdempotencyKey,
    LabelPath,
    PathId,
    RequestId,
    Services,
    ServicesDep,
    Work,
)
from app.api.problems import Problem, malformed, problem, responses
from app.db.session import UnitOfWork
from app.db.tables import Domain, UserQuestion
from app.errors import DomainNotFound, IntentError, TaxonomyEmpty, TextRefused, TooManyLabels
from app.intent.questions import AskedQuestion, new_question_id
from app.intent.text import text_hash
from app.services import domains, intake, taxonomy
from app.services.domains import DEFAULT
from app.serving.classifier import cleaned

router = APIRouter(prefix=PREFIX, tags=["questions"], route_class=StrictRoute)

MOST_ITEMS = 1000
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

Method = Literal["local_model", "keyword_fallback", "generative", "llm_fallback", "none"]


def _written_out(value: Any) -> Any:
    # Pydantic would also read a number, or digits in a string, as seconds or milliseconds since 1970.
    if not isinstance(value, str) or value[4:5] != "-":
        raise ValueError("a time with its zone, as in 2026-01-31T08:00:00Z")
    return value


Moment = Annotated[AwareDatetime, Strict(False), BeforeValidator(_written_out)]
GivenGuess = Annotated[tuple[LabelPath, Annotated[float, Field(ge=0, le=1)]], Strict(False)]


class Prediction(Body):
    """One question that another system answered."""

    question: str = Field(min_length=1, max_length=20_000)
    intents: list[LabelPath] = Field(default_factory=list, max_length=100)
    confidence: float | None = Field(None, ge=0, le=1)
    method: Method = "none"
    request_id: RequestId | None = None
    domain: DomainName = DEFAULT
    user_id: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    model_version: Annotated[str, Field(max_length=128)] | None = None
    asked_at: Moment | None = Field(None, description="between 2000 and tomorrow")
    train_allowed: bool = True
    topk: list[GivenGuess] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _of_this_time(self) -> "Prediction":
        if self.asked_at is not None and not EARLIEST <= self.asked_at <= datetime.now(UTC) + timedelta(days=1):
            raise ValueError("asked_at must lie between 2000 and tomorrow")
        return self


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


_PREDICTION = TypeAdapter(Prediction)


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
        [logged] = _log(given, work, [_identified(body, idempotency_key)])
        if isinstance(logged, IntentError):
            raise logged
        response.status_code = 201 if logged.status == "created" else 200
        return logged
    keys = [f"{idempotency_key}#{position}" if idempotency_key else None for position in range(len(body.questions))]
    items = [_parse(raw, key) for raw, key in zip(body.questions, keys, strict=True)]
    results = iter(_log(given, work, [item for item in items if isinstance(item, Prediction)]))
    answers = [next(results) if isinstance(item, Prediction) else item for item in items]
    return LoggedManyOut(
        results=[
            LoggedErrorOut(error=Problem(**problem(answer))) if isinstance(answer, IntentError) else answer
            for answer in answers
        ]
    )


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


def _parse(raw: Any, key: str | None) -> Prediction | IntentError:
    try:
        return _identified(_PREDICTION.validate_python(raw), key)
    except ValidationError as error:
        return malformed(error)
    except DomainNotFound as error:
        return error


def _identified(prediction: Prediction, key: str | None) -> Prediction:
    return prediction if prediction.request_id or not key else prediction.model_copy(update={"request_id": key})


def _log(given: Services, work: UnitOfWork, predictions: list[Prediction]) -> list[LoggedOut | IntentError]:
    known = {domain.name: domain for domain in work.read(domains.listing)}
    prepared = [_asked(given, work, prediction, known.get(prediction.domain)) for prediction in predictions]
    rows = [row for row in prepared if isinstance(row, AskedQuestion)]
    logged = iter(work(intake.record, rows))
    given.folder.nudge()
    return [row if isinstance(row, IntentError) else _logged(row, next(logged)) for row in prepared]


def _asked(
    given: Services, work: UnitOfWork, prediction: Prediction, domain: Domain | None
) -> AskedQuestion | IntentError:
    if domain is None:
        return DomainNotFound("there is no domain of this name")
    if len(prediction.intents) > 1 and domain.task == "single_label":
        return _too_many(work, domain, prediction.intents)
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


def _too_many(work: UnitOfWork, domain: Domain, intents: list[str]) -> IntentError:
    """Why several intents are refused: often they are the levels of one label, and then it is named."""
    try:
        work.read(taxonomy.resolve, domain, intents)
    except TaxonomyEmpty:
        pass
    except IntentError as error:
        return error
    return TooManyLabels(f"domain {domain.name!r} takes one intent, written as its full path")


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
