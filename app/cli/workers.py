"""Several processes behind one port: start them, start again what died, replace them one by one, stop them in order."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.api.accepting import Shares
from app.errors import SetupError
from app.generative import keeper_of
from app.settings import Settings

logger = logging.getLogger(__name__)

# Set for the children of `up`, and of what looks after workers: they end with it.
UNDER_UP: Final = "INTENTLOOP_UNDER_UP"
# What a worker is told by the process that started it.
LISTENER: Final = "INTENTLOOP_WORKER_LISTENER"
READY: Final = "INTENTLOOP_WORKER_READY"
FIGURES: Final = "INTENTLOOP_WORKER_FIGURES"
PLACE: Final = "INTENTLOOP_WORKER_PLACE"
GENERATIVE: Final = "INTENTLOOP_WORKER_GENERATIVE"
SHARES: Final = "connections"
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LONGEST_PAUSE_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.1


@dataclass(slots=True)
class Worker:
    """One process, and the end of a pipe on which it says that it accepts."""

    process: subprocess.Popen[bytes]
    said: int
    ready: bool = False

    def look(self) -> None:
        """Hear whether it accepts by now."""
        if not self.ready and select.select([self.said], [], [], 0)[0]:
            self.ready = os.read(self.said, 1) == b"1"

    @property
    def status(self) -> int | None:
        """Its exit status, once it ended."""
        return self.process.poll()

    @property
    def serves(self) -> bool:
        """Whether it accepts, and lives."""
        return self.ready and self.status is None


class Workers:
    """The processes of one service. All of them accept from one socket, which outlives each of them."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._workers: list[Worker] = []
        self._figures = tempfile.TemporaryDirectory(prefix="intentloop-workers-")
        Shares.make(Path(self._figures.name) / SHARES, settings.workers)
        # One for all workers, who find it by its folder.
        self._keeper = keeper_of(settings) if settings.generative else None
        self._stopping = False
        self._replacing = False
        self._begun = False
        # Of starts that failed one after another: the pause before the next one grows with them.
        self._failed = 0
        self._try_again_at = 0.0

    def run(self) -> None:
        """Until SIGTERM or SIGINT; SIGHUP replaces the workers one by one, each when the next one accepts.

        Raises:
            SetupError: no worker could start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._replace)
        if self._keeper is not None:
            self._keeper.start()
        try:
            self._workers = [self._start(place) for place in range(self._settings.workers)]
            while not self._stopping:
                self._look_after()
                if self._replacing:
                    self._replacing = False
                    self._replace_each()
                time.sleep(LOOK_SECONDS)
        finally:
            self._end()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _replace(self, *_: object) -> None:
        self._replacing = True

    def _start(self, place: int) -> Worker:
        said, says = os.pipe()
        threads = str(self._settings.threads_each)
        # The pipe that nobody writes to ends with this process, however it ends, and the worker with the pipe.
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"],
            stdin=subprocess.PIPE,
            pass_fds=(self._listener.fileno(), says),
            env={
                **os.environ,
                **dict.fromkeys(THREADS, threads),
                UNDER_UP: "1",
                LISTENER: str(self._listener.fileno()),
                READY: str(says),
                FIGURES: self._figures.name,
                PLACE: str(place),
                "INTENTLOOP_WORKERS": str(self._settings.workers),
                "INTENTLOOP_HOST": self._settings.host,
                **({GENERATIVE: str(self._keeper.folder)} if self._keeper is not None else {}),
            },
            start_new_session=True,
        )
        os.close(says)
        return Worker(process, said)

    def _look_after(self) -> None:
        for place, worker in enumerate(self._workers):
            worker.look()
            if worker.status is None:
                self._failed = 0 if worker.ready else self._failed
                continue
            if self._stopping:
                return
            # What stops one worker at the start stops each; later it may be an outage, and the others still answer.
            if not worker.ready and not (self._begun and any(other.serves for other in self._workers)):
                raise SetupError(f"a worker ended with status {worker.status} before it could serve")
            if time.monotonic() < self._try_again_at:
                continue
            logger.error("worker %d ended with status %s; it is started again", worker.process.pid, worker.status)
            self._failed = 0 if worker.ready else self._failed + 1
            self._try_again_at = time.monotonic() + min(LONGEST_PAUSE_SECONDS, 2.0**self._failed - 1)
            _forget(worker)
            self._workers[place] = self._start(place)
        self._begun = self._begun or all(worker.serves for worker in self._workers)

    def _replace_each(self) -> None:
        logger.info("the workers are replaced, one by one")
        for place, old in enumerate(list(self._workers)):
            new = self._start(place)
            while not new.ready and new.status is None and not self._stopping:
                new.look()
                time.sleep(LOOK_SECONDS)
            if not new.ready:
                new.process.kill()
                _forget(new)
                logger.error("a new worker could not start; those that are there go on")
                return
            self._workers[place] = new
            old.process.terminate()
            self._wait(old)

    def _end(self) -> None:
        # Nothing new is accepted once the last worker has closed it, and this process has.
        self._listener.close()
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            self._wait(worker)
        if self._keeper is not None:
            self._keeper.stop()
        self._figures.cleanup()

    def _wait(self, worker: Worker) -> None:
        seconds = self._settings.drain_seconds + self._settings.grace_seconds + 15
        try:
            worker.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            logger.error("worker %d did not stop and is killed", worker.process.pid)
            worker.process.kill()
        _forget(worker)


def _forget(worker: Worker) -> None:
    worker.process.wait()
    os.close(worker.said)
    if worker.process.stdin is not None:
        worker.process.stdin.close()


@dataclass(frozen=True, slots=True)
class Told:
    """What this process was told, where it is a worker."""

    listener: socket.socket
    ready: int
    figures: Path
    place: int
    generative: Path | None

    @property
    def shares(self) -> Shares:
        """What each worker holds of the connections."""
        return Shares(self.figures / SHARES, place=self.place)

    def accept(self) -> None:
        """Say that this worker accepts."""
        os.write(self.ready, b"1")
        os.close(self.ready)


def told() -> Told | None:
    """What this process was told; None where it is a service by itself."""
    if LISTENER not in os.environ:
        return None
    listener = socket.socket(fileno=int(os.environ[LISTENER]))
    generative = Path(os.environ[GENERATIVE]) if GENERATIVE in os.environ else None
    return Told(listener, int(os.environ[READY]), Path(os.environ[FIGURES]), int(os.environ[PLACE]), generative)
