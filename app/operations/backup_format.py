"""The form of a backup: JSON lines that any database can take in, and a manifest by which all of it is proved."""

import gzip
import hashlib
import hmac
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Date, Table

from app.db.types import UtcDateTime
from app.errors import SetupError
from app.scorers.artifact import canonical_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TABLES = "tables"
ARTIFACTS = "artifacts"
SECRET = "secret.key"  # noqa: S105 (the name of the file)
MOST_MANIFEST_BYTES = 64 * 2**20


class BackupRefused(SetupError):
    """The backup cannot be made or used."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One table in a backup: how many rows, of which columns, in their order."""

    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a domain served when the backup was made."""

    version: str | None
    artifact_digest: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. `files` names every other file with its size and SHA-256."""

    created_at: datetime
    release: str
    schema_revision: str
    database: str
    tables: Mapping[str, TableFile]
    active: Mapping[str, Pointer]
    artifacts: tuple[str, ...]
    # Digest and version of artifacts that were not there, or not what was registered.
    missing_artifacts: Mapping[str, str]
    # By which it is told whether the hashes in here were made with an installation's secret.
    secret_fingerprint: str
    has_secret: bool
    files: Mapping[str, tuple[int, str]]


def fingerprint(secret: bytes) -> str:
    """A short name of a secret that does not give it away."""
    return hmac.new(secret, b"backup", hashlib.sha256).hexdigest()[:16]


def table_path(folder: Path, name: str) -> Path:
    """The file that holds a table."""
    return folder / TABLES / f"{name}.jsonl.gz"


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> int:
    """Write one line a row, a list of its values in the order of the columns; return how many."""
    count = 0
    # Without the time of day in its head: equal rows give equal bytes.
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
        out = io.BufferedWriter(packed, 1 << 18)
        for row in rows:
            out.write(json.dumps(list(row), ensure_ascii=False, allow_nan=False, default=_plain).encode() + b"\n")
            count += 1
        out.flush()
        out.detach()
    return count


def _plain(value: object) -> str:
    if isinstance(value, date):  # a moment is one, too
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} was about to be written into a backup")


def read_rows(path: Path, table: Table, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table's file as values that the database takes.

    Raises:
        BackupRefused: a line is no row of this table.
    """
    readers = [(name, _reader(table, name)) for name in columns]
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield {name: read(value) for (name, read), value in zip(readers, json.loads(line), strict=True)}
    except (ValueError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise BackupRefused(f"{path.name} does not hold rows of {table.name}") from error


def _reader(table: Table, name: str) -> Any:
    column = table.columns[name]
    if isinstance(column.type, UtcDateTime):
        return lambda value: None if value is None else datetime.fromisoformat(value)
    if isinstance(column.type, Date):
        return lambda value: None if value is None else date.fromisoformat(value)
    return lambda value: value


def seal(folder: Path, facts: Mapping[str, Any]) -> Manifest:
    """Write the manifest over every file of the folder, last of all, and flush everything to the disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): (path.stat().st_size, _sha256(path)) for path in paths}
    manifest = Manifest(**facts, files=files)
    document = json.loads(json.dumps(asdict(manifest), default=_plain)) | {"format_version": FORMAT_VERSION}
    document["digest"] = hashlib.sha256(canonical_json(document)).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    for path in [*(path for path in folder.rglob("*")), folder]:
        flush(path)
    return manifest


def prove(folder: Path) -> Manifest:
    """The manifest of a backup that is whole: not a bit of it differs from what was written.

    Raises:
        BackupRefused: it is none, it is incomplete, or it was changed.
    """
    manifest = _read_manifest(folder)
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    if missing := sorted(set(manifest.files) - present):
        raise BackupRefused(f"the backup is incomplete: {missing[0]} is missing")
    if surplus := sorted(present - set(manifest.files)):
        raise BackupRefused(f"{surplus[0]} does not belong to the backup")
    for name, (size, sha256) in manifest.files.items():
        path = folder / name
        if path.is_symlink() or path.stat().st_size != size or _sha256(path) != sha256:
            raise BackupRefused(f"the backup was changed or damaged: {name} is not what was written")
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BackupRefused(f"{folder} holds no finished backup: it has no {MANIFEST}")
    if path.stat().st_size > MOST_MANIFEST_BYTES:
        raise BackupRefused(f"{path} is too large to be a manifest")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        digest = document.pop("digest")
        if hashlib.sha256(canonical_json(document)).hexdigest() != digest:
            raise BackupRefused(f"the backup was changed or damaged: {MANIFEST} is not what was written")
        if (version := document.pop("format_version")) != FORMAT_VERSION:
            raise BackupRefused(f"the backup has format {version}; this release reads {FORMAT_VERSION}")
        return _manifest(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackupRefused(f"{path} is no manifest of a backup") from error


def _manifest(document: dict[str, Any]) -> Manifest:
    return Manifest(
        **document
        | {
            "created_at": datetime.fromisoformat(document["created_at"]),
            "tables": {
                name: TableFile(int(table["rows"]), tuple(table["columns"]))
                for name, table in document["tables"].items()
            },
            "active": {domain: Pointer(**pointer) for domain, pointer in document["active"].items()},
            "artifacts": tuple(document["artifacts"]),
            "files": {name: (int(size), str(sha256)) for name, (size, sha256) in document["files"].items()},
        }
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """See a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
