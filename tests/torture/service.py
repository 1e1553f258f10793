"""One service in a process of its own, that is started, killed and started again on the same folder and port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
# Starting takes a second or two alone, and many on a machine that is busy.
START_SECONDS = 120.0


class Service:
    """`intentloop serve`, with these settings."""

    def __init__(self, folder: Path, url: str, *, program: tuple[str, ...] = ("-m", "app"), **settings: object) -> None:
        self.port = free_port()
        self.folder = folder
        self._program = program
        self._log = folder / "service.log"
        given = {"DATA_DIR": folder, "DATABASE_URL": url, "PORT": self.port, "SECRET_KEY": "s" * 40, **settings}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTENTLOOP_")}
        self._environment = inherited | {f"INTENTLOOP_{name}": str(value) for name, value in given.items()}
        self._environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)

    def start(self) -> None:
        """Start it, and wait until it says that it can answer."""
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, *self._program, "serve"],
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.wait_for(lambda: self._lives() and self.ready() is not None, START_SECONDS)

    def kill(self) -> None:
        """SIGKILL, at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=30)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=40)

    def ready(self) -> dict[str, Any] | None:
        """What `/readyz` says with 200; None otherwise."""
        with suppress(httpx.HTTPError):
            answer = self._http.get("/readyz")
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
        return None

    def post(self, path: str, body: object) -> httpx.Response:
        """One request of any kind."""
        return self._http.post(path, json=body)

    def wait_for(self, condition: Callable[[], Any], seconds: float) -> float:
        """How long it took until this was true.

        Raises:
            TimeoutError: it did not become true.
        """
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"waited {seconds:g} s in vain; the service said:\n{self.said()}")
            time.sleep(0.02)
        return time.monotonic() - started

    def wait_until_whole(self, seconds: float = START_SECONDS) -> float:
        """Wait until nothing is spooled and answers are committed again; how long that took."""

        def whole() -> bool:
            found = self.ready()
            return found is not None and found["degraded_since"] is None and not found["spooled_rows"]

        return self.wait_for(whole, seconds)

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """Leave no process behind."""
        self._http.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=30)

    def _lives(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the service ended with status {self._process.returncode}:\n{self.said()}")
        return True


@contextmanager
def service(folder: Path, url: str, **settings: Any) -> Iterator[Service]:
    """A service that has not been started yet, and is gone with the block."""
    made = Service(folder, url, **settings)
    try:
        yield made
    finally:
        made.end()
