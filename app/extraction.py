"""Mine a domain's keyword rules for the service: in a process of its own, one at a time for each domain."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app import errors
from app.errors import ExtractionRunning, IntentError, Unavailable
from app.services.audit import Actor
from app.settings import Settings


class Extraction:
    """Starts the mining process and waits for it.

    Mining takes seconds of one core; in this process it would hold up every answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes] | None] = {}
        self._closed = False

    def __call__(self, domain: str, *, min_confidence: float, limit: int, by: Actor) -> dict[str, Any]:
        """Mine, and return what `jobs.mine_keywords.mine_domain` returned.

        Raises:
            ExtractionRunning: rules of this domain are being mined already.
            Unavailable: it took too long, or the process died.
            IntentError: what mining raised.
        """
        with self._lock:
            if self._closed:
                raise Unavailable("the service shuts down")
            if domain in self._running:
                raise ExtractionRunning(f"rules of domain {domain!r} are being mined already")
            self._running[domain] = None
        try:
            return self._mine(
                domain,
                {
                    "settings": plain(self._settings),
                    "domain": domain,
                    "min_confidence": min_confidence,
                    "limit": limit,
                    "by": asdict(by),
                },
            )
        finally:
            with self._lock:
                del self._running[domain]

    def close(self) -> None:
        """End what is running: nobody waits for it any more, and it has written nothing yet or everything."""
        with self._lock:
            self._closed = True
            for process in self._running.values():
                if process is not None:
                    process.kill()

    def _mine(self, domain: str, request: dict[str, Any]) -> dict[str, Any]:
        timed_out = threading.Event()
        with self._lock:
            if self._closed:
                raise Unavailable("the service shuts down")
            process = self._running[domain] = _start()
        assert process.stdin is not None
        assert process.stdout is not None

        def stop() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(self._settings.mine_timeout_seconds, stop)
        timer.start()
        try:
            # A process that died at once has closed the pipe; its status says the rest.
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            said = process.stdout.read()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            # Not before: the child takes its end for the end of this process.
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
        if timed_out.is_set() and not said:
            limit = self._settings.mine_timeout_seconds
            raise Unavailable(f"mining was stopped after {limit:g} s (INTENTLOOP_MINE_TIMEOUT_SECONDS)")
        return _read(said)


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values, secrets in the clear: only for a pipe to a process of our own."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


def _start() -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("INTENTLOOP_")}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.mining_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # It imports what this process imports, wherever that came from.
        env={**inherited, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        # Ctrl-C is for the service, which then ends this in order.
        start_new_session=True,
    )


def _read(said: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(said)
    except ValueError as error:
        raise Unavailable("the mining process died; the machine may be short of memory") from error
    if "found" in answer:
        found: dict[str, Any] = answer["found"]
        return found
    raise _error(answer["code"])(answer["message"])


def _error(code: str) -> type[IntentError]:
    """The class of a code."""
    classes: list[type[IntentError]] = [IntentError]
    for known in classes:
        classes.extend(known.__subclasses__())
    return next(known for known in classes if known.code == code and known.__module__ == errors.__name__)
