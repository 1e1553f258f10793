"""Start the trainer as a process of its own, follow its progress, and stop it when it must not go on."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MOST_ERROR_CHARACTERS = 2000
POLL_SECONDS = 0.1
KILL_AFTER_SECONDS = 5.0
# As Python, torch on a processor, C++, torch on a GPU, and a library that is loaded say it.
OUT_OF_MEMORY = ("MemoryError", "can't allocate memory", "bad_alloc", "out of memory", "failed to map segment")


class TrainerFailed(Exception):
    """The trainer ended without an artifact. The message says why, as far as anyone knows."""


class TrainerStopped(Exception):
    """The trainer was stopped because `wanted` said so: the clock shuts down, or the claim is lost."""


def train(
    recipe: str,
    spec: Path,
    out: Path,
    *,
    progress: Callable[[float, str], None],
    wanted: Callable[[], bool],
    timeout_seconds: float,
    memory_mb: int | None = None,
) -> None:
    """Run `python -m trainer` until it has written its artifact to `out`.

    Args:
        memory_mb: address space that it may take; without it what the machine gives.

    Raises:
        TrainerFailed: a bad exit, a signal, or too much time.
        TrainerStopped: `wanted` turned false.
    """
    errors = out.with_name(out.name + ".stderr")
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [*_tied_to_us(), sys.executable, "-m", "trainer", recipe, "--spec", str(spec), "--out", str(out)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(),
            # Its own group, so that stopping it stops what it started.
            start_new_session=True,
        )
    _bound(process.pid, memory_mb)
    reader = threading.Thread(target=_follow, args=(process, progress), daemon=True)
    deadline = time.monotonic() + timeout_seconds
    try:
        reader.start()
        while process.poll() is None:
            if not wanted():
                raise TrainerStopped("the trainer was stopped")
            if time.monotonic() > deadline:
                raise TrainerFailed(f"the trainer was stopped after {timeout_seconds:g} s (train_timeout_seconds)")
            time.sleep(POLL_SECONDS)
    finally:
        _end(process)
        if reader.ident is not None:
            reader.join(timeout=5)
    if process.returncode != 0:
        raise TrainerFailed(_reason(process.returncode, errors))


def _bound(pid: int, memory_mb: int | None) -> None:
    """Bound what a process that has just begun, and each that it will start, may take.

    From outside: code that ran between fork and exec would run in a process whose other threads are gone.
    """
    # It may have ended already; then its status says why.
    with suppress(ProcessLookupError):
        if memory_mb is not None and hasattr(resource, "prlimit"):
            resource.prlimit(pid, resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))


def _tied_to_us() -> list[str]:
    """What makes the kernel end the trainer when this process is killed: nobody would stop one that hangs."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _environment() -> dict[str, str]:
    """The trainer knows no database: neither its URL nor the installation's key reaches it."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("INTENTLOOP_")}
    return {**inherited, "PYTHONHASHSEED": "0"}


def _follow(process: subprocess.Popen[bytes], progress: Callable[[float, str], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            said: Any = json.loads(line)
            progress(float(said["progress"]), str(said["stage"]))
        except (ValueError, KeyError, TypeError):
            continue  # a library that prints is no reason to stop


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    for signal_number, patience in ((signal.SIGTERM, KILL_AFTER_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        try:
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue


def _reason(code: int, errors: Path) -> str:
    said = _tail(errors).strip()
    last = said.splitlines()[-1] if said else ""
    if code == 2 and last:
        return last
    if code == -signal.SIGKILL:
        return "the trainer was killed (signal 9): the machine may be out of memory"
    if code < 0:
        return f"the trainer died by signal {-code}"
    if any(sign in last for sign in OUT_OF_MEMORY):
        return f"the trainer ran out of memory ({last}): give it more, or take a smaller base model or batch_size"
    return f"the trainer ended with status {code}: {last or 'it said nothing'}"


def _tail(errors: Path) -> str:
    with errors.open("rb") as file:
        file.seek(max(0, errors.stat().st_size - MOST_ERROR_CHARACTERS))
        return file.read().decode("utf-8", "replace")
