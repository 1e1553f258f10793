"""Artifacts for the tests of serving: trained once."""

import pytest

from tests.serving.artifacts import Artifact, train


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("artifact"), (1, 2, 3))


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same texts under other label ids: another digest, other answers."""
    return train(tmp_path_factory.mktemp("other"), (3, 1, 2))


@pytest.fixture(scope="session")
def third_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("third"), (2, 3, 1))
