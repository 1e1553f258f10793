"""An object store: whole or not at all, proved on arrival, kept in bounds, and never blamed for the network."""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from app.artifacts.cache import READING_SECONDS, ArtifactCache
from app.artifacts.opening import open_store
from app.artifacts.remote import RemoteStore
from app.artifacts.store import ArtifactMissing, ArtifactUnavailable, is_whole
from app.scorers.artifact import ArtifactCorrupt
from app.settings import Settings
from tests.artifacts.conftest import copy
from tests.serving.artifacts import Artifact

Open = Callable[..., RemoteStore]


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """A fresh store of each kind."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://intentloop/{uuid.uuid4().hex}"
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Open:
    """The store as a machine of this name sees it: with a data folder of its own."""

    def make(name: str = "one", **changes: Any) -> RemoteStore:
        settings = Settings(_env_file=None, data_dir=tmp_path / name, artifacts_url=url, **changes)
        settings.artifacts.mkdir(parents=True, exist_ok=True)
        store = open_store(settings)
        assert isinstance(store, RemoteStore)
        return store

    return make


def objects(store: RemoteStore) -> list[str]:
    store._files.invalidate_cache()
    return sorted(str(path).rpartition("/")[2] for path in store._files.find(store._root))


def test_what_one_machine_publishes_another_fetches_whole(machine: Open, made: Path, artifact: Artifact) -> None:
    one, two = machine("one"), machine("two")
    assert one.publish(made) == artifact.digest
    assert not made.exists()
    fetched = two.fetch(artifact.digest)
    assert is_whole(fetched, artifact.digest)
    assert fetched.parent == two.local != one.local
    assert two.holds(artifact.digest)
    assert one.location(artifact.digest).endswith(f"/{artifact.digest}")


def test_machine_that_trained_it_reads_nothing_back(machine: Open, made: Path, artifact: Artifact) -> None:
    store = machine()
    store.publish(made)
    store._files = None
    assert is_whole(store.fetch(artifact.digest), artifact.digest)


def test_second_writer_of_the_same_does_no_harm(machine: Open, made: Path, artifact: Artifact, tmp_path: Path) -> None:
    machine("one").publish(made)
    before = objects(machine("one"))
    assert machine("two").publish(copy(artifact, tmp_path / "again")) == artifact.digest
    assert objects(machine("one")) == before
    assert is_whole(machine("three").fetch(artifact.digest), artifact.digest)


def test_artifact_that_was_damaged_in_the_store_is_mended_by_training_it_again(
    machine: Open, made: Path, artifact: Artifact, tmp_path: Path
) -> None:
    one = machine("one")
    one.publish(made)
    one._files.pipe_file(one._path(artifact.digest, "lineage.json"), b"{}")
    machine("two").publish(copy(artifact, tmp_path / "again"))
    assert is_whole(machine("three").fetch(artifact.digest), artifact.digest)


def test_half_an_upload_is_no_artifact(machine: Open, made: Path, artifact: Artifact, monkeypatch: Any) -> None:
    """The manifest is written last: who died before it left nothing that could be fetched."""
    one = machine("one")
    real = one._files.pipe_file

    def cut(path: str, value: bytes, **more: Any) -> None:
        raise ConnectionError("cut")

    monkeypatch.setattr(one._files, "pipe_file", cut)
    with pytest.raises(ArtifactUnavailable):
        one.publish(made)
    assert made.is_dir()
    with pytest.raises(ArtifactMissing):
        machine("two").fetch(artifact.digest)
    assert not machine("two").holds(artifact.digest)
    monkeypatch.setattr(one._files, "pipe_file", real)
    one.publish(made)
    assert is_whole(machine("two").fetch(artifact.digest), artifact.digest)


def _flip_a_bit(store: RemoteStore, digest: str) -> None:
    path = store._path(digest, "weights.npz")
    content = bytearray(store._files.cat_file(path))
    content[len(content) // 2] ^= 1
    store._files.pipe_file(path, bytes(content))


def _truncate(store: RemoteStore, digest: str) -> None:
    path = store._path(digest, "weights.npz")
    store._files.pipe_file(path, store._files.cat_file(path)[:-7])


def _lengthen(store: RemoteStore, digest: str) -> None:
    path = store._path(digest, "weights.npz")
    store._files.pipe_file(path, store._files.cat_file(path) + b"x" * 5000)


def _lose_a_file(store: RemoteStore, digest: str) -> None:
    store._files.rm_file(store._path(digest, "weights.npz"))


def _change_the_manifest(store: RemoteStore, digest: str) -> None:
    path = store._path(digest, "manifest.json")
    store._files.pipe_file(path, store._files.cat_file(path).replace(b"ngram", b"ngrbm"))


@pytest.mark.parametrize(
    "harm",
    [_flip_a_bit, _truncate, _lengthen, _lose_a_file, _change_the_manifest],
    ids=lambda harm: harm.__name__.strip("_"),
)
def test_wrong_bytes_in_the_store_are_refused_and_nothing_of_them_is_kept(
    machine: Open, made: Path, artifact: Artifact, harm: Any
) -> None:
    machine("one").publish(made)
    harm(machine("one"), artifact.digest)
    two = machine("two")
    with pytest.raises(ArtifactCorrupt):
        two.fetch(artifact.digest)
    assert [path.name for path in two.local.iterdir() if path.name != ".workshop"] == []
    assert list((two.local / ".workshop").iterdir()) == []


def test_manifest_that_is_not_the_registered_one_is_not_believed_about_what_to_read(
    machine: Open, made: Path, artifact: Artifact, monkeypatch: Any
) -> None:
    machine("one").publish(made)
    _change_the_manifest(machine("one"), artifact.digest)
    two, read = machine("two"), []
    monkeypatch.setattr(two, "_receive", lambda *given: read.append(given))
    with pytest.raises(ArtifactCorrupt, match="manifest differs"):
        two.fetch(artifact.digest)
    assert read == []


def test_transfer_that_broke_once_is_read_again(
    machine: Open, made: Path, artifact: Artifact, monkeypatch: Any
) -> None:
    machine("one").publish(made)
    two = machine("two")
    real, calls = two._receive, []

    def once_short(digest: str, name: str, size: int, target: Path) -> None:
        real(digest, name, size, target)
        if not calls:
            target.write_bytes(target.read_bytes()[:-1])
        calls.append(name)

    monkeypatch.setattr(two, "_receive", once_short)
    assert is_whole(two.fetch(artifact.digest), artifact.digest)


def test_store_that_does_not_answer_says_nothing_about_the_artifact(
    machine: Open, made: Path, artifact: Artifact, monkeypatch: Any
) -> None:
    machine("one").publish(made)
    two = machine("two")

    def hang_up(*_: Any, **__: Any) -> None:
        raise TimeoutError("https://key:secret@store/…")

    for name in ("cat_file", "info", "ls"):
        monkeypatch.setattr(two._files, name, hang_up)
    for ask in (two.fetch, two.holds):
        with pytest.raises(ArtifactUnavailable) as refused:
            ask(artifact.digest)
        assert "secret" not in str(refused.value)
    with pytest.raises(ArtifactUnavailable):
        two.older_than(0)
    assert not isinstance(refused.value, ArtifactCorrupt)


def test_damaged_copy_in_the_cache_is_fetched_anew(machine: Open, made: Path, artifact: Artifact) -> None:
    store = machine()
    store.publish(made)
    path = store.local / artifact.digest / "weights.npz"
    path.write_bytes(b"x")
    assert is_whole(store.fetch(artifact.digest), artifact.digest)


def test_only_old_artifacts_are_listed_and_a_removed_one_is_gone(machine: Open, made: Path, artifact: Artifact) -> None:
    store = machine()
    assert store.older_than(0) == {}
    store.publish(made)
    assert store.older_than(3600) == {}
    assert store.older_than(-3600) == {artifact.digest: "cd"}
    assert not store.remove(artifact.digest, unwanted=lambda: False)
    assert store.remove(artifact.digest, unwanted=lambda: True)
    assert objects(store) == []
    with pytest.raises(ArtifactMissing):
        machine("two").fetch(artifact.digest)


# The cache


def _kept(root: Path, name: str, size: int, *, age: float) -> str:
    digest = name * 64
    (root / digest).mkdir(parents=True)
    (root / digest / "x.bin").write_bytes(b"x" * size)
    os.utime(root / digest, (time.time() - age,) * 2)
    return digest


def test_cache_lets_go_of_what_was_used_longest_ago_and_never_of_what_is_needed(tmp_path: Path) -> None:
    old = READING_SECONDS * 10
    needed = _kept(tmp_path, "a", 600, age=old * 4)
    _kept(tmp_path, "b", 600, age=old * 3)
    later = _kept(tmp_path, "c", 600, age=old * 2)
    read_now = _kept(tmp_path, "d", 600, age=1)
    (tmp_path / "notes").mkdir()
    cache = ArtifactCache(tmp_path, max_bytes=1900, needed=lambda: {needed})
    cache.trim()
    assert {path.name for path in tmp_path.iterdir()} - {".workshop"} == {needed, later, read_now, "notes"}
    cache = ArtifactCache(tmp_path, max_bytes=1, needed=lambda: {needed})
    cache.trim()
    # What may be read at this moment stays, whatever the bound says.
    assert {path.name for path in tmp_path.iterdir()} - {".workshop"} == {needed, read_now, "notes"}


def test_cache_clears_away_downloads_of_processes_that_are_gone(tmp_path: Path) -> None:
    left = tmp_path / ".workshop" / "partial-1"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    trainers = tmp_path / ".workshop" / "default-1-abcd"
    trainers.mkdir()
    os.utime(trainers, (0, 0))
    ArtifactCache(tmp_path, max_bytes=1, needed=tuple).trim()
    assert [path.name for path in (tmp_path / ".workshop").iterdir()] == ["default-1-abcd"]


def test_of_two_processes_that_fetch_at_once_both_have_it(
    machine: Open, made: Path, artifact: Artifact, monkeypatch: Any
) -> None:
    machine("one").publish(made)
    first, second = machine("two"), machine("two")
    keep = first.cache.keep

    def after_the_other(arrived: Path, digest: str) -> Path:
        second.fetch(digest)
        return keep(arrived, digest)

    monkeypatch.setattr(first.cache, "keep", after_the_other)
    assert is_whole(first.fetch(artifact.digest), artifact.digest)


def test_settings_say_where_artifacts_are(tmp_path: Path) -> None:
    def given(**values: Any) -> Settings:
        return Settings(_env_file=None, data_dir=tmp_path, **values)

    assert given().artifacts == tmp_path / "artifacts"
    assert given(artifacts_url=f"file://{tmp_path}/a%20b").artifacts == tmp_path / "a b"
    assert given(artifacts_url="s3://bucket/path").artifacts == tmp_path / "cache" / "artifacts"
    for wrong in ("bucket/path", "s3:bucket", "s3://key:secret@bucket", "s3://bucket?region=x"):
        with pytest.raises(ValueError, match=r"URL|credentials"):
            given(artifacts_url=wrong)
    with pytest.raises(ValueError, match="exclude each other"):
        given(artifacts_url="s3://bucket", artifacts_dir=tmp_path)


def test_store_of_no_kind_that_there_is_says_so(tmp_path: Path) -> None:
    from app.errors import SetupError

    with pytest.raises(SetupError, match="nonsense"):
        open_store(Settings(_env_file=None, data_dir=tmp_path, artifacts_url="nonsense://x/y"))


def test_real_server_that_is_gone_or_refuses_is_unavailable(
    s3: object, tmp_path: Path, made: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path / "one", artifacts_url=f"s3://intentloop/{uuid.uuid4().hex}")
    settings.artifacts.mkdir(parents=True)
    store = open_store(settings)
    store.publish(made)
    shutil.rmtree(settings.artifacts)
    monkeypatch.setattr("app.artifacts.opening.TRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("app.artifacts.opening.RETRY_SECONDS", 1)
    fsspec.config.conf.clear()
    gone = open_store(settings)
    with pytest.raises(ArtifactUnavailable):
        gone.fetch(artifact.digest)
