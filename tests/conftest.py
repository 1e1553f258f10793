"""The databases that tests run on: SQLite always, PostgreSQL and MariaDB when they are on the machine."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.db.schema import head, migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import Base
from app.services import domains
from tests import servers

# Started in the background of a shell, a process ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = ("sqlite", "postgresql", "mariadb")
# Few tests that take long each: whole loops by real processes, kills, copies of databases, training of neural models.
# `make test` leaves them to `make test-long`, so that it stays one that people run before each commit.
LONG = (
    "tests/api/test_late_labelers.py",
    "tests/api/test_openapi_fuzz.py",
    "tests/api/test_process.py",
    "tests/bench/",
    "tests/cli/test_base_models.py",
    "tests/db/test_guard.py",
    "tests/db/test_schema.py",
    "tests/jobs/test_clock.py",
    "tests/jobs/test_crash_points.py",
    "tests/jobs/test_generative_versions.py",
    "tests/jobs/test_onnx_versions.py",
    "tests/jobs/test_propose_scenarios.py",
    "tests/jobs/test_recipes.py",
    "tests/journeys/",
    "tests/operations/",
    "tests/simulation/test_loop.py",
    "tests/simulation/test_show.py",
    "tests/trainer/encoders/",
    "tests/trainer/generative/",
    "tests/trainer/tuning/",
    "tests/trainer/test_by_hand.py",
    "tests/trainer/test_encoder.py",
    "tests/trainer/test_head.py",
    "tests/trainer/test_imported.py",
)
# The loop closes by real processes here, as `make test` is to see it too.
NOT_LONG = ("tests/journeys/test_loop.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(LONG) and not item.nodeid.startswith(NOT_LONG):
            item.add_marker("long")


class Databases:
    """One migrated database of each kind, started when the first test asks for it, emptied between tests."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._urls: dict[str, str] = {}
        self._head = head()

    def server(self, backend: str) -> str:
        """The URL of a server's database, without any of our tables guaranteed."""
        if backend not in self._urls:
            self._urls[backend] = self._stack.enter_context(getattr(servers, backend)())
        return self._urls[backend]

    def fresh(self, backend: str, folder: Path) -> str:
        """The URL of a migrated database that holds the empty domain `default` and nothing else."""
        if backend == "sqlite":
            return self._fresh_sqlite(folder)
        known = backend in self._urls
        url = self.server(backend)
        engine = connect(url)
        if known:
            _empty(engine)
        # Reading all migrations to find that none is missing takes as long as many a test.
        if not known or not _is_at(engine, self._head):
            migrate(engine)
        UnitOfWork(engine)(domains.ensure_default)
        engine.dispose()
        return url

    def _fresh_sqlite(self, folder: Path) -> str:
        template = self._folder / "template.db"
        if not template.exists():
            engine = connect(f"sqlite:///{template}")
            migrate(engine)
            UnitOfWork(engine)(domains.ensure_default)
            # Closing the last connection folds the write-ahead log into the file.
            engine.dispose()
        shutil.copy(template, folder / "intentloop.db")
        return f"sqlite:///{folder / 'intentloop.db'}"


def _is_at(engine: Engine, revision: str) -> bool:
    with engine.connect() as connection:
        if "alembic_version" not in connection.dialect.get_table_names(connection):
            return False
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == [revision]


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        present = set(connection.dialect.get_table_names(connection))
        if connection.dialect.name in ("mysql", "mariadb"):
            # It checks row by row, and annotations refer to each other.
            connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for table in reversed(Base.metadata.sorted_tables):
            if table.name in present:
                connection.execute(table.delete())
        if connection.dialect.name in ("mysql", "mariadb"):
            connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with ExitStack() as stack:
        yield Databases(stack, tmp_path_factory.mktemp("databases"))


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> str:
    """A fresh database; the test runs once on each kind."""
    return databases.fresh(request.param, tmp_path)


@pytest.fixture
def sqlite_url(databases: Databases, tmp_path: Path) -> str:
    """A fresh SQLite database, for what does not depend on the database."""
    return databases.fresh("sqlite", tmp_path)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def work(engine: Engine) -> UnitOfWork:
    """Units of work on a fresh database of each kind."""
    return UnitOfWork(engine)
