"""Follow what the domains are to serve: notice a flip within a fraction of a second and swap to it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from app.intent.releases import DomainState, Release
from app.serving.runtime import LoadFailed, Runtime

logger = logging.getLogger(__name__)

# A version that cannot be loaded is tried again so seldom: a broken artifact must not become a storm of reads.
RETRY_SECONDS = 30.0
REPORT_SECONDS = 5.0


class Watcher:
    """Polls the wanted states on its own thread. A poll that fails changes nothing: the last version serves on.

    `states` and `release` read the database, `report(release, error, corrupt)` tells it what this process serves.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        states: Callable[[], Sequence[DomainState]],
        release: Callable[[int], Release],
        report: Callable[[Release, str | None, bool], None],
        poll_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._states = states
        self._release = release
        self._report = report
        self._poll_seconds = poll_seconds
        self._failed: dict[str, tuple[Release, float]] = {}
        self._errors: dict[str, str] = {}
        self._reported: dict[str, float] = {}
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.seen_at: float | None = None

    @property
    def errors(self) -> dict[str, str]:
        """Why a domain does not serve what it should, by domain."""
        return dict(self._errors)

    def start(self) -> None:
        """Look once, so that the first request finds the models, and then from a thread."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def look(self) -> None:
        """Compare what is wanted with what is loaded, and swap where they differ."""
        with self._looking:
            states = self._states()
            self.seen_at = time.monotonic()
            for state in states:
                loaded = self._runtime.find(state.name)
                if loaded is not None and loaded.release.state == state:
                    self._errors.pop(state.name, None)
                    self._say(loaded.release, None, corrupt=False, at_once=False)
                elif (failed := self._failed_lately(state)) is not None:
                    self._say(failed, self._errors.get(state.name), corrupt=False, at_once=False)
                else:
                    self._swap(state)

    def _swap(self, state: DomainState) -> None:
        release = self._release(state.domain_id)
        try:
            self._runtime.swap(release)
        except LoadFailed as error:
            logger.warning("domain %s keeps its version: %s", state.name, error)
            if self._runtime.find(state.name) is None:
                self._runtime.answer_without_model(release)
            self._failed[state.name] = (release, time.monotonic())
            self._errors[state.name] = str(error)
            self._say(release, str(error), corrupt=error.corrupt, at_once=True)
            return
        self._failed.pop(state.name, None)
        self._errors.pop(state.name, None)
        logger.info("domain %s serves %s, epoch %d", state.name, release.version, release.state.epoch)
        self._say(release, None, corrupt=False, at_once=True)

    def _failed_lately(self, state: DomainState) -> Release | None:
        """The release that could not be loaded a moment ago and is still the wanted one."""
        release, moment = self._failed.get(state.name, (None, 0.0))
        if release is None or release.state != state or time.monotonic() - moment >= RETRY_SECONDS:
            return None
        return release

    def _say(self, release: Release, error: str | None, *, corrupt: bool, at_once: bool) -> None:
        name = release.state.name
        due = time.monotonic() - self._reported.get(name, float("-inf")) >= REPORT_SECONDS
        if at_once or due:
            self._reported[name] = time.monotonic()
            self._report(release, error, corrupt)

    def _run(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.look()
            except Exception as error:  # The edge of the thread: the database may be away, and the models serve on.
                logger.warning("cannot see what is to be served: %s", type(error).__name__)
