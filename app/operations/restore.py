"""Restore a backup into an empty database of any kind, prove it, and forget again what was forgotten since."""

import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Table, func, insert, inspect, select, tuple_, update
from sqlalchemy.orm import Session

from app.artifacts.folder import FolderStore
from app.artifacts.store import WORKSHOP, ArtifactStore, ArtifactUnavailable, is_whole
from app.db.erasing import empty_write_ahead_log, rewrite, rewritten_by_itself
from app.db.schema import head, is_current, migrate
from app.db.session import connect, transaction
from app.db.snapshot import number_on
from app.db.tables import Base, Domain, ModelVersion, TrainingBatch
from app.operations.backup import pointers
from app.operations.backup_format import ARTIFACTS, SECRET, BackupRefused, Manifest, flush, prove, read_rows, table_path
from app.scorers.artifact import ArtifactCorrupt, verify
from app.services import folding, tombstones
from app.services.domains import DEFAULT
from app.services.forgetting import Forgotten
from app.services.tombstones import Stone

PAGE = 500
# MySQL and MariaDB keep numbers in 32 bits: seven digits.
FLOAT_TOLERANCE = {"mysql": 1e-5, "mariadb": 1e-5}


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, and what was forgotten again on the way."""

    manifest: Manifest
    forgotten: Forgotten


def restore(engine: Engine, store: ArtifactStore, folder: Path, *, stones: Sequence[Stone] = ()) -> Restored:
    """Fill an empty database from a backup, in one transaction: it is all there, or nothing is.

    Args:
        stones: tombstones from outside of the backup; its own are replayed too.

    Raises:
        BackupRefused: it is damaged, of another schema, or the database holds something already.
    """
    manifest = prove(folder)
    _refuse_other_schema(manifest)
    _make_ready(engine)
    _restore_artifacts(manifest, folder, store)
    with transaction(engine) as session:
        connection = session.connection()
        _refuse_unless_empty(connection)
        connection.execute(Domain.__table__.delete())  # type: ignore[attr-defined]
        for table in Base.metadata.sorted_tables:
            _fill(connection, table, manifest, folder)
        for table in Base.metadata.sorted_tables:
            _compare(connection, table, manifest, folder)
            number_on(connection, table)
        if pointers(connection) != dict(manifest.active):
            raise BackupRefused("the restored domains do not serve what they served: nothing was kept")
        _relocate(session, store)
        forgotten = _forget_again(session, stones)
    if forgotten.questions and rewritten_by_itself(engine):
        rewrite(engine, [])
    empty_write_ahead_log(engine)
    return Restored(manifest, forgotten)


def check(folder: Path) -> Restored:
    """Restore a backup into a database and a folder that are thrown away, with every proof.

    Raises:
        BackupRefused: what `restore` raises.
    """
    with tempfile.TemporaryDirectory(prefix="intentloop-restore-") as made:
        engine = connect(f"sqlite:///{Path(made) / 'restored.db'}")
        try:
            return restore(engine, FolderStore(Path(made) / ARTIFACTS), folder)
        finally:
            engine.dispose()


def restore_secret(folder: Path, manifest: Manifest, target: Path) -> bool:
    """Bring back the secret that the backup holds, unless the installation has one; whether it was brought."""
    if not manifest.has_secret or target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write((folder / SECRET).read_bytes())
    return True


def _refuse_other_schema(manifest: Manifest) -> None:
    if manifest.schema_revision != head():
        raise BackupRefused(
            f"the backup has the schema {manifest.schema_revision} of release {manifest.release}, this release has "
            f"{head()}: restore it with that release, then upgrade and run `intentloop migrate`"
        )


def _make_ready(engine: Engine) -> None:
    present = set(inspect(engine).get_table_names())
    if not present & set(Base.metadata.tables):
        migrate(engine)
    elif not is_current(engine):
        raise BackupRefused("the database holds tables of another release: name an empty one")


def _refuse_unless_empty(connection: Connection) -> None:
    for table in Base.metadata.sorted_tables:
        rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if table is Domain.__table__:
            # What `migrate` makes.
            fresh = connection.execute(select(Domain.name, Domain.epoch, Domain.taxonomy_version)).all()
            if [tuple(row) for row in fresh] in ([], [(DEFAULT, 0, 0)]):
                continue
        if rows:
            raise BackupRefused(f"the database is not empty: {table.name} has {rows} rows. Name an empty one")


def _restore_artifacts(manifest: Manifest, folder: Path, store: ArtifactStore) -> None:
    """Bring each to the store whole, unless it is there; nothing refers to it before the rows are there."""
    (store.local / WORKSHOP).mkdir(parents=True, exist_ok=True)
    for digest in manifest.artifacts:
        if _is_there(store, digest):
            continue
        made = store.local / WORKSHOP / f"restored-{uuid.uuid4().hex}"
        try:
            shutil.copytree(folder / ARTIFACTS / digest, made)
            for path in (*made.iterdir(), made):
                flush(path)
            verify(made, digest)
            store.publish(made)
        except ArtifactCorrupt as error:
            raise BackupRefused(f"artifact {digest[:12]} of the backup is damaged: {error}") from error
        except ArtifactUnavailable as error:
            raise BackupRefused(f"artifact {digest[:12]} cannot be brought to its store: {error}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _is_there(store: ArtifactStore, digest: str) -> bool:
    # What this machine has of it says nothing about the store.
    try:
        return store.holds(digest) and is_whole(store.fetch(digest), digest)
    except (ArtifactCorrupt, OSError):
        return False


def _fill(connection: Connection, table: Table, manifest: Manifest, folder: Path) -> None:
    for page in _pages(_rows(table, manifest, folder)):
        connection.execute(insert(table), page)


def _rows(table: Table, manifest: Manifest, folder: Path) -> Iterator[dict[str, Any]]:
    columns = manifest.tables[table.name].columns
    return read_rows(table_path(folder, table.name), table, columns)


def _pages(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    rows = iter(rows)
    while page := list(islice(rows, PAGE)):
        yield page


def _compare(connection: Connection, table: Table, manifest: Manifest, folder: Path) -> None:
    """Read every row back by its key and hold it against the backup's."""
    tolerance = FLOAT_TOLERANCE.get(connection.dialect.name, 0.0)
    keys = list(table.primary_key.columns)
    count = 0
    for page in _pages(_rows(table, manifest, folder)):
        wanted = {tuple(row[key.name] for key in keys): row for row in page}
        among = keys[0].in_([key[0] for key in wanted]) if len(keys) == 1 else tuple_(*keys).in_(list(wanted))
        found = connection.execute(select(table).where(among)).mappings().all()
        if len(found) != len(page) or not all(
            _same(row, wanted[tuple(row[key.name] for key in keys)], tolerance) for row in found
        ):
            raise BackupRefused(f"{table.name} was not restored as it was: nothing was kept")
        count += len(page)
    stored = connection.execute(select(func.count()).select_from(table)).scalar_one()
    if not count == stored == manifest.tables[table.name].rows:
        raise BackupRefused(f"{table.name} has {stored} rows instead of {manifest.tables[table.name].rows}")


def _same(row: RowMapping, wanted: Mapping[str, Any], tolerance: float) -> bool:
    """Whether each column holds what it should; numbers to the precision that this kind of database keeps."""
    return all(
        value == wanted[name]
        or (
            isinstance(value, float)
            and isinstance(wanted[name], float)
            and math.isclose(value, wanted[name], rel_tol=tolerance)
        )
        for name, value in row.items()
    )


def _relocate(session: Session, store: ArtifactStore) -> None:
    """The path of an artifact is for people, and names a folder of the machine that it was trained on."""
    for version, digest in session.execute(select(ModelVersion.version, ModelVersion.artifact_digest)).all():
        path = store.location(digest)
        for table in (ModelVersion, TrainingBatch):
            name = table.version if table is ModelVersion else TrainingBatch.model_version
            session.execute(update(table).where(name == version).values(model_path=path))


def _forget_again(session: Session, stones: Sequence[Stone]) -> Forgotten:
    for stone in stones:
        tombstones.lay(session, stone, by="restore")
    if not (known := tombstones.listing(session)):
        return Forgotten()
    while folding.fold(session):
        pass
    return tombstones.replay(session, known)
