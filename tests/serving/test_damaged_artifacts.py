"""Some hundred damaged artifacts: the long form is `make torture NAME=artifacts`."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from app.serving import watcher
from tests.serving.artifacts import Artifact
from tests.torture.artifacts import AFTER_FLIP, KINDS, result, torture, whole_artifacts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return whole_artifacts(tmp_path_factory.mktemp("whole"))


def test_no_damaged_artifact_serves_and_the_old_one_does(made: Mapping[str, Artifact], tmp_path: Path) -> None:
    counts = torture(tmp_path, made, 500, seed=1)

    assert counts.mutations == 500
    assert set(counts.by_damage) == {*KINDS, AFTER_FLIP}
    assert result(counts).holds, counts


def test_a_build_that_drops_the_digest_is_caught(made: Mapping[str, Artifact], tmp_path: Path) -> None:
    counts = torture(tmp_path, made, 120, seed=1, without_digest=True)

    assert counts.accepted > 10
    assert counts.answers_changed > 0
    assert not result(counts).holds


def test_a_build_that_reads_a_broken_artifact_again_and_again_is_caught(
    made: Mapping[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "RETRY_SECONDS", 0.0)

    counts = torture(tmp_path, made, 20, seed=1)

    assert counts.most_tries > 1
    assert not result(counts).holds
