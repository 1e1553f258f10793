"""What every job is given."""

import os
import socket
import threading
from dataclasses import dataclass, field

from app.artifacts.opening import open_store
from app.artifacts.store import ArtifactStore
from app.db.session import UnitOfWork
from app.services.batches import OpeningRule
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class JobContext:
    """The settings, the database, and the name under which this process signs."""

    settings: Settings
    work: UnitOfWork
    rule: OpeningRule
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    # Set when the process is asked to stop: a job that runs long looks at it.
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def store(self) -> ArtifactStore:
        """Where artifacts come from and go to."""
        return open_store(self.settings)
