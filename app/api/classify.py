"""Answer questions: `/classify`, `/classify/batch`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.api.access import Access, needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    AccessDep,
    Body,
    DomainName,
    Guess,
    IdempotencyKey,
    RequestId,
    Services,
    ServicesDep,
    Whole,
)
from app.api.problems import Problem, from_database, malformed, problem, responses
from app.errors import IntentError, Malformed, Unavailable
from app.intent.taxonomy import split
from app.services.domains import DEFAULT
from app.serving.classifier import Asked
from app.serving.log import Spooled

router = APIRouter(tags=["serving"], route_class=StrictRoute)

MOST_ITEMS = 256
DEFAULT_TOPK = 3

UserId = Annotated[str, Field(min_length=1, max_length=255, description="kept only as a keyed hash")]
TopK = Annotated[Whole, Field(ge=1, le=20)]


class ClassifyRequest(Body):
    """One question."""

    text: str = Field(min_length=1, max_length=20_000, examples=["手机开不了机怎么办"])
    domain: DomainName = DEFAULT
    request_id: RequestId | None = None
    user_id: UserId | None = None
    topk: TopK = DEFAULT_TOPK
    train_allowed: bool = Field(True, description="false: this question is never trained on")


class BatchItem(Body):
    """One question of many."""

    text: str
    request_id: RequestId | None = None
    user_id: UserId | None = None


class ClassifyBatchRequest(Body):
    """Up to 256 questions: `texts`, or `items` with ids of their own. Each item answers for itself."""

    texts: list[Any] | None = Field(None, max_length=MOST_ITEMS, description="strings")
    items: list[Any] | None = Field(
        None, max_length=MOST_ITEMS, description='objects: {"text", "request_id"?, "user_id"?}'
    )
    domain: DomainName = DEFAULT
    topk: TopK = DEFAULT_TOPK
    train_allowed: bool = True


class AnswerOut(BaseModel):
    """What was answered. Below the threshold the label is still the best guess, and `trigger_check` is true."""

    request_id: str | None
    question_id: str
    domain: str
    label: str | None
    path: list[str]
    intents: list[str]
    confidence: float | None
    topk: list[Guess]
    trigger_check: bool
    confident_path: list[str] | None = Field(
        description="the upper levels of `path` that are sure enough together, where the label itself is not"
    )
    method: str
    route_used: list[str]
    model_version: str | None
    latency_ms: float | None
    logged: Literal["spooled"] | None = Field(
        None,
        # In the database is what every answer is: only what is not says so.
        exclude_if=lambda value: value is None,
        description="there only while the database is away: `spooled`, durable on the service's own disk",
    )


class ItemErrorOut(BaseModel):
    """Why one item has no answer."""

    error: Problem


class ClassifyBatchOut(BaseModel):
    """One result per item, in order."""

    results: list[AnswerOut | ItemErrorOut]


class Answered(Protocol):
    """The log's row of an answered question, or the value that became it."""

    @property
    def request_id(self) -> str | None: ...
    @property
    def question_id(self) -> str: ...
    @property
    def intents(self) -> list[str]: ...
    @property
    def confidence(self) -> float | None: ...
    @property
    def topk(self) -> list[list[Any]]: ...
    @property
    def trigger_check(self) -> bool: ...
    @property
    def verdicts(self) -> list[dict[str, Any]]: ...
    @property
    def method(self) -> str: ...
    @property
    def route_used(self) -> list[str]: ...
    @property
    def model_version(self) -> str | None: ...
    @property
    def latency_ms(self) -> float | None: ...


def answer(logged: Answered | Spooled, domain: str, topk: int) -> AnswerOut:
    """The same answer from the value just logged and from the row of an earlier, equal request."""
    row: Answered = logged.question if isinstance(logged, Spooled) else logged
    label = row.intents[0] if row.intents else None
    return AnswerOut(
        request_id=row.request_id,
        question_id=row.question_id,
        domain=domain,
        label=label,
        path=list(split(label)) if label is not None else [],
        intents=row.intents,
        confidence=row.confidence,
        topk=[(entry[0], entry[1]) for entry in row.topk[:topk]],
        trigger_check=row.trigger_check,
        confident_path=_confident_path(row.verdicts) if row.trigger_check else None,
        method=row.method,
        route_used=row.route_used,
        model_version=row.model_version,
        latency_ms=row.latency_ms,
        logged="spooled" if isinstance(logged, Spooled) else None,
    )


