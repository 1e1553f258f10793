"""Private database servers for tests: started on a free port and a temporary folder, gone with the test session."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

START_SECONDS = 60


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def missing(what: str) -> None:
    """A server that is not there fails the build machine's run, and is a clear skip for a person."""
    reason = f"{what} is not installed on this machine"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


def _program(name: str, *places: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *places]))


def _newest_postgresql() -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    return str(versions[0]) if versions else None


@contextmanager
def _folder(owner: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="intentloop-test-"))
    try:
        if owner is not None:
            os.chown(folder, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str | None:
    """The user to run as where tests run as root, which PostgreSQL refuses to."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


def _as(user: str | None, command: list[str]) -> list[str]:
    return (
        command
        if user is None
        else ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups", *command]
    )


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            return
        except DBAPIError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            engine.dispose()


@contextmanager
def postgresql(*, fsync: bool = False) -> Iterator[str]:
    """The URL of a private PostgreSQL's database `intentloop`; `fsync`: as it is run where rows matter."""
    bin_folder = _newest_postgresql() or ""
    initdb, server = _program("initdb", bin_folder), _program("postgres", bin_folder)
    if initdb is None or server is None:
        missing("PostgreSQL")
        return
    user = _unprivileged()
    with _folder(user) as folder:
        data, port = folder / "data", free_port()
        subprocess.run(
            _as(user, [initdb, "-D", str(data), "-U", "intentloop", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]),
            check=True,
            capture_output=True,
            cwd=folder,
        )
        process = subprocess.Popen(
            _as(
                user,
                [
                    server,
                    "-D",
                    str(data),
                    "-p",
                    str(port),
                    "-k",
                    str(folder),
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "max_connections=200",
                    "-c",
                    "shared_buffers=64MB",
                    # What is tested is what our processes survive, not a power cut of this server.
                    "-c",
                    f"fsync={'on' if fsync else 'off'}",
                ],
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            url = f"postgresql+psycopg://intentloop@127.0.0.1:{port}/postgres"
            _wait_until_it_answers(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def mariadb() -> Iterator[str]:
    """The URL of a private MariaDB's database `intentloop`."""
    install, server = _program("mariadb-install-db", "/usr/bin"), _program("mariadbd", "/usr/sbin")
    if install is None or server is None:
        missing("MariaDB")
        return
    user = _unprivileged()
    with _folder(user) as folder:
        data, port = folder / "data", free_port()
        subprocess.run(
            _as(
                user,
                [
                    install,
                    "--no-defaults",
                    f"--datadir={data}",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ],
            ),
            check=True,
            capture_output=True,
            cwd=folder,
        )
        process = subprocess.Popen(
            _as(
                user,
                [
                    server,
                    "--no-defaults",
                    f"--datadir={data}",
                    f"--port={port}",
                    f"--socket={folder / 's'}",
                    "--bind-address=127.0.0.1",
                    f"--pid-file={folder / 'pid'}",
                    "--skip-log-bin",
                    "--max-connections=300",
                    "--innodb-buffer-pool-size=64M",
                    "--innodb-flush-log-at-trx-commit=0",
                ],
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            _wait_until_it_answers(f"mysql+pymysql://root@127.0.0.1:{port}/", process)
            engine = create_engine(f"mysql+pymysql://root@127.0.0.1:{port}/")
            with engine.begin() as connection:
                connection.execute(text("CREATE DATABASE intentloop CHARACTER SET utf8mb4"))
            engine.dispose()
            yield f"mysql+pymysql://root@127.0.0.1:{port}/intentloop"
        finally:
            process.terminate()
            process.wait(timeout=30)
