"""The folder of artifacts: remove what no version names, on request what old ones name, and never during a backup."""

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, database_time
from app.db.tables import ModelActivation, ModelVersion, TrainingBatch
from app.scorers.artifact import ArtifactCorrupt, read_manifest
from app.services import domains
from app.services.batches import LIVE

# Where trainers work, and what is moved out of the way: beside the artifacts, so that moving one is a rename.
WORKSHOP = ".workshop"
DIGEST = re.compile(r"[0-9a-f]{64}")
# From the end of a training to the registration of its version it is minutes at most.
GRACE_SECONDS = 24 * 3600
REMOVED = "its artifact was removed: INTENTLOOP_KEEP_VERSIONS"


@contextmanager
def held(artifacts: Path, *, alone: bool) -> Iterator[bool]:
    """Hold the folder: many may copy from it at once, who removes must be alone. False: it is taken by others.

    Who copies waits for who removes, never the other way round.
    """
    artifacts.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(artifacts, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except OSError:
            # Taken, or on a file system without locks: then nothing is removed, and copying must do without.
            yield not alone
            return
        yield True
    finally:
        os.close(descriptor)


def orphans(work: UnitOfWork, artifacts: Path, *, grace_seconds: float = GRACE_SECONDS) -> list[Path]:
    """Artifacts that this database's batches made, that no version names, and that have lain for a day.

    An artifact of an unknown batch belongs to somebody else who shares the folder: another installation, or the one
    that this database is a restored copy of.
    """
    line = time.time() - grace_seconds
    candidates = {
        folder.name: folder
        for folder in (artifacts.iterdir() if artifacts.is_dir() else ())
        if DIGEST.fullmatch(folder.name) and folder.is_dir() and folder.stat().st_mtime < line
    }
    named = work.read(_named, list(candidates))
    ours = work.read(_known_batches)
    return [folder for name, folder in sorted(candidates.items()) if name not in named and _made_by(folder) in ours]


def _made_by(folder: Path) -> str | None:
    try:
        return read_manifest(folder).items_digest
    except (ArtifactCorrupt, OSError):
        return None


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


def remove_orphans(work: UnitOfWork, artifacts: Path) -> int:
    """Remove the orphans, and return how many; none while a batch trains, which may be about to name one."""
    with held(artifacts, alone=True) as mine:
        if not mine or work.read(_training):
            return 0
        return sum(_remove(work, artifacts, folder) for folder in orphans(work, artifacts))


def _training(session: Session) -> bool:
    statement = select(TrainingBatch.id).where(TrainingBatch.training_status.in_(LIVE)).limit(1)
    return session.scalar(statement) is not None


def _remove(work: UnitOfWork, artifacts: Path, folder: Path) -> bool:
    """Out of the way first, then looked for once more: a version that came meanwhile gets it back."""
    away = artifacts / WORKSHOP / f"removed-{uuid.uuid4().hex}"
    away.parent.mkdir(exist_ok=True)
    folder.rename(away)
    named, training = work.read(_named, [folder.name]), work.read(_training)
    if named or training:
        away.rename(folder)
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True


def retire_old_versions(work: UnitOfWork, artifacts: Path, *, keep: int) -> list[str]:
    """Remove the artifacts of versions that never served and of which so many newer ones are there; name the versions.

    They can never be activated any more, and say why. Those that serve or ever served stay: one may roll back to them.
    """
    retired: list[str] = []
    with held(artifacts, alone=True) as mine:
        if not mine:
            return retired
        for domain in work.read(domains.listing):
            for version, digest in work(_retire, domain.name, keep):
                retired.append(version)
                folder = artifacts / digest
                if folder.is_dir() and not work.read(_named, [digest]):
                    _remove(work, artifacts, folder)
    return retired


def _retire(session: Session, domain_name: str, keep: int) -> list[tuple[str, str]]:
    # Locked, so that nobody activates one at this moment.
    domain_id = domains.locked(session, domain_name).id
    served = select(ModelActivation.version_id).where(
        ModelActivation.domain_id == domain_id, ModelActivation.version_id.is_not(None)
    )
    newest = session.scalars(
        select(ModelVersion.id).where(ModelVersion.domain_id == domain_id).order_by(ModelVersion.id.desc()).limit(keep)
    ).all()
    line = database_time(session) - timedelta(seconds=GRACE_SECONDS)
    old = session.scalars(
        select(ModelVersion)
        .where(
            ModelVersion.domain_id == domain_id,
            ModelVersion.id.not_in(newest),
            ModelVersion.id.not_in(served),
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
