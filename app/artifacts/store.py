"""What every artifact store can do, and how it says that an artifact is missing, wrong, or out of reach for now."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from app.scorers.artifact import ArtifactCorrupt, verify

# Where trainers work, and what is moved out of the way: beside the artifacts, so that moving one is a rename.
WORKSHOP = ".workshop"
DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactMissing(ArtifactCorrupt):
    """The store answers, and holds no artifact of this digest."""


class ArtifactUnavailable(OSError):
    """The store does not answer, or not in time: a fact about this moment, not about the artifact."""


class ArtifactStore(Protocol):
    """Artifacts by their digest. What was written never changes, and a second writer of the same does no harm."""

    @property
    def local(self) -> Path:
        """The folder of this machine in which artifacts lie, or are kept for a while; `WORKSHOP` is in it."""

    def location(self, digest: str) -> str:
        """Where an artifact lies, for people."""

    def fetch(self, digest: str) -> Path:
        """A folder of this machine with the artifact.

        Raises:
            ArtifactMissing, ArtifactCorrupt: what the store holds is not it; another try would not help.
            ArtifactUnavailable: another try may help.
        """

    def publish(self, folder: Path) -> str:
        """Move a finished artifact into the store, whole or not at all, and return its digest.

        Raises:
            ArtifactUnavailable: the store did not take it.
        """

    def holds(self, digest: str) -> bool:
        """Whether an artifact of this digest lies in the store; its bytes are not read.

        Raises:
            ArtifactUnavailable: the store does not answer.
        """

    def older_than(self, seconds: float) -> Mapping[str, str | None]:
        """The artifacts that have lain for so long, by digest, with the digest of the items of their batch.

        Raises:
            ArtifactUnavailable: the store does not answer.
        """

    def remove(self, digest: str, *, unwanted: Callable[[], bool]) -> bool:
        """Remove an artifact; `unwanted` is asked once more at the last moment. Whether it is gone.

        Raises:
            ArtifactUnavailable: the store does not answer.
        """

    def held(self, *, alone: bool) -> AbstractContextManager[bool]:
        """Many may copy at once, who removes is alone, where the store has locks. False: it is taken by others."""


def is_whole(folder: Path, digest: str) -> bool:
    """Whether the folder holds exactly the artifact of this digest."""
    try:
        verify(folder, digest)
    except (ArtifactCorrupt, OSError):
        return False
    return True
