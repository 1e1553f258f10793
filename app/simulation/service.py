"""Start a service and its clock on a folder of our own, wait until they answer, and stop them in order."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from app.simulation.client import LoopFailed

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 45.0
DATABASE: Final = "intentloop.db"
LOG: Final = "service.log"


@dataclass(frozen=True, slots=True)
class Service:
    """A running service and clock. `log` is where both write."""

    address: str
    data_dir: Path
    log: Path
    process: "subprocess.Popen[bytes]"


@contextmanager
def running_service(data_dir: Path, settings: Mapping[str, object], *, port: int | None = None) -> Iterator[Service]:
    """`intentloop up` on this folder until the block ends. `settings`: by name, without the prefix.

    Raises:
        LoopFailed: it was not ready within a minute, or ended before its time; with the end of its log.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    chosen = port or free_port()
    log = data_dir / LOG
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "up"],
            env=environment(data_dir, settings, chosen),
            cwd=data_dir,  # where no .env of another installation lies
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
        )
    service = Service(f"http://127.0.0.1:{chosen}", data_dir, log, process)
    try:
        _wait_until_ready(service)
        yield service
    except LoopFailed as error:
        status = process.poll()
        ended = "" if status is None else f", which ended with status {status}"
        raise LoopFailed(f"{error}\nThe last lines of the service{ended}:\n{log_tail(service)}") from error
    finally:
        stop(process)


def environment(data_dir: Path, settings: Mapping[str, object], port: int) -> dict[str, str]:
    """The environment of the service; no setting of another installation, its database say, is inherited."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("INTENTLOOP_")}
    root = str(Path(__file__).resolve().parents[2])
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH")]))
    own = {
        "DATA_DIR": data_dir,
        "DATABASE_URL": f"sqlite:///{data_dir / DATABASE}",
        "ARTIFACTS_DIR": data_dir / "artifacts",
        "HOST": "127.0.0.1",
        "PORT": port,
        **settings,
    }
    return inherited | {f"INTENTLOOP_{name}": str(value) for name, value in own.items()}


def free_port(wanted: int = 0) -> int:
    """A port that nothing listens on at this moment: the wanted one if it is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=service.address, timeout=5.0, trust_env=False) as http:
        while time.monotonic() < deadline:
            ended = service.process.poll()
            if ended is not None:
                raise LoopFailed(f"the service ended with status {ended} before it was ready")
            try:
                if http.get("/readyz").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
    raise LoopFailed(f"the service was not ready after {START_SECONDS:.0f} s")


def log_tail(service: Service, lines: int = 15) -> str:
    """The last lines of the service's log."""
    return "\n".join(service.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the service to end, and end it with all its children when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # a trainer that outlived its clock
    process.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that the service is stopped and the folder removed."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
