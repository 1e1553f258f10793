"""The services that flip: started, watched in their memory, and gone with the block."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from bench.load.installation import free_port
from bench.result import CannotRun

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
BROKEN = ("epoch", "digest", "slow")
# How long a load takes on the disk of the broken builds.
SLOW_SECONDS = 0.7


@contextmanager
def services(
    folder: Path, url: str, *, workers: int, broken: str | None = None
) -> Iterator[tuple[list[int], list[int]]]:
    """The ports to ask, and the processes that were started: one service with so many workers.

    A build that is broken on purpose runs as so many services: for a flip it is the same.
    """
    with ExitStack() as stack:
        if broken is None:
            started = [stack.enter_context(_service(folder, url, "service", workers=workers))]
        else:
            started = [
                stack.enter_context(_service(folder, url, f"service-{number}", broken=broken))
                for number in range(workers)
            ]
        for port, leader in started:
            _wait_until_ready(port, leader, folder)
        yield [port for port, _ in started], [leader.pid for _, leader in started]


@contextmanager
def _service(
    folder: Path, url: str, name: str, *, workers: int | None = None, broken: str | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("INTENTLOOP_")}
    given = {"DATA_DIR": folder, "DATABASE_URL": url, "PORT": port, "LOG_LEVEL": "warning"}
    if workers is not None:
        given["WORKERS"] = workers
    environment = {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {f"INTENTLOOP_{key}": str(value) for key, value in given.items()}
    command = ["-m", "app", "serve"] if broken is None else ["-m", "bench.flipping.services", broken, "serve"]
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield port, process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            said = "".join(log.read_text(errors="replace")[-500:] for log in sorted(folder.glob("*.log")))
            raise CannotRun(f"the service did not start: {said}")
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.05)


def break_build(how: str) -> None:
    """Take a guard away in this process. The harness must notice, or it proves nothing.

    `slow` takes none away: artifacts come from a slow disk, which shows guards that quick loads hide.
    """
    from app.serving import runtime
    from app.serving.watcher import Watcher

    if how == "digest":
        runtime.verify = lambda *_: None  # type: ignore[assignment,attr-defined]
        return
    prove, rng = runtime._prove, random.Random(os.getpid())

    def slowly(*given: object) -> object:
        time.sleep(rng.uniform(0, 2 * SLOW_SECONDS))
        return prove(*given)  # type: ignore[arg-type]

    runtime._prove = slowly  # type: ignore[assignment]
    # Nothing stays in memory: each flip reads its artifact.
    runtime.KEPT_SCORERS = 0
    if how == "epoch":
        runtime._is_overtaken = lambda *_: False
        Watcher._may_serve = lambda *_: True  # type: ignore[method-assign]
        Watcher._is_loading = lambda *_: False  # type: ignore[method-assign]


def main() -> None:
    """`python -m bench.flipping.services HOW COMMAND …`: a command of a build that is broken on purpose."""
    how, *arguments = sys.argv[1:]
    break_build(how)
    from app.cli import app

    app(arguments)


if __name__ == "__main__":
    main()
