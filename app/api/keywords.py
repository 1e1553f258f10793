"""Keyword rules: mine them, write them, change them, retire them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    Body,
    Caller,
    Cursor,
    DomainName,
    DomainQuery,
    LabelPath,
    Limit,
    PathId,
    ServicesDep,
    Work,
    next_cursor,
    page_before,
    row_id,
)
from app.api.problems import responses
from app.db.tables import Domain, KeywordRule
from app.intent.rules import LONGEST_PATTERN, MOST_WORDS, rule_word
from app.intent.text import normalise
from app.services import domains, rule_wording, rules
from app.services.domains import DEFAULT

router = APIRouter(prefix=f"{PREFIX}/keywords", tags=["keyword rules"], route_class=StrictRoute)

MOST_MINED = 10_000
RULE = "keyword rule"

Word = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Words = Annotated[list[Word], Field(max_length=MOST_WORDS)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PATTERN)]
MinConfidence = Annotated[float, Query(ge=0.5, le=1.0, description="least precision out of fold")]
MostRules = Annotated[int, Query(ge=1, le=MOST_MINED, description="most rules that are kept, the most typical")]


Filter = Annotated[str | None, Query(max_length=1000)]


class KeywordRequest(Body):
    """A rule to write. `keyword` alone is the word that is looked for; beside `all_of` or `pattern` it is a name."""

    domain: DomainName = DEFAULT
    keyword: Word | None = Field(None, examples=["退款"])
    intent: LabelPath = Field(examples=["售后 > 退款"])
    all_of: Words = Field([], description="words that must all be there")
    none_of: Words = Field([], description="words that must not be there")
    pattern: Pattern | None = Field(None, description="RE2 syntax, found anywhere, without regard to case")
    status: Literal["candidate", "active"] = "active"


class KeywordChange(Body):
    """What is to be another; what is not sent stays. With other words or another label, counts begin anew."""

    status: Literal["candidate", "active", "retired"] | None = None
    keyword: Word | None = None
    intent: LabelPath | None = None
    all_of: Words | None = None
    none_of: Words | None = None
    pattern: Pattern | None = Field(None, description="null: without a pattern from now on")


class ConflictOut(BaseModel):
    """A rule that gives the same keyword another label."""

    id: int
    intent: str
    status: str
    source: str


class KeywordOut(BaseModel):
    """A keyword rule, what is known for it, and what it has brought."""

    id: int
    domain: str
    keyword: str
    intent: str
    all_of: list[str]
    none_of: list[str]
    pattern: str | None
    status: str
    reason: str | None
    source: str
    confidence_boost: float
    usage_count: int
    judged_count: int
    success_count: int
    success_rate: float | None
    support: int
    precision: float | None
    precision_lower: float | None
    coverage: float | None
    log_odds: float | None
    examples: list[str]
    conflicts: list[ConflictOut]
    created_by: str
    created_at: datetime
    updated_at: datetime | None
    activated_at: datetime | None
    retired_at: datetime | None


class KeywordsOut(BaseModel):
    """The newest first."""

    items: list[KeywordOut]
    next_cursor: str | None


class ExtractionOut(BaseModel):
    """What mining found and what became of it; the rules by id."""

    domain: str
    mined: int
    new: int
    updated: int
    kept: int
    activated: int
    retired: int
    conflicts: int
    items: list[KeywordOut]
    next_cursor: None = None


@router.post(
    "/extract",
    response_model=ExtractionOut,
    responses=responses(404, 409, 422, 503),
    dependencies=[needs("admin")],
)
def extract_keywords(
    services: ServicesDep,
    work: Work,
    caller: Caller,
    domain: DomainQuery = DEFAULT,
    min_confidence: MinConfidence = 0.8,
    limit: MostRules = 1000,
) -> ExtractionOut:
    """Mine rules from the labelled texts of a domain, gold left out. Takes seconds, in a process of its own."""
    owner = work.read(domains.find, domain)
    found = services.extract(domain, min_confidence=min_confidence, limit=limit, by=caller)
    ids = found.pop("rule_ids")

    def read(session: Session) -> list[KeywordOut]:
        return _many(session, rules.of_ids(session, owner.id, ids))

    return ExtractionOut(domain=domain, items=work.read(read), **found)


@router.get("", response_model=KeywordsOut, responses=responses(404, 422, 503), dependencies=[needs("labeler")])
def list_keywords(
    work: Work,
    domain: DomainQuery = DEFAULT,
    status: Annotated[Literal["candidate", "active", "retired"] | None, Query()] = None,
    intent: Filter = None,
    source: Annotated[Literal["mined", "manual"] | None, Query()] = None,
    keyword: Filter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> KeywordsOut:
    """The rules of a domain, by status, label, source or keyword."""
    before = page_before(cursor)

    def read(session: Session) -> KeywordsOut:
        rows = rules.listing(
            session,
            domains.find(session, domain).id,
            limit=limit,
            before=before,
            status=status,
            intent=None if intent is None else normalise(intent),
            source=source,
            keyword=None if keyword is None else rule_word(normalise(keyword)),
        )
        return KeywordsOut(items=_many(session, rows), next_cursor=next_cursor(rows, limit))

    return work.read(read)


@router.post(
    "",
    response_model=KeywordOut,
    status_code=201,
    responses=responses(400, 404, 409, 413, 422, 503)
    | {200: {"model": KeywordOut, "description": "It was there already"}},
    dependencies=[needs("admin")],
)
def create_keyword(body: KeywordRequest, work: Work, caller: Caller, response: Response) -> KeywordOut:
    """Write a rule; one that is there already with the same words is answered 200, and takes the status."""
    wording = rule_wording.read(body.keyword, body.all_of, body.none_of, body.pattern)

    def create(session: Session) -> tuple[KeywordOut, bool]:
        saved = rules.create(session, body.domain, wording, intent=body.intent, by=caller, status=body.status)
        return _one(session, saved), saved.created

    answer, created = work(create)
    response.status_code = 201 if created else 200
    return answer


@router.patch(
    "/{rule_id}",
    response_model=KeywordOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def change_keyword(rule_id: PathId, body: KeywordChange, work: Work, caller: Caller) -> KeywordOut:
    """Give a rule another status, other words or another label."""
    number, changes = row_id(rule_id, RULE), body.model_dump(exclude_unset=True)

    def change(session: Session) -> KeywordOut:
        return _one(session, rules.change(session, number, changes, by=caller))

    return work(change)


@router.delete(
    "/{rule_id}", response_model=KeywordOut, responses=responses(404, 422, 503), dependencies=[needs("admin")]
)
def retire_keyword(rule_id: PathId, work: Work, caller: Caller) -> KeywordOut:
    """Retire a rule: it serves no more, and its row stays with what it brought."""
    number = row_id(rule_id, RULE)

    def retire(session: Session) -> KeywordOut:
        return _many(session, [rules.retire(session, number, by=caller)])[0]

    return work(retire)


def _one(session: Session, saved: rules.Saved) -> KeywordOut:
    return _out(session, saved.rule, saved.conflicts)


def _many(session: Session, rows: Any) -> list[KeywordOut]:
    conflicts = rules.conflicts_of(session, rows)
    return [_out(session, row, conflicts[row.id]) for row in rows]


def _out(session: Session, rule: KeywordRule, conflicts: Any) -> KeywordOut:
    domain = session.get(Domain, rule.domain_id)
    derived = {"domain", "all_of", "none_of", "examples", "conflicts", "success_rate"}
    fields = {name: getattr(rule, name) for name in KeywordOut.model_fields if name not in derived}
    return KeywordOut(
        domain=domain.name if domain else "",
        all_of=rule.all_of or [],
        none_of=rule.none_of or [],
        examples=rule.examples or [],
        conflicts=[
            ConflictOut(id=one.id, intent=one.intent, status=one.status, source=one.source) for one in conflicts
        ],
        success_rate=round(rule.success_count / rule.judged_count, 6) if rule.judged_count else None,
        **fields,
    )
