"""Flips: choose the version that serves, and go back when it was a mistake."""

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from app.db.tables import Domain, ModelActivation, ModelVersion, now
from app.errors import NotFound, NothingToRollBack, StaleEpoch, VersionUnusable
from app.intent.training import rollback_target
from app.services import domains


def activate(
    session: Session,
    version_name: str,
    *,
    by: str,
    reason: str,
    seen_epoch: int | None = None,
    force: bool = False,
) -> ModelActivation:
    """Make a version the one that serves; the active one stays as it is.

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
    if domain.active_version_id == version.id:
        return current(session, domain)
    return flip(session, domain, version, threshold=version.threshold, by=by, reason=reason)


def rollback(
    session: Session, domain_name: str, *, by: str, reason: str, seen_epoch: int | None = None
) -> ModelActivation:
    """Go back to the version before the current one in the history of activations, one more with each call.

    What is left is never activated by itself again, and versions that could not be loaded are passed over.

    Raises:
        DomainNotFound.
        NothingToRollBack: no version was active before this one.
        StaleEpoch: the caller saw another epoch than the one that stands now.
    """
    domain = domains.locked(session, domain_name)
    _refuse_stale(domain, seen_epoch)
    target = _version_before(session, domain)
    if target is None:
        raise NothingToRollBack(f"no version of domain {domain_name!r} was active before the current one")
    left = session.get(ModelVersion, domain.active_version_id)
    if left is not None and left.status != "failed":
        left.status = "rolled_back"
        left.reason = f"rolled back by {by}: {reason}"
    threshold = _threshold_as_it_was(session, domain.id, target.id)
    return flip(session, domain, target, threshold=threshold, by=by, reason=reason, kind="rollback")


def flip(
    session: Session,
    domain: Domain,
    version: ModelVersion,
    *,
    threshold: float,
    by: str,
    reason: str,
    kind: str = "activate",
) -> ModelActivation:
    """Point the domain at a version: compare-and-set on the epoch, then the flags, then one append-only row.

    Raises:
        StaleEpoch: another flip was faster.
    """
    seen = domain.epoch
    result = session.execute(
        update(Domain)
        .where(Domain.id == domain.id, Domain.epoch == seen)
        .values(active_version_id=version.id, epoch=seen + 1),
        execution_options={"synchronize_session": False},
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        raise StaleEpoch(f"domain {domain.name!r} was flipped by another at this moment")
    session.refresh(domain)
    for former in session.scalars(
        select(ModelVersion).where(ModelVersion.domain_id == domain.id, ModelVersion.is_active.is_(True))
    ):
        former.is_active = None
    # The database allows one active version: the former must be written before the next.
    session.flush()
    version.is_active = True
    version.activated_at = now()
    if version.status == "rolled_back":
        # A person chose it again: only the loop by itself must not.
        version.status, version.reason = "passed", None
    activation = ModelActivation(
        domain_id=domain.id,
        epoch=domain.epoch,
        kind=kind,
        version_id=version.id,
        threshold=threshold,
        activated_by=by,
        reason=reason[:255],
    )
    session.add(activation)
    session.flush()
    return activation


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


def _version_before(session: Session, domain: Domain) -> ModelVersion | None:
    history = [
        (epoch, version_id, kind)
        for epoch, version_id, kind in session.execute(
            select(ModelActivation.epoch, ModelActivation.version_id, ModelActivation.kind).where(
                ModelActivation.domain_id == domain.id
            )
        )
        if version_id is not None
    ]
    epoch = domain.epoch
    while (target_id := rollback_target(history)) is not None:
        target = session.get(ModelVersion, target_id)
        if target is not None and target.status != "failed" and target.id != domain.active_version_id:
            return target
        # As if it had been gone back to and left again; the active one stands below one that was passed over before.
        epoch += 1
        history.append((epoch, target_id, "rollback"))
    return None


def _threshold_as_it_was(session: Session, domain_id: int, version_id: int) -> float:
    return session.scalars(
        select(ModelActivation.threshold)
        .where(ModelActivation.domain_id == domain_id, ModelActivation.version_id == version_id)
        .order_by(ModelActivation.epoch.desc())
        .limit(1)
    ).one()
