"""Domains and their taxonomies."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Body as BodyParameter
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy.orm import Session

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.dependencies import PREFIX, Body, Caller, DomainPath, DomainQuery, LabelPath, Whole, Work
from app.api.problems import responses
from app.db.tables import Domain, Label
from app.errors import TaxonomyRefused
from app.intent.overlap import MOST_ANSWERS
from app.intent.recipes import Recipe
from app.intent.taxonomy import TaxonomyInvalid, parse_taxonomy, split
from app.services import audit, domains, taxonomy, versions
from app.services.domains import DEFAULT

router = APIRouter(prefix=PREFIX, tags=["domains"], route_class=StrictRoute)

Overlap = Annotated[Whole, Field(ge=1, le=MOST_ANSWERS, description="people who answer a text blind; 1: one each")]
OverlapShare = Annotated[float, Field(ge=0, le=1, description="of which share of the texts, picked by their hash")]
BaseName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
SelectionMix = Annotated[
    dict[Annotated[str, StringConstraints(max_length=32)], Annotated[float, Field(ge=0.0, le=1.0)]],
    Field(
        max_length=32,
        description="shares of each selection by strategy, beside gold; they sum to 1; empty: the default mix",
        examples=[{"cluster_margin": 0.8, "suspect": 0.2}],
    ),
]
ConfusionPairs = Annotated[
    list[Annotated[list[LabelPath], Field(min_length=2, max_length=2)]],
    Field(max_length=100, description="labels that are mistaken for each other, beside those that gold confuses"),
]


class DomainRequest(Body):
    """A domain to make."""

    name: Annotated[str, StringConstraints(max_length=200)] = Field(examples=["aftersales"])
    task: Literal["single_label", "multi_label"] = "single_label"
    keep_text: bool = Field(True, description="false: only a keyed hash of each text is kept")
    gate: Literal["auto", "manual"] = Field("auto", description="manual: a person activates what passed")
    recipe: Recipe = "ngram"
    base_model: BaseName | None = Field(None, description="what recipes with a pretrained model start from")
    rule_policy: Literal["auto", "manual"] = Field("auto", description="manual: a person activates mined keyword rules")
    threshold_policy: Literal["sweep", "risk"] = Field(
        "sweep", description="risk: answers stand only where at most 2 % of them are wrong, with 95 % confidence"
    )
    selection_mix: SelectionMix | None = None
    confusion_pairs: ConfusionPairs | None = None
    overlap: Overlap = 1
    overlap_share: OverlapShare = 1.0


class DomainChange(Body):
    """What is to be different about a domain. What is left out stays."""

    gate: Literal["auto", "manual"] | None = None
    recipe: Recipe | None = None
    base_model: BaseName | None = None
    rule_policy: Literal["auto", "manual"] | None = None
    threshold_policy: Literal["sweep", "risk"] | None = None
    selection_mix: SelectionMix | None = None
    confusion_pairs: ConfusionPairs | None = None
    overlap: Overlap | None = None
    overlap_share: OverlapShare | None = None


class DomainOut(BaseModel):
    """A domain and what it serves."""

    name: str
    task: str
    keep_text: bool
    gate: str
    recipe: str
    base_model: str | None
    rule_policy: str
    threshold_policy: str
    selection_mix: dict[str, float] | None
    confusion_pairs: list[list[str]] | None
    overlap: int
    overlap_share: float
    taxonomy_version: int
    active_version: str | None
    epoch: int
    created_at: datetime


class DomainsOut(BaseModel):
    """All domains."""

    items: list[DomainOut]
    next_cursor: None = None


class LabelOut(BaseModel):
    """One label. Its id never changes."""

    id: int
    label: str
    path: list[str]
    status: str
    guideline: str | None


class TaxonomyOut(BaseModel):
    """The labels of a domain, retired ones included, in the taxonomy's order."""

    domain: str
    version: int
    labels: list[LabelOut]


@router.get(
    "/domains",
    response_model=DomainsOut,
    responses=responses(503),
    dependencies=[needs("labeler")],
)
def list_domains(work: Work) -> DomainsOut:
    """All domains."""

    def read(session: Session) -> list[DomainOut]:
        return [_domain(session, domain) for domain in domains.listing(session)]

    return DomainsOut(items=work.read(read))


