"""Keep the generative process running: start it, see that it answers, and start it again, ever later, when it ends."""

import json
import logging
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from app.scorers import generative_process
from app.scorers.generative import GenerativeClient
from app.scorers.generative_wire import GenerativeUnavailable

logger = logging.getLogger(__name__)

SOCKET: Final = "socket"
STATE: Final = "state.json"
ERRORS: Final = "stderr"
LOOK_SECONDS = 0.1
READY_LOOK_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# One that ran for so long before it ended is started again at once, as if it were the first.
STEADY_SECONDS = 60.0
# It answers a ping also while it computes: one that is silent for so long hangs. Before its first answer it reads
# libraries of hundreds of megabytes.
SILENT_SECONDS = 60.0
START_SECONDS = 300.0
STOP_SECONDS = 20.0

Status: TypeAlias = Literal["starting", "ready", "broken"]


@dataclass(frozen=True, slots=True)
class State:
    """How the process stands; `reason` is a sentence, `pid` that of the process that answers."""

    status: Status
    reason: str | None = None
    pid: int | None = None


class Keeper:
    """Keeps one process, and writes down how it stands in a folder that all who ask it can read."""

    def __init__(
        self,
        bases: Path | None,
        *,
        threads: int,
        waiting: int,
        memory_mb: int | None = None,
        command: Callable[[Path], Sequence[str]] | None = None,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """
        Args:
            bases: the folder of base models.
            threads: how many compute one answer.
            waiting: requests that may wait in the process.
            memory_mb: address space (MiB) that it may take; without it what the machine gives.
            command: what is started to listen on a socket; `python -m trainer.generative` without it.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="intentloop-", dir=_short_folder()))
        self._command = command or (
            lambda socket: generative_process.command(socket, bases, threads=threads, waiting=waiting)
        )
        self._memory_mb = memory_mb
        self._first_pause_seconds = first_pause_seconds
        self._silent_seconds = silent_seconds
        self._client = GenerativeClient(self.folder / SOCKET)
        self._state: State | None = None
        self._failures = 0
        self._stopping = threading.Event()
        # The kernel ends the process when the thread that started it ends: this one sees it through.
        self._thread = threading.Thread(target=self._run, name="generative-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._note(State("starting"))
        self._thread.start()

    def stop(self) -> None:
        """End the process, and remove the folder."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                reason = self._see_through()
            except Exception as error:  # The edge of the thread: whatever stops a start, a later one may do.
                reason = f"the generative process could not be started: {type(error).__name__}"
            if self._stopping.is_set():
                return
            self._failures = 0 if time.monotonic() - begun > STEADY_SECONDS else self._failures + 1
            pause = min(LONGEST_PAUSE_SECONDS, self._first_pause_seconds * 2.0 ** max(0, self._failures - 1))
            logger.error("%s; it is started again in %.0f s", reason, pause)
            self._note(State("broken", reason))
            self._stopping.wait(pause)

    def _see_through(self) -> str:
        """Start the process and stay with it until it ends. Returns why it did."""
        with suppress(FileNotFoundError):
            (self.folder / SOCKET).unlink()
        errors = self.folder / ERRORS
        process = generative_process.start(self._command(self.folder / SOCKET), errors)
        try:
            _bound(process, self._memory_mb)
            heard, patience = time.monotonic(), START_SECONDS
            while process.poll() is None and not self._stopping.is_set():
                if self._answers():
                    heard, patience = time.monotonic(), self._silent_seconds
                elif time.monotonic() - heard > patience:
                    return f"the generative process was silent for {patience:g} s"
                self._stopping.wait(LOOK_SECONDS if patience == START_SECONDS else READY_LOOK_SECONDS)
            return _ending(process, errors)
        finally:
            generative_process.end(process)

    def _answers(self) -> bool:
        try:
            pid = self._client.ping().pid
        except GenerativeUnavailable:
            return False
        if self._state != State("ready", None, pid):
            logger.info("the generative process %d is ready", pid)
            self._note(State("ready", None, pid))
        return True

    def _note(self, state: State) -> None:
        self._state = state
        made = self.folder / f"{STATE}.new"
        with suppress(OSError):
            made.write_text(json.dumps(asdict(state)), encoding="utf-8")
            # Whole or not at all: others read it at any moment.
            made.replace(self.folder / STATE)


def read_state(folder: Path) -> State:
    """How the process of this folder stands."""
    try:
        found: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return State(found["status"], found["reason"], found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return State("broken", "nobody looks after the generative process any more")


def _bound(process: "subprocess.Popen[bytes]", memory_mb: int | None) -> None:
    """Bound what it may take, from outside: no code of ours may run between fork and exec."""
    # It may have ended already; then its status says why.
    with suppress(ProcessLookupError):
        if memory_mb is not None and hasattr(resource, "prlimit"):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))


def _ending(process: "subprocess.Popen[bytes]", errors: Path) -> str:
    code = process.poll()
    if code is None:
        return "the generative process was stopped"
    if code < 0:
        more = ": the machine may be out of memory" if code == -9 else ""
        return f"the generative process was killed (signal {-code}){more}"
    said = generative_process.last_words(errors)
    return f"the generative process ended with status {code}: {said or 'it said nothing'}"


def _short_folder() -> str | None:
    """Where temporary files go, unless a socket's path would be too long there."""
    usual = tempfile.gettempdir()
    fits = len(os.fsencode(usual)) + 40 <= generative_process.MOST_SOCKET_PATH_BYTES
    return usual if fits else "/tmp"  # noqa: S108 - mkdtemp's folder is private
