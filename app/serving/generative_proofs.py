"""See that the generative process has what the domains name, and that it answers there as it was trained to."""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.artifacts.store import ArtifactUnavailable
from app.intent.releases import Release
from app.scorers.artifact import ArtifactUnusable, check_reference_answers, verify
from app.scorers.generative import GenerativeClient, GenerativeScorer
from app.scorers.generative_wire import GenerativeUnavailable
from app.serving.generative import Proven
from app.serving.generative_keeper import State, read_state
from app.serving.runtime import Loaded

logger = logging.getLogger(__name__)

FORM: Final = "generative"
LOOK_SECONDS = 0.25
# An artifact that cannot be asked is tried again so seldom: its base may have come meanwhile.
RETRY_SECONDS = 30.0
LOAD_SECONDS = 600.0

Status = Literal["starting", "ready", "broken"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of an artifact in the process of this pid."""

    pid: int
    moment: float
    proven: Proven | None
    error: str | None


class Proofs:
    """What one service process knows of the generative process. A thread looks; questions read what it saw."""

    def __init__(
        self,
        folder: Path,
        client: GenerativeClient,
        *,
        wanted: Callable[[], Sequence[Release]],
        fetch: Callable[[str], Path],
        look_seconds: float = LOOK_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """
        Args:
            folder: of the process's keeper.
            wanted: what the domains are served with now.
            fetch: an artifact's folder on this machine, by its digest.
        """
        self._folder = folder
        self._client = client
        self._wanted = wanted
        self._fetch = fetch
        self._look_seconds = look_seconds
        self._retry_seconds = retry_seconds
        self._state = State("starting")
        self._outcomes: Mapping[str, _Outcome] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="generative-proofs", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a proof that is under way is left to the end of the process."""
        self._stopping.set()

    def proven(self, loaded: Loaded) -> Proven | str:
        """The artifact of a release, ready to be asked; or one word for why it cannot be."""
        if self._state.status != "ready":
            return self._state.status
        outcome = self._outcomes.get(loaded.release.generative_digest or "")
        if outcome is None or outcome.pid != self._state.pid:
            return "starting"
        if outcome.proven is None or outcome.proven.label_ids - loaded.release.paths.keys():
            return "broken"
        return outcome.proven

    def standing(self) -> tuple[Status, str | None]:
        """How the tier stands, and a sentence where not all is well."""
        if self._state.status != "ready":
            return self._state.status, self._state.reason
        starting = None
        for release in self._wanted():
            if (digest := release.generative_digest) is None:
                continue
            version = release.generative_version
            outcome = self._outcomes.get(digest)
            if outcome is None or outcome.pid != self._state.pid:
                starting = f"version {version} is being loaded and proved"
            elif outcome.error is not None:
                return "broken", f"version {version} cannot be asked: {outcome.error}"
            elif outcome.proven is not None and outcome.proven.label_ids - release.paths.keys():
                return "broken", f"version {version} names labels that its domain never had"
        return ("starting", starting) if starting else ("ready", None)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception as error:  # The edge of the thread: questions go on without the tier.
                logger.warning("the generative tier will be looked at again: %s", type(error).__name__)
            self._stopping.wait(self._look_seconds)

    def look(self) -> None:
        """Read how the process stands, and prove what is wanted and was not proved in it."""
        self._state = read_state(self._folder)
        if self._state.status != "ready" or self._state.pid is None:
            return
        wanted = {release.generative_digest for release in self._wanted()} - {None}
        self._outcomes = {digest: outcome for digest, outcome in self._outcomes.items() if digest in wanted}
        for digest in sorted(str(each) for each in wanted):
            if self._stopping.is_set():
                return
            if self._is_due(self._outcomes.get(digest), self._state.pid):
                outcome = self._outcome(digest, self._state.pid)
                self._outcomes = {**self._outcomes, digest: outcome}
                if outcome.error is not None:
                    logger.warning("generative artifact %s: %s", digest[:12], outcome.error)

    def _is_due(self, known: _Outcome | None, pid: int) -> bool:
        if known is None or known.pid != pid:
            return True
        return known.error is not None and time.monotonic() - known.moment > self._retry_seconds

    def _outcome(self, digest: str, pid: int) -> _Outcome:
        try:
            proven = self._prove(digest, pid)
        except (ArtifactUnusable, ArtifactUnavailable, GenerativeUnavailable) as error:
            return _Outcome(pid, time.monotonic(), None, str(error))
        except Exception as error:  # What a file of the right bytes still breaks must not stop the other domains.
            return _Outcome(pid, time.monotonic(), None, f"{type(error).__name__} while it was loaded")
        return _Outcome(pid, time.monotonic(), proven, None)

    def _prove(self, digest: str, pid: int) -> Proven:
        """Digest first, then loading, then the reference answers: "loaded" is not "correct"."""
        folder = self._fetch(digest)
        manifest = verify(folder, digest)
        if manifest.scorer != FORM:
            raise ArtifactUnusable(f"its form is {manifest.scorer}, not {FORM}")
        # Of several workers one proves: reference answers take the process a while.
        with self._alone():
            mark = self._folder / f"proved-{pid}-{digest}"
            if not mark.exists():
                self._client.judge(folder, [], deadline_seconds=LOAD_SECONDS)
                check_reference_answers(GenerativeScorer(self._client, folder, manifest.label_ids), folder)
                mark.touch()
        return Proven(folder, frozenset(manifest.label_ids))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        handle = os.open(self._folder / "proving", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
