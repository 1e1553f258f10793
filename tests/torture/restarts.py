"""Replicas are restarted one after another under load: no request fails, and every answer is a row.

Two services on one database stand behind clients that ask them in turn, over connections that they keep, as a proxy
does: one that refuses a connection is passed over, one that has closed a kept connection is connected to anew. But a
request that was sent must be answered by 200, whatever happens to the service meanwhile: there is no second try. In
each round one replica gets SIGTERM, must end with status 0, and is started again; the next round takes the other.

`broken=True` restarts services that stop as the server does by itself, closing kept connections at once: it must fail.
"""

from __future__ import annotations

import http.client
import itertools
import json
import select
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.services import domains
from bench.load.installation import free_port, rows
from bench.result import Bar, CannotRun, Result
from tests.torture.ledger import Ledger, check

CLIENTS: Final = 8
# Between a client's look at its connection and the arrival of its request lies a network.
NETWORK_SECONDS: Final = 0.01
ROUNDS: Final = 100
QUICK_ROUNDS: Final = 4
READY_SECONDS: Final = 120.0
END_SECONDS: Final = 60.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_HASTY: Final = """
import sys, uvicorn
import app.api.server as server
server.Server.shutdown = uvicorn.Server.shutdown
from app.__main__ import main
sys.argv = ["intentloop", "serve"]
main()
"""


class Replica:
    """One service, and how often it was started."""

    def __init__(self, folder: Path, url: str, *, broken: bool) -> None:
        self.port = free_port()
        self._folder = folder
        self._command = ["-c", _HASTY] if broken else ["-m", "app", "serve"]
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(_ROOT),
            "OMP_NUM_THREADS": "1",
            "INTENTLOOP_DATA_DIR": str(folder),
            "INTENTLOOP_DATABASE_URL": url,
            "INTENTLOOP_PORT": str(self.port),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with (self._folder / f"{self.port}.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *self._command], env=self._environment, cwd=self._folder, stdout=out, stderr=out
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"a replica did not start: {(self._folder / f'{self.port}.log').read_text()[-500:]}")
            time.sleep(0.1)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(timeout=END_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Leave no process behind."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with suppress(OSError):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False


class Client(threading.Thread):
    """Asks the replicas in turn, until it is told to end."""

    def __init__(self, number: int, ports: list[int], ledger: Ledger, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._texts = (f"client {number} asks {count}" for count in itertools.count())
        self._turns = itertools.cycle(ports)
        self._kept: dict[int, http.client.HTTPConnection] = {}
        self._ledger = ledger
        self._over = over
        self.failures: list[str] = []

    def run(self) -> None:
        """Ask."""
        while not self._over.is_set():
            connection = self._connection(next(self._turns))
            if connection is not None:
                self._ask(connection, next(self._texts))

    def _connection(self, port: int) -> http.client.HTTPConnection | None:
        """An open connection to this replica, or None where it refuses one: nothing was asked then."""
        kept = self._kept.get(port)
        if kept is not None and kept.sock is not None and not select.select([kept.sock], [], [], 0)[0]:
            return kept
        made = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            made.connect()
        except OSError:
            time.sleep(0.005)
            return None
        self._kept[port] = made
        return made

    def _ask(self, connection: http.client.HTTPConnection, text: str) -> None:
        time.sleep(NETWORK_SECONDS)
        started = time.monotonic()
        try:
            connection.request("POST", "/classify", json.dumps({"text": text}), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._ledger.note(0, time.monotonic() - started)
            self.failures.append(type(error).__name__)
            connection.close()
            return
        self._ledger.note(answer.status, time.monotonic() - started)
        if answer.status == 200:
            self._ledger.acknowledge(text, json.loads(body))
        else:
            self.failures.append(str(answer.status))


def run(*, quick: bool, seed: int = 0, broken: bool = False) -> Result:
    """Restart the replicas in turn, and hold what clients were told beside the rows; nothing is drawn by `seed`."""
    del seed
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="intentloop-restarts-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'intentloop.db'}"
        engine = connect(url)
        migrate(engine)
        UnitOfWork(engine)(domains.ensure_default)
        replicas = [Replica(folder, url, broken=broken) for _ in range(2)]
        ledger, over, statuses = Ledger(), threading.Event(), []
        clients = [Client(number, [replica.port for replica in replicas], ledger, over) for number in range(CLIENTS)]
        try:
            for replica in replicas:
                replica.start()
            for client in clients:
                client.start()
            for number in range(rounds):
                replica = replicas[number % 2]
                time.sleep(1.0)
                statuses.append(replica.stop())
                replica.start()
        finally:
            over.set()
            for client in clients:
                if client.ident is not None:
                    client.join(90)
            for replica in replicas:
                replica.kill()
        verdict = check(engine, ledger)
        counted = rows(url)
        engine.dispose()
    failures = [failure for client in clients for failure in client.failures]
    return Result(
        {**verdict.as_figures(), "rounds": rounds, "answers": len(ledger.answers)},
        {
            "failed_requests": Bar(len(failures), at_most=0),
            "ends_with_another_status_than_0": Bar(sum(status != 0 for status in statuses), at_most=0),
            "lost": Bar(verdict.lost, at_most=0),
            "rows_beside_answers": Bar(abs(counted - len(ledger.answers)), at_most=0),
        },
    )
