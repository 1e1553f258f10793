"""Start and stop the generative process: `python -m trainer.generative`, the only one that holds torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.scorers.generative_wire import GenerativeUnavailable

END_AFTER_SECONDS = 5.0
POLL_SECONDS = 0.05
# What the kernel allows for the path of a socket, on the meanest of the systems (macOS).
MOST_SOCKET_PATH_BYTES = 103


def command(
    socket: Path, bases: Path | None, *, threads: int = 1, waiting: int = 16, kept: int = 2, niceness: int = 10
) -> list[str]:
    """The command line of the process.

    Args:
        socket: where it listens; at most `MOST_SOCKET_PATH_BYTES` bytes.
        bases: the folder of base models, for those that are not named by their path.
        threads: how many compute one answer.
        waiting: requests that may wait; the next one is answered `busy`.
        kept: artifacts that stay in memory, each with its base.
        niceness: how far it stands behind the service for the processor, 0 to 19.
    """
    options = {"socket": socket, "threads": threads, "waiting": waiting, "kept": kept, "niceness": niceness}
    if bases is not None:
        options["bases"] = bases
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "trainer.generative", *words, "--until-stdin-closes"]


def environment() -> dict[str, str]:
    """The process knows no database and asks no hub: neither URL nor key of the installation reaches it."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("INTENTLOOP_")}
    return {**inherited, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def start(arguments: Sequence[str], errors: Path) -> subprocess.Popen[bytes]:
    """Start it in a group of its own. It ends with this process: when its standard input closes, if not before.

    Args:
        arguments: as `command` makes them.
        errors: file that takes what it says on standard error.
    """
    with errors.open("wb") as stderr:
        return subprocess.Popen(
            [*_tied_to_us(), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment(),
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop it: it is asked, and killed when it does not listen."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=END_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_words(errors: Path, most_bytes: int = 2_000) -> str:
    """The last line that the process said on standard error, or an empty string."""
    try:
        with errors.open("rb") as file:
            file.seek(max(0, errors.stat().st_size - most_bytes))
            said = file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return said.splitlines()[-1] if said else ""


class PrivateProcess:
    """A generative process for one job, on a socket in a folder of its own; ended when it is closed or dropped."""

    def __init__(self, bases: Path | None, *, threads: int, patience_seconds: float = 300.0) -> None:
        """Start it and wait until it listens.

        Raises:
            GenerativeUnavailable: it ended, or does not listen after `patience_seconds`.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="generative-", dir=_short_folder()))
        self.socket = self._folder / "socket"
        errors = self._folder / "stderr"
        process = start(command(self.socket, bases, threads=threads), errors)
        self._finalizer = weakref.finalize(self, _clear, process, self._folder)
        deadline = time.monotonic() + patience_seconds
        while not self.socket.exists():
            if process.poll() is not None:
                said = last_words(errors) or f"it ended with status {process.returncode}"
                self.close()
                raise GenerativeUnavailable("unreachable", f"the generative process did not start: {said}")
            if time.monotonic() > deadline:
                self.close()
                late = f"the generative process did not start in {patience_seconds:g} s"
                raise GenerativeUnavailable("unreachable", late)
            time.sleep(POLL_SECONDS)
        self.pid = process.pid

    @property
    def alive(self) -> bool:
        """Whether it was neither closed nor ended by itself."""
        process = self._finalizer.peek()
        return process is not None and process[2][0].poll() is None

    def close(self) -> None:
        """End the process and remove its folder. Harmless when repeated."""
        self._finalizer()


_private: weakref.WeakValueDictionary[tuple[Path | None, int], PrivateProcess] = weakref.WeakValueDictionary()
_starting = threading.Lock()


def private_process(bases: Path | None, *, threads: int, but_not: PrivateProcess | None = None) -> PrivateProcess:
    """The process of this job: one for all artifacts that it compares, as long as one of their scorers is held.

    Args:
        but_not: one that was seen to be dead, even if the system still counts it.

    Raises:
        GenerativeUnavailable: it could not be started.
    """
    with _starting:
        found = _private.get((bases, threads))
        if found is None or found is but_not or not found.alive:
            found = _private[(bases, threads)] = PrivateProcess(bases, threads=threads)
        return found


def _clear(process: subprocess.Popen[bytes], folder: Path) -> None:
    end(process)
    shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str | None:
    """Where temporary files go, unless a socket's path would be too long there."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) + 40 <= MOST_SOCKET_PATH_BYTES else "/tmp"  # noqa: S108 - mkdtemp is private


def _tied_to_us() -> list[str]:
    """What makes the kernel end the process when this one is killed, where there is such a thing."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
