"""Follow what the domains are to serve: notice a flip within a fraction of a second and swap to it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.intent.releases import DomainState, Release
from app.serving.runtime import LoadFailed, Runtime

logger = logging.getLogger(__name__)

# A version that cannot be loaded is tried again so seldom: a broken artifact must not become a storm of reads.
RETRY_SECONDS = 30.0
# One that was only out of reach sooner at first, and then each time after twice as long.
FIRST_RETRY_SECONDS = 1.0
REPORT_SECONDS = 5.0
# While flips are announced, polls are only the net below. A flip whose announcement was lost is seen within a second.
CALM_FACTOR = 3.0
LONGEST_CALM_SECONDS = 0.6
# What was overtaken while it loaded is served until the next is loaded, if it was the wanted one so lately: half of the
# second after which nobody may be answered by what is over. Otherwise flips that come faster than a load takes would
# keep a service on its old version for as long as they come.
OVERTAKEN_SECONDS = 0.5
# How long a start, and a request for a domain that is not known yet, wait for models that load.
START_PATIENCE_SECONDS = 60.0
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Failed:
    """A release that could not be loaded, when it was tried last, and after how long it is tried again."""

    release: Release
    moment: float
    pause_seconds: float


@dataclass(slots=True)
class Load:
    """A release that a thread loads, and when it was last seen to be the wanted one."""

    release: Release
    wanted_at: float
    thread: threading.Thread
    finished: bool = False


class Watcher:
    """Polls the wanted states on its own thread, and loads each domain's new version on a thread of that load.

    A poll that fails changes nothing: the last version serves on. So does a load, however long it takes.
    `states` and `release` read the database; `report(release, error, corrupt)` takes what became of a release.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        states: Callable[[], Sequence[DomainState]],
        release: Callable[[int], Release],
        report: Callable[[Release, str | None, bool], None],
        poll_seconds: float,
        is_calm: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_calm`: whether flips are announced by `nudge`, too."""
        self._runtime = runtime
        self._states = states
        self._release = release
        self._report = report
        self._poll_seconds = poll_seconds
        self._is_calm = is_calm
        self._failed: dict[str, Failed] = {}
        self._errors: dict[str, str] = {}
        self._reported: dict[str, float] = {}
        self._loading: dict[str, Load] = {}
        self._looking = threading.Lock()
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.seen_at: float | None = None

    @property
    def errors(self) -> dict[str, str]:
        """Why a domain does not serve what it should, by domain."""
        return dict(self._errors)

    def start(self, remembered: Callable[[], Sequence[Release]] | None = None) -> None:
        """Look once, so that the first request finds the models, and then from a thread.

        `remembered`: what to serve while the database does not answer, from then on until it does.

        Raises:
            whatever the database raises, where nothing is remembered.
        """
        try:
            self.look(patience_seconds=START_PATIENCE_SECONDS)
        except Exception as error:
            releases = remembered() if remembered is not None else ()
            if not releases:
                raise
            logger.warning("the database does not answer (%s): what was served last serves", type(error).__name__)
            for release in releases:
                self._swap(release, known=True)
        for load in list(self._loading.values()):
            if not load.finished and self._runtime.find(load.release.state.name) is None:
                # A store that is slow: the domain is there, and its questions are logged meanwhile.
                self._errors[load.release.state.name] = "its version is still being loaded"
                self._runtime.answer_without_model(load.release)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A load that is under way is left to its end, or to that of the process."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def nudge(self) -> None:
        """There may be a flip: look at once."""
        self._wake.set()

    def look(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Compare what is wanted with what is loaded, and swap where they differ; wait so long for what must load."""
        with self._looking:
            states = self._states()
            self.seen_at = time.monotonic()
            for state in states:
                self._compare(state)
            loading = [load.thread for load in self._loading.values()]
        deadline = time.monotonic() + patience_seconds
        for thread in loading:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _compare(self, state: DomainState) -> None:
        loaded = self._runtime.find(state.name)
        if loaded is not None and loaded.release.state == state:
            self._errors.pop(state.name, None)
            self._say(loaded.release, None, corrupt=False, at_once=False)
        elif loaded is not None and state.epoch < loaded.release.state.epoch:
            # A standby that lags, or a database that was put back: never back by itself.
            error = f"the database says epoch {state.epoch}, and this process serves epoch {loaded.release.state.epoch}"
            if self._errors.get(state.name) != error:
                logger.error("domain %s: %s; restart the services if a backup was restored", state.name, error)
            self._errors[state.name] = error
            self._say(loaded.release, error, corrupt=False, at_once=False)
        elif (failed := self._failed_lately(state)) is not None:
            self._say(failed.release, self._errors.get(state.name), corrupt=False, at_once=False)
        else:
            if loaded is not None and self._is_loading(state.name):
                # However long it takes: who says nothing counts as gone.
                self._say(loaded.release, None, corrupt=False, at_once=False)
            self._follow(state)

    def _is_loading(self, name: str) -> bool:
        if name in self._loading and self._loading[name].finished:
            del self._loading[name]
        return name in self._loading

    def _follow(self, state: DomainState) -> None:
        """Swap to what is in memory at once, also while another loads: it may be the way back. Load one at a time."""
        load = self._loading[state.name] if self._is_loading(state.name) else None
        if load is not None and load.release.state == state:
            load.wanted_at = time.monotonic()
            return
        release = self._release(state.domain_id)
        if self._runtime.has(release):
            self._swap(release)
        elif load is None:
            thread = threading.Thread(target=self._load, args=(release,), name=f"load {state.name}", daemon=True)
            self._loading[state.name] = Load(release, time.monotonic(), thread)
            thread.start()

    def _load(self, release: Release) -> None:
        try:
            self._swap(release)
        except Exception as error:  # The edge of the thread: the next look begins again.
            logger.warning("domain %s was not swapped: %s", release.state.name, type(error).__name__)
        finally:
            load = self._loading.get(release.state.name)
            if load is not None and load.thread is threading.current_thread():
                # Said by hand: whoever is woken here finds the thread alive for a moment, and would wait a whole poll.
                load.finished = True
            self._wake.set()

    def _may_serve(self, release: Release) -> bool:
        """Whether what was loaded is wanted, or was a moment ago; or the database is away, and nobody knows."""
        try:
            if any(state == release.state for state in self._states()):
                return True
        except Exception:  # Whatever the database raises: what was wanted last is served.
            return True
        with suppress(Exception):
            if self._runtime.has(self._release(release.state.domain_id)):
                return False
        load = self._loading.get(release.state.name)
        return load is not None and time.monotonic() - load.wanted_at < OVERTAKEN_SECONDS

    def _swap(self, release: Release, *, known: bool = False) -> None:
        """`known`: what is wanted was read a moment ago, or cannot be read."""
        state, known = release.state, known or self._runtime.has(release)
        try:
            swapped = self._runtime.swap(release, may_serve=lambda: known or self._may_serve(release))
        except LoadFailed as error:
            self._note(release, error)
            return
        self._failed.pop(state.name, None)
        if swapped:
            self._errors.pop(state.name, None)
            logger.info("domain %s serves %s, epoch %d", state.name, release.version, state.epoch)
            self._say(release, None, corrupt=False, at_once=True)

    def _note(self, release: Release, error: LoadFailed) -> None:
        name, serving = release.state.name, self._runtime.find(release.state.name)
        logger.warning("domain %s keeps its version: %s", name, error)
        self._say(release, str(error), corrupt=error.corrupt, at_once=True)
        if serving is not None and serving.release.state.epoch > release.state.epoch:
            # A fact about a version that is over by now; this process serves what it should.
            self._say(serving.release, None, corrupt=False, at_once=True)
            return
        if serving is None:
            self._runtime.answer_without_model(release)
        self._failed[name] = Failed(release, time.monotonic(), self._pause(release, error))
        self._errors[name] = str(error)

    def _pause(self, release: Release, error: LoadFailed) -> float:
        if error.corrupt:
            return RETRY_SECONDS
        before = self._failed.get(release.state.name)
        doubled = before.pause_seconds * 2 if before is not None and before.release.state == release.state else 0.0
        return min(RETRY_SECONDS, max(FIRST_RETRY_SECONDS, doubled))

    def _failed_lately(self, state: DomainState) -> Failed | None:
        """The release that could not be loaded a moment ago and is still the wanted one."""
        failed = self._failed.get(state.name)
        if failed is None or failed.release.state != state:
            return None
        pause = min(failed.pause_seconds, RETRY_SECONDS)
        return failed if time.monotonic() - failed.moment < pause else None

    def _say(self, release: Release, error: str | None, *, corrupt: bool, at_once: bool) -> None:
        name = release.state.name
        due = time.monotonic() - self._reported.get(name, float("-inf")) >= REPORT_SECONDS
        if at_once or due:
            self._reported[name] = time.monotonic()
            self._report(release, error, corrupt)

    def _run(self) -> None:
        told = False
        while not self._stopping:
            calm = min(self._poll_seconds * CALM_FACTOR, max(self._poll_seconds, LONGEST_CALM_SECONDS))
            self._wake.wait(calm if self._is_calm() else self._poll_seconds)
            self._wake.clear()
            if self._stopping:
                return
            try:
                self.look(patience_seconds=0.0)
                told = False
            except Exception as error:  # The edge of the thread: the database may be away, and the models serve on.
                if not told:
                    logger.warning("cannot see what is to be served: %s", type(error).__name__)
                told = True
