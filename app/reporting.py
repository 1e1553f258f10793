"""Tell the database what this process serves and what it could not load, and keep it for a start without one."""

import logging
import threading
from pathlib import Path

from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.intent.releases import DomainState, Release
from app.remembered import remember_release
from app.services import runs
from app.services import versions as version_service
from app.serving.follower import Follower
from app.serving.runtime import Runtime

logger = logging.getLogger(__name__)


class Reporter:
    """Takes reports without waiting, and writes them from a thread of its own: a busy database must delay no flip."""

    def __init__(self, work: UnitOfWork, runtime: Runtime, replica: str, last_known: Path) -> None:
        self.replica = replica
        self._work = work
        self._runtime = runtime
        self._last_known = last_known
        self._lock = threading.Lock()
        # The newest of each domain, and the versions that were found broken.
        self._due: dict[int, tuple[Release, str | None]] = {}
        self._broken: dict[int, str] = {}
        self._kept: dict[int, DomainState] = {}
        self._follower = Follower(self._write, every_seconds=1.0, name="reporter")

    def __call__(self, release: Release, error: str | None, corrupt: bool) -> None:
        """Take a report: a release that serves now, or why it does not. `corrupt`: its artifact will never load."""
        with self._lock:
            self._due[release.state.domain_id] = (release, error)
            if corrupt and error is not None and release.version_id is not None:
                self._broken[release.version_id] = error
        self._follower.nudge()

    def start(self) -> None:
        """Begin to write."""
        self._follower.start()

    def stop(self) -> None:
        """Write what is there, and take this process out of those that report: nobody must wait until it is missed."""
        self._follower.stop()
        try:
            self._work(runs.forget_replica, self.replica)
        except Exception as error:  # The database is away: silence says the same after a while.
            logger.info("the database was not told that this process ends: %s", type(error).__name__)

    def _write(self) -> bool:
        with self._lock:
            due, broken = self._due, self._broken
            self._due, self._broken = {}, {}
        try:
            for release, error in due.values():
                if error is None:
                    self._remember(release)
            if due or broken:
                self._work(self._tell, due, broken)
        except Exception:
            with self._lock:
                self._due = {**due, **self._due}
                self._broken = {**broken, **self._broken}
            raise
        return False

    def _tell(self, session: Session, due: dict[int, tuple[Release, str | None]], broken: dict[int, str]) -> None:
        for version_id, reason in sorted(broken.items()):
            version_service.mark_failed(session, version_id, reason)
        for domain_id, (release, error) in sorted(due.items()):
            loaded = self._runtime.find(release.state.name)
            serving = release if loaded is None else loaded.release
            runs.report_replica(
                session,
                self.replica,
                role="service",
                domain_id=domain_id,
                version_id=serving.version_id,
                epoch=serving.state.epoch,
                error=error,
            )

    def _remember(self, release: Release) -> None:
        domain_id = release.state.domain_id
        before = self._kept.get(domain_id)
        if before == release.state:
            return
        try:
            # The first one of a process is what the database says: a backup may have been restored since.
            remember_release(self._last_known, release, anew=before is None)
        except OSError as error:
            logger.warning("what is served cannot be kept for a start without the database: %s", error.strerror)
            return
        self._kept[domain_id] = release.state
