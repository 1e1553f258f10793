"""Databases that a torture stops, pauses, locks and makes read-only, and brings back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.db.sqlite_library import DRIVER
from app.services import domains
from bench.result import CannotRun
from tests import servers
from tests.torture.proxy import Proxy

# What can be done to each, in the order in which it is done.
HARMS = {
    "sqlite": ("locked", "emptied"),
    "postgresql": ("stopped", "paused", "read_only", "slow", "swallowed", "broken"),
    "mariadb": ("stopped", "paused", "read_only", "slow", "swallowed", "broken"),
}


SLOW_SECONDS = 0.7


class Victim:
    """A migrated database. `harm` begins an outage, `heal` ends whatever was begun."""

    url: str

    def prepare(self) -> None:
        """Bring it to the schema of this release."""
        engine = connect(self.url)
        migrate(engine)
        UnitOfWork(engine)(domains.ensure_default)
        engine.dispose()

    def harm(self, how: str) -> None:
        """Begin an outage of this kind."""
        getattr(self, how)()

    def heal(self) -> None:
        """End it."""
        raise NotImplementedError


class Sqlite(Victim):
    """A file, locked by a connection of our own, or without the table."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "intentloop.db"
        self.url = f"sqlite:///{self._path}"
        self._holder: DRIVER.Connection | None = None

    def locked(self) -> None:
        """Hold the write lock."""
        self._holder = DRIVER.connect(self._path, isolation_level=None, timeout=30, check_same_thread=False)
        self._holder.execute("BEGIN IMMEDIATE")

    def emptied(self) -> None:
        """Take the table away: who runs as root may write into every file, so read-only cannot be had here."""
        self._rename("intent_user_questions", "away")

    def heal(self) -> None:
        if self._holder is not None:
            self._holder.execute("ROLLBACK")
            self._holder.close()
            self._holder = None
        with suppress(DRIVER.OperationalError):
            self._rename("away", "intent_user_questions")

    def _rename(self, old: str, new: str) -> None:
        connection = DRIVER.connect(self._path, timeout=30)
        connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
        connection.close()


class Server(Victim):
    """A private server, started anew after it was stopped."""

    start: list[str]
    # How an administrator reaches it.
    admin_url: str

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = servers.free_port()
        # Clients go through it.
        self._proxy = Proxy(self._port)

    def run(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "server.log").open("ab") as out:
            self._process = subprocess.Popen(self.start, cwd=self._folder, stdout=out, stderr=out)
        servers._wait_until_it_answers(self.admin_url, self._process)

    def stopped(self) -> None:
        """End it at once, as a crash would."""
        raise NotImplementedError

    def paused(self) -> None:
        """Stop all of its processes where they are: its machine goes on acknowledging."""
        self._signal(signal.SIGSTOP)

    def slow(self) -> None:
        """Every answer takes its time."""
        self._proxy.delay_seconds = SLOW_SECONDS

    def swallowed(self) -> None:
        """Nothing arrives, and nothing is refused."""
        self._proxy.swallowing = True

    def broken(self) -> None:
        """Every connection ends, once."""
        self._proxy.break_all()

    def heal(self) -> None:
        assert self._process is not None
        self._proxy.heal()
        self._signal(signal.SIGCONT)
        if self._process.poll() is not None:
            self.run()
        self.writable()

    def writable(self) -> None:
        """Take writes again."""
        raise NotImplementedError

    def end(self) -> None:
        """Leave no process behind."""
        self._proxy.close()
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGCONT)
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
            self._process.kill()
            self._process.wait(timeout=20)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        for pid in _family(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _say(self, *statements: str) -> None:
        engine = create_engine(self.admin_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()


class Postgresql(Server):
    """PostgreSQL, with its own durability on: a crash of it must lose nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        bin_folder = servers._newest_postgresql() or ""
        initdb, server = servers._program("initdb", bin_folder), servers._program("postgres", bin_folder)
        if initdb is None or server is None:
            raise CannotRun("PostgreSQL is not installed on this machine")
        user, data, port = servers._unprivileged(), folder / "data", self._port
        made = [initdb, "-D", str(data), "-U", "intentloop", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run(servers._as(user, made), check=True, capture_output=True, cwd=folder)
        options = ["listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=64MB"]
        chosen = [part for option in options for part in ("-c", option)]
        self.start = servers._as(user, [server, "-D", str(data), "-p", str(port), "-k", str(folder), *chosen])
        self.admin_url = f"postgresql+psycopg://intentloop@127.0.0.1:{port}/postgres"
        self.url = f"postgresql+psycopg://intentloop@127.0.0.1:{self._proxy.port}/postgres"

    def stopped(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=60)

    def read_only(self) -> None:
        """For every transaction from now on, those of open sessions too."""
        self._say("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")

    def writable(self) -> None:
        self._say("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


class Mariadb(Server):
    """MariaDB. The service is no administrator here: those may write into a read-only server."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        install, server = servers._program("mariadb-install-db", "/usr/bin"), servers._program("mariadbd", "/usr/sbin")
        if install is None or server is None:
            raise CannotRun("MariaDB is not installed on this machine")
        user, data, port = servers._unprivileged(), folder / "data", self._port
        made = [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run(servers._as(user, [*made, "--skip-test-db"]), check=True, capture_output=True, cwd=folder)
        options = [f"--datadir={data}", f"--port={port}", f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}"]
        options += ["--bind-address=127.0.0.1", "--skip-log-bin", "--innodb-buffer-pool-size=64M"]
        self.start = servers._as(user, [server, "--no-defaults", *options])
        self.admin_url = f"mysql+pymysql://root@127.0.0.1:{port}/"
        self.url = f"mysql+pymysql://service:service@127.0.0.1:{self._proxy.port}/intentloop"

    def prepare(self) -> None:
        self._say(
            "CREATE DATABASE intentloop CHARACTER SET utf8mb4",
            "CREATE USER service@'127.0.0.1' IDENTIFIED BY 'service'",
            "GRANT ALL ON intentloop.* TO service@'127.0.0.1'",
        )
        super().prepare()

    def stopped(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=60)

    def read_only(self) -> None:
        """For all but administrators."""
        self._say("SET GLOBAL read_only = 1")

    def writable(self) -> None:
        self._say("SET GLOBAL read_only = 0")


@contextmanager
def victim(kind: str, folder: Path) -> Iterator[Victim]:
    """A database of this kind, ready, gone with the block.

    Raises:
        CannotRun: its server is not installed.
    """
    if kind == "sqlite":
        made: Victim = Sqlite(folder)
        made.prepare()
        yield made
        return
    with servers._folder(servers._unprivileged()) as place:
        server = Postgresql(place) if kind == "postgresql" else Mariadb(place)
        try:
            server.run()
            server.prepare()
            yield server
        finally:
            server.end()


def available() -> list[str]:
    """The kinds of databases that this machine has."""
    folder = servers._newest_postgresql() or ""
    found = ["sqlite"]
    if servers._program("postgres", folder):
        found.append("postgresql")
    if servers._program("mariadbd", "/usr/sbin"):
        found.append("mariadb")
    return found


def _family(pid: int) -> list[int]:
    """A process and those that it started, from the kernel's table."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found
