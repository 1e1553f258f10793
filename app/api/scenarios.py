"""Scenarios: groups of questions that no label fits, to be made a label or dismissed."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import (
    PREFIX,
    Body,
    Caller,
    Cursor,
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
from app.db.tables import Domain, Label, Scenario, Text
from app.intent.taxonomy import LONGEST_GUIDELINE
from app.services import counters, domains, scenarios, trainable
from app.services.domains import DEFAULT

router = APIRouter(prefix=f"{PREFIX}/scenarios", tags=["scenarios"], route_class=StrictRoute)

SCENARIO = "scenario"

Status = Literal["proposed", "accepted", "dismissed"]
Guideline = Annotated[str, StringConstraints(max_length=LONGEST_GUIDELINE)]


class AcceptRequest(Body):
    """The label that the scenario becomes: a new one, or one that is there already."""

    label: LabelPath = Field(examples=["售后 > 退运费"])
    guideline: Guideline | None = Field(None, description="what labelers are told about it; kept for a new label only")


class TypicalOut(BaseModel):
    """A text of a scenario, and the question that stands for it; none asks what was only imported."""

    question_id: str | None
    question: str
    count: int


class ScenarioOut(BaseModel):
    """A group of questions, and what became of it; `examples`: texts that carry its label and may be trained on."""

    id: int
    domain: str
    status: Status
    text_count: int
    question_count: int
    keywords: list[str]
    typical: list[TypicalOut]
    label: str | None
    trains_from: int | None
    examples: int | None
    decided_by: str | None
    decided_at: datetime | None
    created_at: datetime


class ScenariosOut(BaseModel):
    """The newest first."""

    items: list[ScenarioOut]
    next_cursor: str | None


class MemberOut(TypicalOut):
    """A member: the model's answer, and whether it waits or has a label by now."""

    state: str
    intents: list[str]
    confidence: float | None


class ScenarioMembersOut(ScenarioOut):
    """A scenario with one page of its members, the newest first."""

    items: list[MemberOut]
    next_cursor: str | None


class AcceptedOut(ScenarioOut):
    """What an acceptance did: whether the label is a new one, and how many texts are asked first now."""

    created: bool
    queued: int


@router.get("", response_model=ScenariosOut, responses=responses(404, 422, 503), dependencies=[needs("admin")])
def list_scenarios(
    work: Work,
    domain: DomainQuery = DEFAULT,
    status: Annotated[Status | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ScenariosOut:
    """What was found in a domain, the newest first; all of it without a status."""
    before = page_before(cursor)

    def read(session: Session) -> ScenariosOut:
        found = domains.find(session, domain)
        rows = scenarios.listing(session, found.id, limit=limit, before=before, status=status)
        items = [ScenarioOut(**fields) for fields in _fields(session, rows)]
        return ScenariosOut(items=items, next_cursor=next_cursor(rows, limit))

    return work.read(read)


@router.get(
    "/{scenario_id}", response_model=ScenarioMembersOut, responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)  # fmt: skip
def show_scenario(scenario_id: PathId, work: Work, limit: Limit = 50, cursor: Cursor = None) -> ScenarioMembersOut:
    """One scenario, and its members page by page."""
    number, before = row_id(scenario_id, SCENARIO), page_before(cursor)

    def read(session: Session) -> ScenarioMembersOut:
        scenario = scenarios.find(session, number)
        members = scenarios.members_of(session, scenario, limit=limit, before=before)
        [fields] = _fields(session, [scenario])
        items = [
            MemberOut(**_text(text), state=text.state, intents=text.intents, confidence=text.confidence)
            for text in members
        ]
        return ScenarioMembersOut(**fields, items=items, next_cursor=next_cursor(members, limit))

    return work.read(read)


@router.post(
    "/{scenario_id}/accept",
    response_model=AcceptedOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def accept_scenario(
    scenario_id: PathId, body: AcceptRequest, work: Work, given: ServicesDep, caller: Caller
) -> AcceptedOut:
    """Make a scenario a label; its questions are asked first, and a person labels each."""
    number = row_id(scenario_id, SCENARIO)

    def accept(session: Session) -> AcceptedOut:
        done = scenarios.accept(
            session, number, body.label, by=caller, guideline=body.guideline, trains_from=given.proposal_size
        )
        [fields] = _fields(session, [done.scenario])
        return AcceptedOut(**fields, created=done.created, queued=done.queued)

    return work(accept)


@router.post(
    "/{scenario_id}/dismiss",
    response_model=ScenarioOut,
    responses=responses(404, 409, 422, 503),
    dependencies=[needs("admin")],
)
def dismiss_scenario(scenario_id: PathId, work: Work, caller: Caller) -> ScenarioOut:
    """Say that a scenario is no label: it is not proposed again, whatever it grows to."""
    number = row_id(scenario_id, SCENARIO)

    def dismiss(session: Session) -> ScenarioOut:
        [fields] = _fields(session, [scenarios.dismiss(session, number, by=caller)])
        return ScenarioOut(**fields)

    return work(dismiss)


OWN = ("id", "status", "text_count", "question_count", "keywords", "decided_by", "decided_at", "created_at")


def _fields(session: Session, rows: Sequence[Scenario]) -> list[dict[str, Any]]:
    typical = scenarios.typical(session, rows)
    examples = {row.domain_id: _examples(session, row.domain_id) for row in rows if row.label_id is not None}
    found = []
    for row in rows:
        domain = session.get(Domain, row.domain_id)
        label = session.get(Label, row.label_id) if row.label_id is not None else None
        fields = {name: getattr(row, name) for name in OWN}
        found.append(
            fields
            | {
                "domain": domain.name if domain else "",
                "typical": [_text(text) for text in typical[row.id]],
                "label": label.path if label else None,
                "trains_from": label.trains_from if label else None,
                "examples": examples[row.domain_id][label.id] if label else None,
            }
        )
    return found


def _examples(session: Session, domain_id: int) -> Counter[int]:
    counted: Counter[int] = Counter()
    for (_, label_id), count in trainable.counts_of(counters.totals(session, domain_id)).items():
        counted[label_id] += count
    return counted


def _text(text: Text) -> dict[str, Any]:
    return {"question_id": text.question_id, "question": text.text or "", "count": text.count}
