"""A prediction made elsewhere: what it may say, how many are read at once, and the row that each becomes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, Strict, TypeAdapter, ValidationError, model_validator

from app.api.dependencies import Body, DomainName, LabelPath, RequestId
from app.api.problems import malformed
from app.db.session import UnitOfWork
from app.db.tables import Domain
from app.errors import DomainNotFound, IntentError, TaxonomyEmpty, TextRefused, TooManyLabels
from app.intent.questions import AskedQuestion, new_question_id
from app.intent.text import text_hash
from app.services import domains, taxonomy
from app.services.domains import DEFAULT
from app.serving.classifier import Secret, cleaned

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


_ONE = TypeAdapter(Prediction)
_MANY = TypeAdapter(list[Prediction])
# Everything else is part of what makes two requests of one id the same.
_NOT_COMPARED = {"request_id", "domain"}


def read_many(raws: Sequence[Any], keys: Sequence[str | None]) -> list[Prediction | IntentError]:
    """Each of these objects as a prediction, or why it is none; an error among them is passed on as it is.

    `keys` stand in for request ids that are missing.
    """
    try:
        # Nearly always all are in order, and one call for all of them costs a fraction of a call for each.
        found: list[Prediction | IntentError] = [*_MANY.validate_python(raws)]
    except (ValidationError, DomainNotFound):
        found = [raw if isinstance(raw, IntentError) else _read(raw) for raw in raws]
    return [
        identified(one, key) if key is not None and isinstance(one, Prediction) else one
        for one, key in zip(found, keys, strict=True)
    ]


def _read(raw: Any) -> Prediction | IntentError:
    try:
        return _ONE.validate_python(raw)
    except ValidationError as error:
        return malformed(error)
    except DomainNotFound as error:
        return error


def identified(prediction: Prediction, key: str | None) -> Prediction:
    """The prediction, with this id if it has none of its own."""
    return prediction if prediction.request_id or not key else prediction.model_copy(update={"request_id": key})


def prepare(
    work: UnitOfWork, secret: Secret, predictions: Sequence[Prediction | IntentError]
) -> list[AskedQuestion | IntentError]:
    """The row of each prediction, masked and hashed, or why it cannot have one. Errors are passed on as they are."""
    known = {domain.name: domain for domain in work.read(domains.listing)}
    moment = datetime.now(UTC)
    return [_row(work, secret, known, one, moment) if isinstance(one, Prediction) else one for one in predictions]


def _row(
    work: UnitOfWork,
    secret: Secret,
    known: Mapping[str, Domain],
    prediction: Prediction,
    moment: datetime,
) -> AskedQuestion | IntentError:
    domain = known.get(prediction.domain)
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
        body_hash=secret.of_written_body(_ONE.dump_json(prediction, exclude=_NOT_COMPARED)),
        user_hash=secret.of_user(prediction.user_id),
        text=text if domain.keep_text else None,
        text_hash=text_hash(text) if domain.keep_text else text_hash(text, secret=secret.key),
        source="external",
        train_allowed=prediction.train_allowed,
        asked_at=prediction.asked_at or moment,
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
