"""One small real artifact, and a small S3 server."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.object_stores import s3_environment
from tests.serving.artifacts import Artifact, train


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("artifact"), (1, 2, 3))


@pytest.fixture
def made(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy as a trainer leaves it, to be published."""
    return copy(artifact, tmp_path / "made")


def copy(artifact: Artifact, folder: Path) -> Path:
    shutil.copytree(artifact.folder, folder)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Mapping[str, str]]:
    with s3_environment() as environment:
        yield environment


@pytest.fixture
def s3(s3_server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The environment in which the server is reached is that of the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return s3_server
