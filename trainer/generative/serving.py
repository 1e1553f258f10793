"""Serve a Unix domain socket: bounded lines, a bounded queue, one request computed at a time."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from app.scorers.generative_wire import (
    MAX_LINE_BYTES,
    GenerativeUnavailable,
    Request,
    RequestInvalid,
    id_of,
    line_of,
    ranked,
    read_line,
    read_request,
)

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
# A client that sends half a line, or takes no answer, must not hold its place for ever.
IDLE_SECONDS = 60.0
STOP_POLL_SECONDS = 0.25


class Judge(Protocol):
    """A loaded artifact."""

    def judge(self, text: str, candidates: Sequence[int] | None) -> tuple[Sequence[int], Sequence[float]]:
        """Label ids and their probabilities. Raises RequestInvalid for a label that the artifact does not know."""


class Shelf(Protocol):
    """The artifacts in memory."""

    def take(self, folder: Path) -> Judge:
        """Load an artifact, or find it loaded. Raises GenerativeUnavailable with a sentence."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The folders of those in memory."""


@dataclass(slots=True)
class _Waiting:
    request: Request
    expires: float
    answer: dict[str, Any] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)


class Server:
    """Accepts connections on threads of their own and computes on the thread that called `run`."""

    def __init__(self, path: Path, shelf: Shelf, *, waiting: int) -> None:
        """Listen on `path`; what lay there is replaced. `waiting`: requests that may wait behind the one computed."""
        self._path = path
        self._shelf = shelf
        self._queue: queue.Queue[_Waiting] = queue.Queue(maxsize=waiting)
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._stopping = threading.Event()
        self._listener = _listen(path)

    def run(self) -> None:
        """Compute requests until `stop` is called."""
        threading.Thread(target=self._accept, name="accept", daemon=True).start()
        while not self._stopping.is_set():
            try:
                waiting = self._queue.get(timeout=STOP_POLL_SECONDS)
            except queue.Empty:
                continue
            waiting.answer = self._answer(waiting)
            waiting.done.set()
        with suppress(OSError):
            self._listener.close()
        with suppress(OSError):
            self._path.unlink()

    def stop(self) -> None:
        """Let `run` return after the request that it computes.

        May be called from a signal handler, which may interrupt the queue while it holds its lock: so only a flag.
        """
        self._stopping.set()

    def _answer(self, waiting: _Waiting) -> dict[str, Any]:
        """Texts and whatever quotes them stay out of the log: only the class of an unforeseen error is told."""
        request = waiting.request
        try:
            judge = self._shelf.take(Path(request.artifact))
            answers: list[Any] = []
            for text, candidates in zip(request.texts, request.candidates, strict=True):
                if time.monotonic() >= waiting.expires:
                    done, wanted = len(answers), len(request.texts)
                    raise GenerativeUnavailable("late", f"the deadline passed after {done} of {wanted} texts")
                answers.append(ranked(*judge.judge(text, candidates)))
        except GenerativeUnavailable as error:
            return _refusal(request.request_id, error.reason, str(error))
        except RequestInvalid as error:
            return _refusal(request.request_id, "invalid", str(error))
        except MemoryError:
            return _refusal(request.request_id, "failed", "the generative process ran out of memory")
        except Exception as error:
            logger.warning("a request failed: %s", type(error).__name__)
            return _refusal(request.request_id, "failed", f"the computation failed ({type(error).__name__})")
        return {"id": request.request_id, "answers": answers}

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # The listener was closed, or the process has no descriptor left: wait for one.
                if self._stopping.wait(0.1):
                    return
                continue
            if not self._places.acquire(blocking=False):
                _send(connection, _refusal(None, "busy", f"more than {MOST_CONNECTIONS} connections are open"))
                connection.close()
                continue
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(IDLE_SECONDS)
                with connection.makefile("rb") as lines:
                    while line := lines.readline(MAX_LINE_BYTES + 1):
                        said = self._reply(line)
                        # Behind a line that is too long nobody can tell where the next one begins.
                        if not _send(connection, said) or not line.endswith(b"\n"):
                            return
        except OSError:
            return
        finally:
            self._places.release()

    def _reply(self, line: bytes) -> dict[str, Any]:
        if not line.endswith(b"\n"):
            return _refusal(None, "invalid", f"the line is longer than {MAX_LINE_BYTES} bytes, or has no end")
        document: dict[str, Any] = {}
        try:
            document = read_line(line)
            if "ping" in document:
                return {"ping": 1, "pid": os.getpid(), "waiting": self._queue.qsize(), "loaded": self._shelf.loaded}
            request = read_request(document)
        except RequestInvalid as error:
            return _refusal(id_of(document), "invalid", str(error))
        waiting = _Waiting(request, time.monotonic() + request.deadline_seconds)
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            return _refusal(request.request_id, "busy", f"{self._queue.maxsize} requests are waiting")
        waiting.done.wait()
        return waiting.answer


def _listen(path: Path) -> socket.socket:
    """A listener that only this user may speak to, at its path from the moment on which it answers."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        beside.unlink()
    earlier = os.umask(0o177)
    try:
        listener.bind(str(beside))
    finally:
        os.umask(earlier)
    listener.listen(MOST_CONNECTIONS)
    beside.rename(path)
    return listener


def _send(connection: socket.socket, document: dict[str, Any]) -> bool:
    try:
        connection.sendall(line_of(document))
    except OSError:
        return False
    return True


def _refusal(request_id: str | None, reason: str, sentence: str) -> dict[str, Any]:
    return {"id": request_id, "error": sentence, "reason": reason}


def end_when_input_closes(patience_seconds: float) -> None:
    """End this process when its standard input closes: whoever started it is gone."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        # A handler waits for the computation of the main thread; nobody waits for its result.
        time.sleep(patience_seconds)
        os._exit(0)

    threading.Thread(target=watch, name="input", daemon=True).start()
