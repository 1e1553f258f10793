"""Units of work on SQLite alone, for what does not depend on the database."""

from collections.abc import Iterator

import pytest

from app.db.session import UnitOfWork, connect


@pytest.fixture
def sqlite_work(sqlite_url: str) -> Iterator[UnitOfWork]:
    engine = connect(sqlite_url)
    yield UnitOfWork(engine)
    engine.dispose()
