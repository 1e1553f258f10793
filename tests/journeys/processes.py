"""Start the real commands as processes on a folder of their own, watch their database, and leave none behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from sqlalchemy import select

from app.db.session import UnitOfWork, connect
from app.db.tables import JobRun, Text, TrainingBatch, UserQuestion
from tests.servers import free_port

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
API = "/api/v1/model-tuning"
NEVER = "0 0 1 1 *"

# Quick enough for tests; each test says what else matters to it.
QUICK: Mapping[str, object] = {
    "TRAIN_CRON": "* * * * * *",
    "SELECT_CRON": "* * * * * *",
    "PURGE_CRON": NEVER,
    "HEARTBEAT_SECONDS": 0.3,
    "LOST_AFTER_SECONDS": 2,
    "RETRY_DELAYS_SECONDS": "[0.5, 0.5, 0.5]",
    "BATCH_LABELS": 24,
    "POLL_SECONDS": 0.1,
}


class Installation:
    """One data folder with its database, and the processes that run on it."""

    def __init__(self, folder: Path, url: str, **settings: object) -> None:
        self.folder = folder
        self.url = url
        self.settings = {**QUICK, **settings}
        self.port = free_port()
        self.engine = connect(url)
        self.work = UnitOfWork(self.engine)
        self.artifacts = folder / "artifacts"
        self.artifacts.mkdir(exist_ok=True)
        self.log = folder / "processes.log"
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of this installation is given, and nothing of another one."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTENTLOOP_")}
        own = {"DATA_DIR": self.folder, "DATABASE_URL": self.url, "PORT": self.port, **self.settings}
        named = {f"INTENTLOOP_{name}": str(value) for name, value in own.items()}
        return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **named}

    def start(self, *arguments: str, **settings: object) -> "subprocess.Popen[bytes]":
        """`intentloop …` as a process; `settings` are for it alone."""
        changed = {f"INTENTLOOP_{name}": str(value) for name, value in settings.items()}
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "app", *arguments],
                env=self.environment | changed,
                cwd=self.folder,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def run(self, *arguments: str, environment: Mapping[str, object]) -> int:
        """`intentloop …` until it ends, with more in its environment; the exit status."""
        with self.log.open("ab") as out:
            return subprocess.run(
                [sys.executable, "-m", "app", *arguments],
                env=self.environment | {name: str(value) for name, value in environment.items()},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=False,
                timeout=300,
            ).returncode

    def serve(self) -> "subprocess.Popen[bytes]":
        """The service, ready."""
        process = self.start("serve")
        self.wait_until_ready(process)
        return process

    def wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for `/readyz`, as long as the process lives."""

        def ready() -> bool:
            assert process.poll() is None, self.said()
            with suppress(httpx.TransportError):
                return self.http.get("/readyz").is_success
            return False

        wait_for(ready, seconds=40, what="the service")

    def post(self, path: str, body: Any = None, expect: int | None = None) -> Any:
        """The answer's JSON; its status must be `expect`, or any 2xx."""
        answer = self.http.post(path if path.startswith("/classify") else API + path, json=body)
        assert answer.status_code == expect if expect else answer.is_success, f"{answer.status_code} {answer.text}"
        return answer.json()

    def get(self, path: str, **query: object) -> Any:
        """The answer's JSON; its status must be 2xx."""
        answer = self.http.get(API + path, params=query)
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        return answer.json()

    def batches(self) -> list[TrainingBatch]:
        """All batches, the oldest first."""
        return self.work.read(lambda session: list(session.scalars(select(TrainingBatch).order_by(TrainingBatch.id))))

    def runs(self) -> list[JobRun]:
        """All runs of jobs, the oldest first."""
        return self.work.read(lambda session: list(session.scalars(select(JobRun).order_by(JobRun.id))))

    def training_states(self) -> dict[str, int]:
        """How many texts are pending, claimed, used, skipped."""
        states = self.work.read(lambda session: list(session.scalars(select(Text.training_status))))
        return {state: states.count(state) for state in set(states)}

    def questions(self) -> list[UserQuestion]:
        """All logged questions."""
        return self.work.read(lambda session: list(session.scalars(select(UserQuestion))))

    def processes(self) -> list[int]:
        """The ids of all living processes that work on this folder, trainers included."""
        mark = os.fsencode(self.folder)
        return [pid for pid in pids() if pid != os.getpid() and _names(pid, mark)]

    def trainers(self) -> list[int]:
        """The ids of the trainers among them."""
        return [pid for pid in self.processes() if b"trainer" in _read(pid, "cmdline").split(b"\0")]

    def said(self) -> str:
        """The end of what all processes logged."""
        return self.log.read_text(errors="replace")[-4000:]

    def end(self) -> None:
        """Leave no process behind."""
        self.http.close()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.engine.dispose()


@contextmanager
def installation(folder: Path, url: str, **settings: object) -> Iterator[Installation]:
    """An installation on a migrated database, whose processes end with the block."""
    made = Installation(folder, url, **settings)
    try:
        yield made
    finally:
        made.end()


def wait_for(condition: Callable[[], T], *, seconds: float = 90, what: str = "it", every: float = 0.05) -> T:
    """The first true value of `condition`; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(every)
    return found


def stop(process: "subprocess.Popen[bytes]", seconds: float = 30) -> int:
    """SIGTERM, and the exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=seconds)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL: no chance to say anything."""
    process.kill()
    process.wait(timeout=10)


def pids() -> list[int]:
    """The ids of all processes of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _names(pid: int, mark: bytes) -> bool:
    return mark in _read(pid, "environ") or mark in _read(pid, "cmdline")


def _read(pid: int, name: str) -> bytes:
    try:
        if name == "cmdline" and b"\nState:\tZ" in Path(f"/proc/{pid}/status").read_bytes():
            return b""
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
