"""The artifacts that a machine keeps of an object store: whole or not at all, and no more bytes than it may."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.artifacts.store import DIGEST, WORKSHOP, is_whole

# What was used so lately may be read at this moment, by another process too: it is kept, whatever the bound says.
READING_SECONDS = 600.0
# A download that nobody finished in this time belongs to a process that is gone.
ABANDONED_SECONDS = 24 * 3600.0
PARTIAL = "partial-"


class ArtifactCache:
    """A folder of artifacts by digest; the processes of a machine share it. The time of a folder is its last use."""

    def __init__(self, root: Path, *, max_bytes: int, needed: Callable[[], Collection[str]]) -> None:
        """`needed`: the digests that are never let go."""
        self.root = root
        self.needed = needed
        self._max_bytes = max_bytes

    def find(self, digest: str) -> Path | None:
        """The artifact, if it is here and not a bit of it has changed; a damaged one is let go."""
        folder = self.root / digest
        if not folder.is_dir():
            return None
        if not is_whole(folder, digest):
            self._drop(folder)
            return None
        with suppress(OSError):
            os.utime(folder)
        return folder

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """An empty folder to download into; gone with the block unless `keep` took it."""
        folder = self.root / WORKSHOP / f"{PARTIAL}{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, arrived: Path, digest: str) -> Path:
        """Give a proven folder its name, and let go of what was used longest ago."""
        target = self.root / digest
        try:
            arrived.rename(target)
            os.utime(target)
        except OSError:
            # Another process of this machine was faster, with the same bytes.
            if not is_whole(target, digest):
                raise
        self.trim()
        return target

    def trim(self) -> None:
        """Let go of what was used longest ago until the rest is within the bound, and of downloads left behind."""
        now, kept = time.time(), self.needed()
        for partial in (self.root / WORKSHOP).glob(f"{PARTIAL}*"):
            with suppress(OSError):
                if partial.stat().st_mtime < now - ABANDONED_SECONDS:
                    shutil.rmtree(partial, ignore_errors=True)
        found = sorted(self._artifacts())
        total = sum(size for _, size, _ in found)
        for used_at, size, folder in found:
            if total <= self._max_bytes:
                return
            if folder.name not in kept and used_at < now - READING_SECONDS:
                self._drop(folder)
                total -= size

    def _artifacts(self) -> Iterator[tuple[float, int, Path]]:
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            if DIGEST.fullmatch(folder.name):
                with suppress(OSError):
                    size = sum(path.lstat().st_size for path in folder.iterdir())
                    yield folder.stat().st_mtime, size, folder

    def _drop(self, folder: Path) -> None:
        """Out of the way in one step: nobody finds half of it."""
        away = self.root / WORKSHOP / f"{PARTIAL}{uuid.uuid4().hex}"
        away.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)
