"""Model versions: what there is, what serves, and the two ways to change that."""

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
    Cursor,
    DomainName,
    DomainQuery,
    LabelerId,
    Limit,
    PathId,
    Short,
    Whole,
    Work,
    next_cursor,
    page_before,
)
from app.api.problems import responses
from app.db.tables import Domain, ModelActivation, ModelVersion, TrainingBatch
from app.errors import NotFound
from app.services import activations, audit, domains, runs, versions
from app.services.domains import DEFAULT

router = APIRouter(prefix=f"{PREFIX}/models", tags=["versions"], route_class=StrictRoute)


class VersionOut(BaseModel):
    """A version with its proof."""

    version: str
    domain: str
    recipe: str
    status: str = Field(description="passed, refused, failed or rolled_back")
    reason: str | None
    is_active: bool
    training_batch_id: str | None
    parent_version: str | None
    artifact_digest: str
    model_path: str
    threshold: float
    temperature: float | None
    train_count: int
    evaluation: dict[str, Any]
    taxonomy: list[list[int | str]] | None = Field(
        description="the labels that it was trained with, as they were: [[id, path], …]; null in lists and of old ones"
    )
    created_at: datetime
    activated_at: datetime | None


class ReplicaOut(BaseModel):
    """What one service serves, as it said last."""

    replica: str
    version: str | None
    epoch: int
    error: str | None
    reported_at: datetime


class ActiveOut(VersionOut):
    """The version that is to serve, and how far the running services are."""

    epoch: int
    generative_version: str | None = Field(description="what is asked about what stays below the threshold")
    rule_set_revision: int | None = Field(description="the frozen rules that serve with it")
    propagated: str = Field(examples=["2/2"])
    replicas_arrived: int = Field(description="services that serve this epoch")
    replicas_alive: int = Field(description="services that reported lately")
    replicas: list[ReplicaOut]


class VersionsOut(BaseModel):
    """The newest first."""

    items: list[VersionOut]
    next_cursor: str | None


class ActivateRequest(Body):
    """Who flips, and why. `epoch`: refuse when another flip came since this one was seen."""

    reason: Short = "activated by hand"
    by: LabelerId = "person"
    epoch: Whole | None = Field(None, ge=0)
    force: bool = Field(False, description="true: also a version that the gate refused")


class RollbackRequest(Body):
    """Which domain goes back, who says so, and why."""

    domain: DomainName = DEFAULT
    reason: Short = "rolled back by hand"
    by: LabelerId = "person"
    epoch: Whole | None = Field(None, ge=0)


class ActivationOut(BaseModel):
    """One flip."""

    domain: str
    version: str | None
    generative_version: str | None
    epoch: int
    kind: str
    threshold: float
    rule_set_revision: int | None
    activated_by: str
    reason: str
    created_at: datetime


@router.get(
    "",
    response_model=VersionsOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def list_versions(work: Work, domain: DomainQuery = DEFAULT, limit: Limit = 50, cursor: Cursor = None) -> VersionsOut:
    """The versions of a domain."""
    before = page_before(cursor)

    def read(session: Session) -> VersionsOut:
        rows = versions.listing(session, domains.find(session, domain).id, limit=limit, before=before)
        return VersionsOut(
            items=[VersionOut(**(_version(session, row) | {"taxonomy": None})) for row in rows],
            next_cursor=next_cursor(rows, limit),
        )

    return work.read(read)


@router.get(
    "/active",
    response_model=ActiveOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def show_active(work: Work, domain: DomainQuery = DEFAULT) -> ActiveOut:
    """The version that serves."""

    def read(session: Session) -> ActiveOut:
        found = domains.find(session, domain)
        version = versions.active(session, found)
        if version is None:
            raise NotFound(f"domain {found.name!r} has no active model yet")
        spread = runs.spread(session, found)
        generative = versions.generative(session, found)
        return ActiveOut(
            **_version(session, version),
            epoch=found.epoch,
            generative_version=generative.version if generative else None,
            rule_set_revision=activations.current(session, found).rule_set_revision,
            propagated=spread.propagated,
            replicas_arrived=spread.arrived,
            replicas_alive=len(spread.replicas),
            replicas=[ReplicaOut.model_validate(replica, from_attributes=True) for replica in spread.replicas],
        )

    return work.read(read)


@router.get(
    "/{version}",
    response_model=VersionOut,
    responses=responses(404, 422, 503),
    dependencies=[needs("admin")],
)
def show_version(version: PathId, work: Work) -> VersionOut:
    """One version with its evaluation."""

    def read(session: Session) -> VersionOut:
        return VersionOut(**_version(session, versions.find(session, version)))

    return work.read(read)


@router.post(
    "/rollback",
    response_model=ActivationOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def rollback(work: Work, who: AccessDep, body: RollbackRequest | None = None) -> ActivationOut:
    """Serve the version before this one again, exactly as it was; once more goes one further back."""
    asked = body or RollbackRequest.model_validate({})

    def back(session: Session) -> ActivationOut:
        activation = activations.rollback(
            session, asked.domain, by=who.by(asked.by), reason=asked.reason, seen_epoch=asked.epoch
        )
        audit.note_flip(session, who.actor, "version.rollback", activation)
        return _activation(session, activation)

    return work(back)


@router.post(
    "/{version}/activate",
    response_model=ActivationOut,
    responses=responses(400, 404, 409, 413, 422, 503),
    dependencies=[needs("admin")],
)
def activate(version: PathId, work: Work, who: AccessDep, body: ActivateRequest | None = None) -> ActivationOut:
    """Serve this version from now on: every running service has it within a second."""
    asked = body or ActivateRequest.model_validate({})

    def flip(session: Session) -> ActivationOut:
        activation = activations.activate(
            session, version, by=who.by(asked.by), reason=asked.reason, seen_epoch=asked.epoch, force=asked.force
        )
        audit.note_flip(session, who.actor, "version.activate", activation)
        return _activation(session, activation)

    return work(flip)


def _version(session: Session, version: ModelVersion) -> dict[str, Any]:
    domain = session.get(Domain, version.domain_id)
    batch = session.get(TrainingBatch, version.training_batch_id) if version.training_batch_id else None
    own = {"domain", "is_active", "training_batch_id"}
    fields = {name: getattr(version, name) for name in VersionOut.model_fields if name not in own}
    return {
        **fields,
        "domain": domain.name if domain else "",
        "is_active": bool(version.is_active),
        "training_batch_id": batch.batch_id if batch else None,
    }


def _activation(session: Session, activation: ModelActivation) -> ActivationOut:
    domain = session.get(Domain, activation.domain_id)
    version = session.get(ModelVersion, activation.version_id) if activation.version_id else None
    generative = session.get(ModelVersion, activation.generative_version_id or 0)
    return ActivationOut(
        domain=domain.name if domain else "",
        version=version.version if version else None,
        generative_version=generative.version if generative else None,
        epoch=activation.epoch,
        kind=activation.kind,
        threshold=activation.threshold,
        rule_set_revision=activation.rule_set_revision,
        activated_by=activation.activated_by,
        reason=activation.reason,
        created_at=activation.created_at,
    )
