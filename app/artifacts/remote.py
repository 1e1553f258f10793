"""Artifacts in an object store, reached through fsspec: proved when they arrive, and kept in a cache for a while.

An artifact is the objects `<digest>/<file>`. The manifest is written last: without it there is no artifact.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.artifacts.cache import ArtifactCache
from app.artifacts.store import DIGEST, ArtifactMissing, ArtifactUnavailable
from app.scorers.artifact import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    ArtifactCorrupt,
    Manifest,
    digest,
    parse_manifest,
    verify,
)

logger = logging.getLogger(__name__)

PIECE_BYTES = 8 << 20


class RemoteStore:
    """An fsspec file system under one root."""

    def __init__(self, filesystem: Any, root: str, *, url: str, cache: ArtifactCache) -> None:
        """`url` is shown to people: it must hold no secret."""
        self._files = filesystem
        self._root = root.rstrip("/")
        self._url = url.rstrip("/")
        self.cache = cache

    @property
    def local(self) -> Path:
        """The cache."""
        return self.cache.root

    def location(self, digest: str) -> str:
        """The artifact's URL."""
        return f"{self._url}/{digest}"

    def fetch(self, digest: str) -> Path:
        """From the cache, else from the store: each byte is proved before the folder has its name."""
        if (known := self.cache.find(digest)) is not None:
            return known
        # Once more when bytes are wrong: a transfer that broke must not be taken for a broken artifact.
        try:
            return self._download(digest)
        except ArtifactMissing:
            raise
        except ArtifactCorrupt as error:
            logger.warning("artifact %s arrived damaged and is read once more: %s", digest[:12], error)
            return self._download(digest)

    def _download(self, digest: str) -> Path:
        with self.cache.arriving() as folder:
            self._arrive(digest, folder)
            return self.cache.keep(folder, digest)

    def _arrive(self, digest: str, folder: Path) -> None:
        """Copy all of an artifact into an empty folder, and prove it."""
        manifest = self._manifest(digest)
        (folder / MANIFEST).write_bytes(manifest)
        for name, (size, _) in parse_manifest(manifest).files.items():
            self._receive(digest, name, size, folder / name)
        verify(folder, digest)

    def _manifest(self, digest: str) -> bytes:
        """The manifest's bytes, proved."""
        arrived = io.BytesIO()
        try:
            self._copy(digest, MANIFEST, MAX_MANIFEST_BYTES, arrived)
        except ArtifactMissing as error:
            raise ArtifactMissing("the store holds no artifact of this digest") from error
        if hashlib.sha256(arrived.getvalue()).hexdigest() != digest:
            raise ArtifactCorrupt("the manifest differs from the one that was registered")
        return arrived.getvalue()

    def _receive(self, digest: str, name: str, size: int, target: Path) -> None:
        with target.open("xb") as file:
            self._copy(digest, name, size, file)

    def _copy(self, digest: str, name: str, most: int, target: Any) -> None:
        """Copy an object, never more than one byte beyond what it should have: `verify` refuses it then."""
        path = self._path(digest, name)
        with self._answering(name):
            facts = self._files.info(path)
            if facts["type"] != "file":
                raise ArtifactMissing(f"{name} is missing")
            end = min(int(facts["size"]), most + 1)
            # Piece by piece: some file systems hold in memory what is read at once.
            for start in range(0, end, PIECE_BYTES):
                target.write(self._files.cat_file(path, start=start, end=min(end, start + PIECE_BYTES)))

    def publish(self, folder: Path) -> str:
        """Upload all files, the manifest last; the local folder becomes the cached copy."""
        name = digest(folder)
        manifest = verify(folder, name)
        if not self._is_whole(name):
            with self._answering(name):
                for file in manifest.files:
                    self._files.put_file(str(folder / file), self._path(name, file))
        # Written again where it was there: its time tells that it is not left over from long ago.
        with self._answering(name):
            self._files.pipe_file(self._path(name, MANIFEST), (folder / MANIFEST).read_bytes())
        self._check_arrived(name, manifest)
        self.cache.keep(folder, name)
        shutil.rmtree(folder, ignore_errors=True)
        return name

    def _is_whole(self, digest: str) -> bool:
        """Whether the store holds this very artifact: it was trained before, and may have been damaged since."""
        try:
            with self.cache.arriving() as folder:
                self._arrive(digest, folder)
        except ArtifactCorrupt:
            return False
        return True

    def _check_arrived(self, digest: str, manifest: Manifest) -> None:
        for name, (size, _) in manifest.files.items():
            with self._answering(name):
                found = int(self._files.info(self._path(digest, name))["size"])
            if found != size:
                raise ArtifactUnavailable(f"the store has {found} bytes of {name} instead of {size}")

    def holds(self, digest: str) -> bool:
        """Whether its manifest is there."""
        try:
            with self._answering(MANIFEST):
                self._files.info(self._path(digest, MANIFEST))
        except ArtifactMissing:
            return False
        return True

    def older_than(self, seconds: float) -> Mapping[str, str | None]:
        """By the time at which each manifest was written; one without a time is taken for new."""
        try:
            with self._answering(self._url):
                # Nothing may be remembered of an earlier listing.
                self._files.invalidate_cache()
                entries = [
                    str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(self._root, detail=False)
                ]
        except ArtifactMissing:
            return {}
        found: dict[str, str | None] = {}
        for name in sorted(entry for entry in entries if DIGEST.fullmatch(entry)):
            with suppress(ArtifactMissing):
                written = self._written_at(name)
                if written is not None and written < time.time() - seconds:
                    found[name] = self._items_digest(name)
        return found

    def _written_at(self, digest: str) -> float | None:
        with self._answering(MANIFEST):
            facts = self._files.info(self._path(digest, MANIFEST))
        for key in ("LastModified", "last_modified", "mtime", "created"):
            moment = facts.get(key)
            if isinstance(moment, datetime):
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            if isinstance(moment, int | float):
                return float(moment)
        return None

    def _items_digest(self, digest: str) -> str | None:
        try:
            return parse_manifest(self._manifest(digest)).items_digest
        except ArtifactCorrupt:
            return None

    def remove(self, digest: str, *, unwanted: Callable[[], bool]) -> bool:
        """The manifest first: from then on there is no such artifact."""
        if not unwanted():
            return False
        with self._answering(digest):
            self._files.invalidate_cache()
            paths = [str(path) for path in self._files.ls(f"{self._root}/{digest}", detail=False)]
            for path in sorted(paths, key=lambda path: not path.endswith(f"/{MANIFEST}")):
                self._files.rm_file(path)
        return True

    def held(self, *, alone: bool) -> AbstractContextManager[bool]:  # noqa: ARG002
        """Object stores have no locks: a backup tells of an artifact that was retired under its hands."""
        return nullcontext(True)

    def _path(self, digest: str, name: str) -> str:
        return f"{self._root}/{digest}/{name}"

    @contextmanager
    def _answering(self, name: str) -> Iterator[None]:
        """Tell what is missing from what is out of reach. The kind alone is told: messages may hold addresses."""
        try:
            yield
        except (ArtifactCorrupt, ArtifactUnavailable):
            raise
        except Exception as error:  # Every file system of fsspec has errors of its own.
            if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":
                raise ArtifactMissing(f"{name} is missing") from error
            raise ArtifactUnavailable(f"the artifact store does not answer: {type(error).__name__}") from error
