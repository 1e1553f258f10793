"""Make a backup: everything in the database as it was at one moment, and the artifacts that it names."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, select

from app import __version__
from app.artifacts.store import ArtifactMissing, ArtifactStore, ArtifactUnavailable
from app.db.snapshot import rows_of, snapshot
from app.db.tables import Base, Domain, ModelVersion
from app.operations.artifact_store import REMOVED
from app.operations.backup_format import (
    ARTIFACTS,
    SECRET,
    TABLES,
    BackupRefused,
    Manifest,
    Pointer,
    TableFile,
    fingerprint,
    flush,
    seal,
    table_path,
    write_rows,
)
from app.scorers.artifact import ArtifactCorrupt, verify


def back_up(
    engine: Engine,
    store: ArtifactStore,
    target: Path,
    *,
    secret: bytes,
    with_secret: bool = False,
    incomplete: bool = False,
) -> Manifest:
    """Write a backup to `target`, which must not exist, while the service goes on; it is there whole or not at all.

    The artifacts are copied after the rows were read: they never change, and none is removed while the folder is held.

    Args:
        incomplete: take it also when an artifact that serves is missing or damaged.

    Raises:
        BackupRefused: the target exists, or such an artifact is missing.
    """
    if target.exists():
        raise BackupRefused(f"{target} exists: name a new folder for each backup")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as folder, store.held(alone=False):
        with snapshot(engine) as connection:
            facts = _tables(connection, folder)
            versions = _versions(connection)
        kept, missing = _copy_artifacts(versions, store, folder)
        serving = {pointer.artifact_digest for pointer in facts["active"].values()}
        if (lost := sorted(serving & missing.keys())) and not incomplete:
            raise BackupRefused(f"version {versions[lost[0]]} serves, and its artifact {missing[lost[0]]}")
        if with_secret:
            _write_secret(folder / SECRET, secret)
        manifest = seal(
            folder,
            facts
            | {
                "created_at": datetime.now(UTC),
                "release": __version__,
                "database": engine.dialect.name,
                "artifacts": tuple(kept),
                "missing_artifacts": {digest: f"{versions[digest]}: {why}" for digest, why in missing.items()},
                "secret_fingerprint": fingerprint(secret),
                "has_secret": with_secret,
            },
        )
        folder.rename(target)
        flush(target.parent)
    return manifest


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder that becomes the target by its last step; it is gone when there is no last step."""
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    try:
        (folder / TABLES).mkdir()
        (folder / ARTIFACTS).mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tables(connection: Connection, folder: Path) -> dict[str, Any]:
    # The first statement is what fixes the moment.
    revision = MigrationContext.configure(connection).get_current_revision()
    tables = {}
    for table in Base.metadata.sorted_tables:
        rows = write_rows(table_path(folder, table.name), rows_of(connection, table))
        tables[table.name] = TableFile(rows, tuple(column.name for column in table.columns))
    return {"schema_revision": revision, "tables": tables, "active": pointers(connection)}


def pointers(connection: Connection) -> dict[str, Pointer]:
    """What each domain serves."""
    rows = connection.execute(
        select(Domain.name, ModelVersion.version, ModelVersion.artifact_digest, Domain.epoch)
        .join(ModelVersion, ModelVersion.id == Domain.active_version_id, isouter=True)
        .order_by(Domain.id)
    )
    return {name: Pointer(version, digest, epoch) for name, version, digest, epoch in rows}


def _versions(connection: Connection) -> dict[str, str]:
    """Every artifact that a version names, and that version."""
    rows = connection.execute(
        select(ModelVersion.artifact_digest, ModelVersion.version, ModelVersion.reason).order_by(ModelVersion.id)
    )
    return {digest: version for digest, version, reason in rows if reason != REMOVED}


def _copy_artifacts(versions: dict[str, str], store: ArtifactStore, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Copy and prove each; the ones that are there, and of the others why not."""
    kept: list[str] = []
    missing: dict[str, str] = {}
    for digest in sorted(versions):
        copied = folder / ARTIFACTS / digest
        try:
            shutil.copytree(store.fetch(digest), copied, symlinks=True)
            verify(copied, digest)
            kept.append(digest)
        except (FileNotFoundError, ArtifactMissing):
            shutil.rmtree(copied, ignore_errors=True)
            missing[digest] = "is not there"
        except (ArtifactCorrupt, ArtifactUnavailable, shutil.Error) as error:
            shutil.rmtree(copied, ignore_errors=True)
            missing[digest] = f"is damaged: {error}" if isinstance(error, ArtifactCorrupt) else "cannot be read"
    return kept, missing


def _write_secret(path: Path, secret: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
