"""One trained artifact for all tests that only read it."""

from pathlib import Path

import pytest

from tests.trainer.specs import train


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real artifact with three labels. Read only: copy it before changing it."""
    return train(tmp_path_factory.mktemp("trained"))