def _confident_path(verdicts: Sequence[Mapping[str, Any]]) -> list[str] | None:
    ancestor = next((verdict["ancestor"] for verdict in verdicts if "ancestor" in verdict), None)
    return None if ancestor is None else list(split(ancestor[0]))


@router.post(
    "/classify",
    response_model=AnswerOut,
    responses=responses(400, 404, 413, 422, 503),
    dependencies=[needs("product")],
)
async def classify(
    body: ClassifyRequest, given: ServicesDep, who: AccessDep, idempotency_key: IdempotencyKey = None
) -> AnswerOut:
    """Name the intent of one question. The answer is in the log before it leaves."""
    await require_visible(given, who, body.domain)
    asked = Asked(
        text=body.text,
        domain=body.domain,
        request_id=body.request_id or idempotency_key,
        user_id=body.user_id,
        topk=body.topk,
        train_allowed=body.train_allowed,
    )
    [logged] = await given.classifier.classify([asked])
    if isinstance(logged, BaseException):
        raise logged
    return answer(logged, body.domain, body.topk)


@router.post(
    "/classify/batch",
    response_model=ClassifyBatchOut,
    responses=responses(400, 404, 413, 422, 503),
    dependencies=[needs("product")],
)
async def classify_batch(
    body: ClassifyBatchRequest, given: ServicesDep, who: AccessDep, idempotency_key: IdempotencyKey = None
) -> ClassifyBatchOut:
    """Name the intents of up to 256 questions."""
    if (body.texts is None) == (body.items is None):
        raise Malformed("send either texts or items")
    given_items: Sequence[Any] = [{"text": text} for text in body.texts] if body.texts is not None else body.items or []
    parsed = [_item(item) for item in given_items]
    asked = [
        Asked(
            text=item.text,
            domain=body.domain,
            request_id=item.request_id or (f"{idempotency_key}#{position}" if idempotency_key else None),
            user_id=item.user_id,
            topk=body.topk,
            train_allowed=body.train_allowed,
        )
        for position, item in enumerate(parsed)
        if isinstance(item, BatchItem)
    ]
    await require_visible(given, who, body.domain)
    await given.classifier.require(body.domain)
    logged = iter(await given.classifier.classify(asked))
    results = [next(logged) if isinstance(item, BatchItem) else item for item in parsed]
    unanswered = [result for result in results if isinstance(result, Unavailable)]
    if unanswered and len(unanswered) == len(results):
        raise unanswered[0]
    return ClassifyBatchOut(results=[_result(result, body) for result in results])


async def require_visible(given: Services, who: Access, domain: str) -> None:
    """Refuse a domain that the caller may not see.

    Raises:
        DomainNotFound.
    """
    # What answers here is the process's memory, which knows every domain: no session bounds it. A domain that the
    # caller may not see takes the way of one that is not there, so that the time says no more than the answer.
    if not who.sees(domain):
        await given.classifier.require("")
    who.require(domain)


_ITEM = TypeAdapter(BatchItem)


def _item(raw: Any) -> BatchItem | IntentError:
    try:
        return _ITEM.validate_python(raw)
    except ValidationError as error:
        return malformed(error)


def _result(result: Any, body: ClassifyBatchRequest) -> AnswerOut | ItemErrorOut:
    if isinstance(result, SQLAlchemyError):
        # Nothing of the list is committed when the log is out of reach: that is the whole request's failure.
        raise from_database(result)
    if isinstance(result, IntentError):
        return ItemErrorOut(error=Problem(**problem(result)))
    if isinstance(result, BaseException):
        raise result
    return answer(result, body.domain, body.topk)
