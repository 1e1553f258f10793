"""Artifacts in a folder: of this machine, or of a disk that all machines share. Nothing is copied to serve from it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.artifacts.store import DIGEST, WORKSHOP, ArtifactMissing, ArtifactUnavailable, is_whole
from app.scorers.artifact import ArtifactCorrupt, digest, read_manifest


class FolderStore:
    """One folder, each artifact under its digest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def local(self) -> Path:
        """The folder itself."""
        return self._root

    def location(self, digest: str) -> str:
        """The artifact's path."""
        return str(self._root / digest)

    def fetch(self, digest: str) -> Path:
        """The artifact where it lies. Its bytes are proved by who loads it."""
        folder = self._root / digest
        if not folder.exists():
            # A disk that is not mounted looks like this, and every version would be called broken.
            if not self._root.is_dir():
                raise ArtifactUnavailable("the folder of artifacts is not there")
            raise ArtifactMissing("its folder is not there")
        return folder

    def publish(self, folder: Path) -> str:
        """Rename a finished artifact to its digest."""
        return publish(folder, self._root)

    def holds(self, digest: str) -> bool:
        """Whether the folder is there."""
        return (self._root / digest).is_dir()

    def older_than(self, seconds: float) -> Mapping[str, str | None]:
        """By the time at which each folder was put there."""
        line = time.time() - seconds
        entries = sorted(self._root.iterdir()) if self._root.is_dir() else ()
        return {
            folder.name: _items_digest(folder)
            for folder in entries
            if DIGEST.fullmatch(folder.name) and folder.is_dir() and folder.stat().st_mtime < line
        }

    def remove(self, digest: str, *, unwanted: Callable[[], bool]) -> bool:
        """Out of the way first, then asked once more: a version that came meanwhile gets it back."""
        folder, away = self._root / digest, self._root / WORKSHOP / f"removed-{uuid.uuid4().hex}"
        if not folder.is_dir():
            return False
        away.parent.mkdir(exist_ok=True)
        folder.rename(away)
        if not unwanted():
            away.rename(folder)
            return False
        shutil.rmtree(away, ignore_errors=True)
        return True

    @contextmanager
    def held(self, *, alone: bool) -> Iterator[bool]:
        """Hold the folder. Who copies waits for who removes, never the other way round."""
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root, os.O_RDONLY)
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


def publish(folder: Path, root: Path) -> str:
    """Move a finished artifact to where it is served from: under its digest, whole or not at all."""
    name = digest(folder)
    target = root / name
    if target.exists():
        if is_whole(target, name):
            # It may have lain for long without a version: it must not be taken for left over before it gets one.
            os.utime(target)
            shutil.rmtree(folder, ignore_errors=True)
            return name
        # The same artifact was trained before and was damaged since: this one takes its place.
        (root / WORKSHOP).mkdir(exist_ok=True)
        target.rename(root / WORKSHOP / f"damaged-{uuid.uuid4().hex}")
    folder.rename(target)
    handle = os.open(root, os.O_RDONLY)
    try:
        # The name must survive a power cut before a version refers to it.
        os.fsync(handle)
    finally:
        os.close(handle)
    return name


def _items_digest(folder: Path) -> str | None:
    try:
        return read_manifest(folder).items_digest
    except (ArtifactCorrupt, OSError):
        return None