@router.post(
    "/domains",
    response_model=DomainOut,
    status_code=201,
    responses=responses(400, 409, 413, 422, 503),
    dependencies=[needs("admin", everywhere=True)],
)
def create_domain(body: DomainRequest, work: Work, who: Caller) -> DomainOut:
    """Make a domain; its labels come with PUT /taxonomy."""

    def create(session: Session) -> DomainOut:
        made = domains.create(session, **body.model_dump())
        audit.note(session, who, "domain.create", made.name, domain_id=made.id, after=body.model_dump())
        return _domain(session, made)

    return work(create)


@router.patch(
    "/domains/{name}",
    response_model=DomainOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def change_domain(name: DomainPath, body: DomainChange, work: Work, who: Caller) -> DomainOut:
    """Change how a domain asks, trains and decides. What serves stays until the next batch passes."""
    changes = {field: value for field, value in body.model_dump(exclude_unset=True).items() if value is not None}

    def change(session: Session) -> DomainOut:
        before, after = domains.change(session, name, changes)
        found = domains.find(session, name)
        if after:
            audit.note(session, who, "domain.change", name, domain_id=found.id, before=before, after=after)
        return _domain(session, found)

    return work(change)


@router.get(
    "/taxonomy",
    response_model=TaxonomyOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("labeler")],
)
def show_taxonomy(work: Work, domain: DomainQuery = DEFAULT) -> TaxonomyOut:
    """The labels of a domain."""

    def read(session: Session) -> TaxonomyOut:
        return _taxonomy(session, domains.find(session, domain))

    return work.read(read)


@router.put(
    "/taxonomy",
    response_model=TaxonomyOut,
    responses=responses(400, 404, 413, 422, 503),
    dependencies=[needs("admin")],
)
def replace_taxonomy(
    body: Annotated[
        dict[str, Any] | list[Any],
        BodyParameter(
            description='`{"root": {"硬件故障": {"电源问题": ["无法开机"]}}}`, a list of labels, or `{"labels": […]}`',
            examples=[{"root": {"硬件故障": {"电源问题": ["无法开机"]}}}],
        ),
    ],
    work: Work,
    who: Caller,
    domain: DomainQuery = DEFAULT,
) -> TaxonomyOut:
    """Make these the labels of the domain. A label that is missing is retired; one that stays keeps its id."""
    try:
        specs = parse_taxonomy(body)
    except TaxonomyInvalid as error:
        raise TaxonomyRefused(str(error)) from error

    def replace(session: Session) -> TaxonomyOut:
        found = domains.locked(session, domain)
        before = taxonomy.summary(session, found)
        taxonomy.replace(session, found, specs)
        after = taxonomy.summary(session, found)
        audit.note(session, who, "taxonomy.replace", domain, domain_id=found.id, before=before, after=after)
        return _taxonomy(session, found)

    return work(replace)


def _domain(session: Session, domain: Domain) -> DomainOut:
    active = versions.active(session, domain)
    return DomainOut(
        name=domain.name,
        task=domain.task,
        keep_text=domain.keep_text,
        gate=domain.gate,
        recipe=domain.recipe,
        base_model=domain.base_model,
        rule_policy=domain.rule_policy,
        threshold_policy=domain.threshold_policy,
        selection_mix=domain.selection_mix,
        confusion_pairs=domain.confusion_pairs,
        overlap=domain.overlap,
        overlap_share=domain.overlap_share,
        taxonomy_version=domain.taxonomy_version,
        active_version=active.version if active else None,
        epoch=domain.epoch,
        created_at=domain.created_at,
    )


def _taxonomy(session: Session, domain: Domain) -> TaxonomyOut:
    return TaxonomyOut(
        domain=domain.name,
        version=domain.taxonomy_version,
        labels=[_label(label) for label in taxonomy.listing(session, domain.id)],
    )


def _label(label: Label) -> LabelOut:
    return LabelOut(
        id=label.id,
        label=label.path,
        path=list(split(label.path)),
        status=label.status,
        guideline=label.guideline,
    )
