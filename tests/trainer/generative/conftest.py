"""One tiny base and one artifact trained on it, for all tests that only look."""

from pathlib import Path

import pytest

from tests.trainer.generative.bases import train_lora, write_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of base models, with the base `tiny` in it."""
    folder = tmp_path_factory.mktemp("bases")
    write_base(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def generative(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an artifact trained on `tiny`."""
    return train_lora(tmp_path_factory.mktemp("generative"), bases / "tiny")
