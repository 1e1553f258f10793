"""Flips: choose the version and the rules that serve, and go back when it was a mistake."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from app.db.notices import FLIPS, announce
from app.db.tables import Domain, KeywordRule, ModelActivation, ModelVersion, now
from app.errors import NotFound, NothingToRollBack, StaleEpoch, VersionUnusable
from app.intent.recipes import GENERATIVE
from app.intent.training import rollback_target
from app.services import domains


@dataclass(frozen=True, slots=True)
class Pairing:
    """What a version serves with: a revision of the rules, and the fusion and threshold fitted for the two."""

    threshold: float
    rule_set_revision: int | None = None
    fusion: Mapping[str, Any] | None = None


def activate(
    session: Session,
    version_name: str,
    *,
    by: str,
    reason: str,
    seen_epoch: int | None = None,
    force: bool = False,
) -> ModelActivation:
    """Make a version the one that serves, with what it served with last; the active one stays as it is.

    A version of a generative recipe becomes the one that is asked again, beside the active one.

    Raises:
        NotFound: no such version.
        VersionUnusable: it failed to load, or the gate refused it and `force` is not set.
        StaleEpoch: the caller saw another epoch than the one that stands now.
    """
    version = session.scalar(select(ModelVersion).where(ModelVersion.version == version_name))
    if version is None:
        raise NotFound("there is no model version of this name")
    owner = session.get(Domain, version.domain_id)
    if owner is None:
        raise AssertionError(f"version {version_name} has lost its domain")
    domain = domains.locked(session, owner.name)
    session.refresh(version)
    if version.status == "failed":
        raise VersionUnusable(f"version {version_name} could not be loaded: {version.reason}")
    if version.status == "refused" and not force:
        raise VersionUnusable(f"the gate refused version {version_name}: {version.reason} force=true overrides it")
    _refuse_stale(domain, seen_epoch)
    if version.id in (domain.active_version_id, domain.generative_version_id):
        return current(session, domain)
    if version.recipe in GENERATIVE:
        return ask_again_with(session, domain, version, by=by, reason=reason)
    pairing = last_pairing(session, version)
    # Rules may have come and gone since: the clock proves today's with this version.
    domain.rules_due = pairing.rule_set_revision is not None or _has_active_rules(session, domain.id)
    return flip(session, domain, version, pairing, by=by, reason=reason)


def ask_again_with(session: Session, domain: Domain, version: ModelVersion, *, by: str, reason: str) -> ModelActivation:
    """Make a generative version the one that is asked about what stays below the threshold; all else stays.

    Raises:
        StaleEpoch: another flip was faster.
    """
    active = session.get(ModelVersion, domain.active_version_id) if domain.active_version_id else None
    pairing = pairing_of(current(session, domain)) if domain.epoch else Pairing(version.threshold)
    _mark_chosen(version)
    return flip(session, domain, active, pairing, by=by, reason=reason, generative_version_id=version.id)


def rollback(
    session: Session, domain_name: str, *, by: str, reason: str, seen_epoch: int | None = None
) -> ModelActivation:
    """Go back to what was active before in the history of activations, one more with each call.

    The version serves as it did last, with the rules, the fusion and the threshold of then, and the generative version
    that was asked beside it: its answers are the same to the bit. Where only the generative version was changed last,
    only that one goes back. What is left is never activated by itself again, and versions that could not be loaded are
    passed over.

    Raises:
        DomainNotFound.
        NothingToRollBack: no version was active before this one.
        StaleEpoch: the caller saw another epoch than the one that stands now.
    """
    domain = domains.locked(session, domain_name)
    _refuse_stale(domain, seen_epoch)
    found = _before(session, domain)
    if found is None:
        raise NothingToRollBack(f"no version of domain {domain_name!r} was active before the current one")
    target, generative_id = found
    for left_id in {domain.active_version_id, domain.generative_version_id} - {target.id, generative_id, None}:
        left = session.get(ModelVersion, left_id)
        if left is not None and left.status != "failed":
            left.status = "rolled_back"
            left.reason = f"rolled back by {by}: {reason}"
    if target.id != domain.active_version_id:
        # Until a person changes a rule again: proving today's rules at once would undo what was just gone back to.
        domain.rules_due = False
    return flip(
        session,
        domain,
        target,
        last_pairing(session, target),
        by=by,
        reason=reason,
        kind="rollback",
        generative_version_id=generative_id,
    )


def flip(
    session: Session,
    domain: Domain,
    version: ModelVersion | None,
    pairing: Pairing,
    *,
    by: str,
    reason: str,
    kind: str = "activate",
    generative_version_id: int | EllipsisType | None = ...,
) -> ModelActivation:
    """Point the domain at a version: compare-and-set on the epoch, then the flags, then one append-only row.

    Without a version the domain's rules answer alone. `kind` is `activate`, `rules` (the version stays) or `rollback`.
    `generative_version_id`: the version that is asked again; without one the domain keeps its own.

    Raises:
        StaleEpoch: another flip was faster.
    """
    seen = domain.epoch
    generative_id = domain.generative_version_id if generative_version_id is ... else generative_version_id
    result = session.execute(
        update(Domain)
        .where(Domain.id == domain.id, Domain.epoch == seen)
        .values(active_version_id=version.id if version else None, generative_version_id=generative_id, epoch=seen + 1),
        execution_options={"synchronize_session": False},
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise StaleEpoch(f"domain {domain.name!r} was flipped by another at this moment")
    session.refresh(domain)
    if version is None or not version.is_active:
        _hand_over(session, domain, version)
    activation = ModelActivation(
        domain_id=domain.id,
        epoch=domain.epoch,
        kind=kind,
        version_id=version.id if version else None,
        generative_version_id=generative_id,
        threshold=pairing.threshold,
        rule_set_revision=pairing.rule_set_revision,
        fusion=dict(pairing.fusion) if pairing.fusion is not None else None,
        activated_by=by,
        reason=reason[:255],
    )
    session.add(activation)
    session.flush()
    if pairing.fusion is not None:
        _note_weights(session, pairing.fusion)
    # With the transaction's commit, and not if it fails.
    announce(session, FLIPS)
    return activation


def _has_active_rules(session: Session, domain_id: int) -> bool:
    statement = select(KeywordRule.id).where(KeywordRule.domain_id == domain_id, KeywordRule.status == "active")
    return session.scalar(statement.limit(1)) is not None


def _note_weights(session: Session, fusion: Mapping[str, Any]) -> None:
    """Write on each rule what it weighs now, for people who read the table."""
    weights = [{"id": int(rule_id), "confidence_boost": weight} for rule_id, weight in fusion["weights"].items()]
    known = set(session.scalars(select(KeywordRule.id).where(KeywordRule.id.in_([row["id"] for row in weights]))))
    rows = sorted((row for row in weights if row["id"] in known), key=lambda row: int(row["id"]))
    if rows:
        session.execute(update(KeywordRule), rows)


def _hand_over(session: Session, domain: Domain, version: ModelVersion | None) -> None:
    for former in session.scalars(
        select(ModelVersion).where(ModelVersion.domain_id == domain.id, ModelVersion.is_active.is_(True))
    ):
        former.is_active = None
    # The database allows one active version: the former must be written before the next.
    session.flush()
    if version is None:
        return
    version.is_active = True
    _mark_chosen(version)


def _mark_chosen(version: ModelVersion) -> None:
    version.activated_at = now()
    if version.status == "rolled_back":
        # A person chose it again: only the loop by itself must not.
        version.status, version.reason = "passed", None


def pairing_of(activation: ModelActivation) -> Pairing:
    """What this activation paired its version with."""
    return Pairing(activation.threshold, activation.rule_set_revision, activation.fusion)


def last_pairing(session: Session, version: ModelVersion) -> Pairing:
    """What the version served with last; for one that never did, what it was proved with."""
    last = session.scalar(
        select(ModelActivation)
        .where(ModelActivation.domain_id == version.domain_id, ModelActivation.version_id == version.id)
        .order_by(ModelActivation.epoch.desc())
        .limit(1)
    )
    if last is not None:
        return pairing_of(last)
    return Pairing(version.threshold, version.rule_set_revision, version.fusion)


def current(session: Session, domain: Domain) -> ModelActivation:
    """The activation that stands.

    Raises:
        NotFound: nothing was ever activated.
    """
    activation = session.scalar(
        select(ModelActivation).where(ModelActivation.domain_id == domain.id, ModelActivation.epoch == domain.epoch)
    )
    if activation is None:
        raise NotFound(f"domain {domain.name!r} has no active model yet")
    return activation


def _refuse_stale(domain: Domain, seen_epoch: int | None) -> None:
    if seen_epoch is not None and seen_epoch != domain.epoch:
        raise StaleEpoch(f"epoch {seen_epoch} was seen, {domain.epoch} stands now", epoch=domain.epoch)


def _before(session: Session, domain: Domain) -> tuple[ModelVersion, int | None] | None:
    """The version that was active before, and the id of the generative one beside it."""
    columns = (
        ModelActivation.epoch,
        ModelActivation.version_id,
        ModelActivation.generative_version_id,
        ModelActivation.kind,
    )
    history = [
        (epoch, (version_id, generative_id), kind)
        for epoch, version_id, generative_id, kind in session.execute(
            select(*columns).where(ModelActivation.domain_id == domain.id, ModelActivation.version_id.is_not(None))
        )
    ]
    epoch, standing = domain.epoch, (domain.active_version_id, domain.generative_version_id)
    while (found := rollback_target(history)) is not None:
        target = session.get(ModelVersion, found[0])
        generative = session.get(ModelVersion, found[1]) if found[1] is not None else None
        generative_id = generative.id if generative is not None and generative.status != "failed" else None
        if target is not None and target.status != "failed" and (target.id, generative_id) != standing:
            return target, generative_id
        # As if it had been gone back to and left again; the active one stands below one that was passed over before.
        epoch += 1
        history.append((epoch, found, "rollback"))
    return None
