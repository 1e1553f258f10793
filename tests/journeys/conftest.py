"""A fresh installation on SQLite, for journeys that do not depend on the database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.processes import Installation, installation


@pytest.fixture
def world(tmp_path: Path, sqlite_url: str) -> Iterator[Installation]:
    with installation(tmp_path, sqlite_url) as made:
        yield made
