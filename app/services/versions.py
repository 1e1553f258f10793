"""Versions: register what a batch produced with its proof, and find what there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import BatchItem, Domain, ModelActivation, ModelVersion
from app.errors import NotFound
from app.intent.recipes import GENERATIVE
from app.services import activations, batches, domains, rule_sets


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of a finished artifact: where it lies, how good it is, and what the gate said."""

    artifact_digest: str
    model_path: str
    evaluation: dict[str, Any]
    pairing: activations.Pairing
    temperature: float | None
    train_count: int
    passed: bool
    reasons: Sequence[str]


def register(session: Session, claimed: batches.Claimed, proof: Proof) -> ModelVersion:
    """Make a proven artifact a version, end its batch, and flip the domain if it passed and flips by itself.

    All of it is one transaction: there is no moment at which a version is active whose batch is not done.

    Raises:
        ClaimLost: the batch is no longer this worker's; nothing is registered.
    """
    domain = domains.locked(session, claimed.domain.name)
    domain.version_seq += 1
    version = ModelVersion(
        domain_id=domain.id,
        version=f"{domain.name}-v{domain.version_seq}",
        recipe=claimed.batch.recipe,
        model_path=proof.model_path,
        artifact_digest=proof.artifact_digest,
        training_batch_id=claimed.batch.id,
        parent_version=claimed.batch.parent_version,
        status="passed" if proof.passed else "refused",
        reason=" ".join(proof.reasons) or None,
        evaluation=proof.evaluation,
        temperature=proof.temperature,
        threshold=proof.pairing.threshold,
        rule_set_revision=proof.pairing.rule_set_revision,
        fusion=dict(proof.pairing.fusion) if proof.pairing.fusion is not None else None,
        train_count=proof.train_count,
        taxonomy=_trained(session, claimed.batch.id),
    )
    session.add(version)
    session.flush()
    flips = proof.passed and domain.gate == "auto"
    outcome = "activated" if flips else "passed" if proof.passed else "refused"
    batches.complete(session, claimed.batch.id, claimed.token, outcome=outcome, version=version)
    if flips and version.recipe in GENERATIVE:
        activations.ask_again_with(session, domain, version, by="clock", reason="passed the gate")
    elif flips:
        pairing = rule_sets.of_today(session, domain, proof.pairing)
        activations.flip(session, domain, version, pairing, by="clock", reason="passed the gate")
    return version


def _trained(session: Session, batch_pk: int) -> list[list[Any]]:
    """The labels that a batch trained, with their paths as they were when it was opened, by id."""
    rows = session.execute(
        select(BatchItem.label_id, BatchItem.label)
        .where(BatchItem.batch_id == batch_pk, BatchItem.role != "gold")
        .distinct()
        .order_by(BatchItem.label_id)
    )
    return [[label_id, path] for label_id, path in rows]


def find(session: Session, version: str) -> ModelVersion:
    """The version of this name.

    Raises:
        NotFound: there is none.
    """
    found = session.scalar(select(ModelVersion).where(ModelVersion.version == version))
    if found is None:
        raise NotFound("there is no model version of this name")
    return found


def active(session: Session, domain: Domain) -> ModelVersion | None:
    """What the domain serves."""
    return session.get(ModelVersion, domain.active_version_id) if domain.active_version_id else None


def listing(session: Session, domain_id: int, *, limit: int, before: int | None = None) -> Sequence[ModelVersion]:
    """The versions of a domain, the newest first."""
    statement = select(ModelVersion).where(ModelVersion.domain_id == domain_id)
    if before is not None:
        statement = statement.where(ModelVersion.id < before)
    return session.scalars(statement.order_by(ModelVersion.id.desc()).limit(limit)).all()


def activated(session: Session, domain_id: int) -> Sequence[ModelVersion]:
    """Every version that was ever served and is not known to be broken: the gate asks for the best of them."""
    return session.scalars(
        select(ModelVersion)
        .where(
            ModelVersion.id.in_(select(ModelActivation.version_id).where(ModelActivation.domain_id == domain_id)),
            ModelVersion.status != "failed",
        )
        .order_by(ModelVersion.id)
    ).all()


def generative(session: Session, domain: Domain) -> ModelVersion | None:
    """What the domain asks about what stays below the threshold."""
    return session.get(ModelVersion, domain.generative_version_id) if domain.generative_version_id else None


def serving_ids(session: Session, *, generative: bool = True) -> set[int]:
    """The ids of all versions that some domain serves; `generative`: or asks below the threshold."""
    pointers = (Domain.active_version_id, Domain.generative_version_id) if generative else (Domain.active_version_id,)
    return {found for row in session.execute(select(*pointers)) for found in row if found is not None}


def asked_again(session: Session, domain_id: int) -> Sequence[ModelVersion]:
    """As `activated`, of the versions that were asked about what stayed below the threshold."""
    chosen = select(ModelActivation.generative_version_id).where(
        ModelActivation.domain_id == domain_id, ModelActivation.generative_version_id.is_not(None)
    )
    return session.scalars(
        select(ModelVersion)
        .where(ModelVersion.id.in_(chosen), ModelVersion.status != "failed")
        .order_by(ModelVersion.id)
    ).all()


def mark_failed(session: Session, version_id: int, reason: str) -> None:
    """Note on the version that a service could not load it. The version that serves stays as it was."""
    version = session.get(ModelVersion, version_id)
    if version is not None and version.status != "failed":
        version.status = "failed"
        version.reason = reason[:2000]
        session.flush()
