"""The store of artifacts: remove what no version names, on request what old ones name, and never during a backup."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.artifacts.store import ArtifactStore
from app.db.session import UnitOfWork, database_time
from app.db.tables import ModelActivation, ModelVersion, TrainingBatch
from app.services import domains
from app.services.batches import LIVE

# From the end of a training to the registration of its version it is minutes at most.
GRACE_SECONDS = 24 * 3600
REMOVED = "its artifact was removed: INTENTLOOP_KEEP_VERSIONS"


def orphans(work: UnitOfWork, store: ArtifactStore, *, grace_seconds: float = GRACE_SECONDS) -> list[str]:
    """Artifacts that this database's batches made, that no version names, and that have lain for a day.

    An artifact of an unknown batch belongs to somebody else who shares the store: another installation, or the one
    that this database is a restored copy of.
    """
    candidates = store.older_than(grace_seconds)
    named = work.read(_named, list(candidates))
    ours = work.read(_known_batches)
    return [digest for digest, made_by in candidates.items() if digest not in named and made_by in ours]


def _named(session: Session, digests: Sequence[str]) -> set[str]:
    # A failed one counts too: a person may want to look at it. Not one that failed because it was removed.
    stands = or_(ModelVersion.reason.is_(None), ModelVersion.reason != REMOVED)
    found: set[str] = set()
    for start in range(0, len(digests), 500):
        page = digests[start : start + 500]
        found |= set(
            session.scalars(select(ModelVersion.artifact_digest).where(ModelVersion.artifact_digest.in_(page), stands))
        )
    return found


def _known_batches(session: Session) -> set[str]:
    return set(session.scalars(select(TrainingBatch.items_digest)))


def remove_orphans(work: UnitOfWork, store: ArtifactStore) -> int:
    """Remove the orphans, and return how many; none while a batch trains, which may be about to name one."""
    with store.held(alone=True) as mine:
        if not mine or work.read(_training):
            return 0
        return sum(_remove(work, store, digest) for digest in orphans(work, store))


def _training(session: Session) -> bool:
    statement = select(TrainingBatch.id).where(TrainingBatch.training_status.in_(LIVE)).limit(1)
    return session.scalar(statement) is not None


def _remove(work: UnitOfWork, store: ArtifactStore, digest: str) -> bool:
    """Looked for once more at the last moment: a version may have come meanwhile."""
    return store.remove(digest, unwanted=lambda: not work.read(_named, [digest]) and not work.read(_training))


def retire_old_versions(work: UnitOfWork, store: ArtifactStore, *, keep: int) -> list[str]:
    """Remove the artifacts of versions that never served and of which so many newer ones are there; name the versions.

    They can never be activated any more, and say why. Those that serve or ever served stay: one may roll back to them.
    """
    retired: list[str] = []
    with store.held(alone=True) as mine:
        if not mine:
            return retired
        for domain in work.read(domains.listing):
            for version, digest in work(_retire, domain.name, keep):
                retired.append(version)
                if store.holds(digest) and not work.read(_named, [digest]):
                    _remove(work, store, digest)
    return retired


def _retire(session: Session, domain_name: str, keep: int) -> list[tuple[str, str]]:
    # Locked, so that nobody activates one at this moment.
    domain_id = domains.locked(session, domain_name).id
    served = [
        select(chosen).where(ModelActivation.domain_id == domain_id, chosen.is_not(None))
        for chosen in (ModelActivation.version_id, ModelActivation.generative_version_id)
    ]
    newest = session.scalars(
        select(ModelVersion.id).where(ModelVersion.domain_id == domain_id).order_by(ModelVersion.id.desc()).limit(keep)
    ).all()
    line = database_time(session) - timedelta(seconds=GRACE_SECONDS)
    old = session.scalars(
        select(ModelVersion)
        .where(
            ModelVersion.domain_id == domain_id,
            ModelVersion.id.not_in(newest),
            *(ModelVersion.id.not_in(chosen) for chosen in served),
            ModelVersion.is_active.is_(None),
            ModelVersion.status != "failed",
            ModelVersion.created_at < line,
        )
        .order_by(ModelVersion.id)
        .with_for_update()
    ).all()
    for version in old:
        version.status, version.reason = "failed", REMOVED
    session.flush()
    return [(version.version, version.artifact_digest) for version in old]
