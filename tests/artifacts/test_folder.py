"""A folder as the store: nothing is copied, nothing half is served, and a disk that is away blames no artifact."""

import os
import shutil
from pathlib import Path

import pytest

from app.artifacts.folder import FolderStore
from app.artifacts.store import ArtifactMissing, ArtifactUnavailable, is_whole
from tests.artifacts.conftest import copy
from tests.serving.artifacts import Artifact


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "store").mkdir()
    return FolderStore(tmp_path / "store")


def test_artifact_is_served_from_where_it_lies(store: FolderStore, made: Path, artifact: Artifact) -> None:
    inode = (made / "weights.npz").stat().st_ino
    assert store.publish(made) == artifact.digest
    fetched = store.fetch(artifact.digest)
    assert str(fetched) == store.location(artifact.digest)
    assert (fetched / "weights.npz").stat().st_ino == inode
    assert store.holds(artifact.digest)


def test_missing_artifact_is_missing_and_a_missing_folder_is_out_of_reach(store: FolderStore) -> None:
    with pytest.raises(ArtifactMissing):
        store.fetch("0" * 64)
    store.local.rmdir()
    with pytest.raises(ArtifactUnavailable):
        store.fetch("0" * 64)


def test_damaged_artifact_is_replaced_by_one_that_is_trained_again(
    store: FolderStore, made: Path, artifact: Artifact, tmp_path: Path
) -> None:
    store.publish(made)
    (store.fetch(artifact.digest) / "lineage.json").write_text("{}")
    store.publish(copy(artifact, tmp_path / "again"))
    assert is_whole(store.fetch(artifact.digest), artifact.digest)


def test_artifact_that_is_wanted_at_the_last_moment_is_put_back(
    store: FolderStore, made: Path, artifact: Artifact
) -> None:
    store.publish(made)
    os.utime(store.fetch(artifact.digest), (0, 0))
    assert list(store.older_than(3600)) == [artifact.digest]
    assert not store.remove(artifact.digest, unwanted=lambda: False)
    assert store.holds(artifact.digest)
    assert store.remove(artifact.digest, unwanted=lambda: True)
    assert not store.holds(artifact.digest)
    shutil.rmtree(store.local)
    assert store.older_than(0) == {}
