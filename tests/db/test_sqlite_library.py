"""One SQLite library in a process, the best that is installed, and a plain word about one that can damage a file."""

import ast
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.db import sqlite_library
from app.db.session import connect
from app.db.sqlite_library import best, is_safe, warn_if_broken

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 6, 23), True),  # before there was a write-ahead log
        ((3, 7, 0), False), ((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 44, 9), True),
        ((3, 45, 0), False), ((3, 49, 2), False), ((3, 50, 6), False), ((3, 50, 7), True), ((3, 51, 0), False),
        ((3, 51, 2), False), ((3, 51, 3), True), ((3, 52, 0), True), ((3, 53, 4), True), ((4, 0, 0), True),
    ],
)  # fmt: skip
def test_releases_with_the_broken_checkpoint_are_known(version: tuple[int, ...], safe: bool) -> None:
    assert is_safe(version) == safe


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ([(3, 53, 4), (3, 40, 1)], 0),
        ([(3, 40, 1), (3, 53, 4)], 1),
        # A package that was built against an old system library.
        ([(3, 40, 1), (3, 50, 7)], 1),
        ([(3, 51, 2), (3, 50, 7)], 1),
        ([(3, 50, 7), (3, 51, 3)], 1),
        ([(3, 45, 0), (3, 40, 1)], 0),
        ([(3, 53, 4), (3, 53, 4)], 0),
        ([(3, 40, 1)], 0),
    ],
)
def test_a_safe_library_is_chosen_before_a_newer_one(versions: list[tuple[int, ...]], chosen: int) -> None:
    assert best(versions) == chosen


def test_databases_are_opened_with_the_chosen_library(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    with engine.connect() as connection:
        used = connection.execute(text("SELECT sqlite_version()")).scalar_one()
        driver: Any = connection.connection.driver_connection
        assert isinstance(driver, sqlite_library.DRIVER.Connection)
    assert used == sqlite_library.DRIVER.sqlite_version
    assert engine.dialect.loaded_dbapi is sqlite_library.DRIVER
    engine.dispose()


def test_without_the_package_pythons_own_library_serves() -> None:
    code = (
        "import sys; sys.modules['pysqlite3'] = sys.modules['pysqlite3.dbapi2'] = None\n"
        "from app.db.sqlite_library import DRIVER; import sqlite3\n"
        "sys.exit(DRIVER is not sqlite3.dbapi2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_no_code_of_ours_opens_sqlite_past_the_chosen_library() -> None:
    owner = ROOT / "app" / "db" / "sqlite_library.py"
    for room in ("app", "jobs", "trainer", "migrations", "bench"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import | ast.ImportFrom) and path != owner:
                    names = {alias.name.split(".")[0] for alias in node.names}
                    module = (getattr(node, "module", None) or "").split(".")[0]
                    assert not {"sqlite3", "pysqlite3"} & {module, *names}, path
                    if "create_engine" in names:
                        assert path == ROOT / "app" / "db" / "session.py", path


def test_the_log_says_at_the_start_that_the_file_is_at_risk(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(sqlite_library, "DRIVER", sqlite3)
    for version, dialect, warned in [
        ((3, 51, 3), "sqlite", False), ((3, 40, 1), "postgresql", False), ((3, 40, 1), "sqlite", True),
    ]:  # fmt: skip
        monkeypatch.setattr(sqlite_library, "version", lambda version=version: version)
        caplog.clear()
        warn_if_broken(dialect)
        assert bool(caplog.messages) == warned
        assert all("intentloop doctor" in message for message in caplog.messages)
