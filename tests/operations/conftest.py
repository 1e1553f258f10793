"""Artifacts that are trained once, and installations on one or another database."""

from pathlib import Path

import pytest

from tests.serving.artifacts import Artifact, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Two artifacts that differ."""
    folder = tmp_path_factory.mktemp("trained")
    return train(folder / "one", (1, 2, 3)), train(folder / "two", (1, 2, 3), seed=1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder of artifacts."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder
