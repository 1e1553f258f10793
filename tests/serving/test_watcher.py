"""The watcher: it follows what is wanted, tells what is served, and does not hammer what cannot be loaded."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.intent.releases import DomainState, Release
from app.serving import watcher as watching
from app.serving.runtime import Runtime
from app.serving.watcher import Watcher
from tests.serving.artifacts import Artifact, release


class Wanted:
    """What the domains are to serve, as a database would say it, and what was reported back."""

    def __init__(self, *releases: Release) -> None:
        self.releases = list(releases)
        self.loads = 0
        self.looks = 0
        self.reports: list[tuple[str, int, str | None, bool]] = []
        self.broken: Exception | None = None

    def states(self) -> list[DomainState]:
        self.looks += 1
        if self.broken is not None:
            raise self.broken
        return [release.state for release in self.releases]

    def release(self, domain_id: int) -> Release:
        self.loads += 1
        return next(release for release in self.releases if release.state.domain_id == domain_id)

    def report(self, release: Release, error: str | None, corrupt: bool) -> None:
        self.reports.append((release.state.name, release.state.epoch, error, corrupt))


@pytest.fixture
def runtime(tmp_path: Path, artifact: Artifact) -> Runtime:
    artifact.installed_in(tmp_path / "artifacts")
    return Runtime(tmp_path / "artifacts")


def _watch(runtime: Runtime, wanted: Wanted, poll_seconds: float = 0.02) -> Watcher:
    return Watcher(
        runtime, states=wanted.states, release=wanted.release, report=wanted.report, poll_seconds=poll_seconds
    )


def _until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def stopped() -> Iterator[list[Watcher]]:
    watchers: list[Watcher] = []
    yield watchers
    for watcher in watchers:
        watcher.stop()


def test_first_look_is_over_when_start_returns(runtime: Runtime, artifact: Artifact, stopped: list[Watcher]) -> None:
    watcher = _watch(runtime, Wanted(release(artifact)), poll_seconds=10)
    stopped.append(watcher)
    watcher.start()
    loaded = runtime.find("default")
    assert loaded is not None
    assert loaded.release.version == "default-v1"


def test_flip_is_followed_and_reported(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact, tmp_path: Path, stopped: list[Watcher]
) -> None:
    other_artifact.installed_in(tmp_path / "artifacts")
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    stopped.append(watcher)
    watcher.start()
    wanted.releases = [release(other_artifact, epoch=2, version="default-v2")]
    _until(lambda: runtime.find("default").release.version == "default-v2", 1.0)  # type: ignore[union-attr]
    _until(lambda: len(wanted.reports) == 2)
    assert wanted.reports == [("default", 1, None, False), ("default", 2, None, False)]
    assert watcher.errors == {}


def test_new_taxonomy_alone_is_followed(runtime: Runtime, artifact: Artifact) -> None:
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    watcher.look()
    renamed = {1: "新", 2: "旧", 3: "别"}
    wanted.releases = [release(artifact, taxonomy_version=2, paths=renamed)]
    watcher.look()
    loaded = runtime.find("default")
    assert loaded is not None
    assert loaded.release.paths == renamed


def test_nothing_is_loaded_or_said_while_nothing_changes(runtime: Runtime, artifact: Artifact) -> None:
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    for _ in range(50):
        watcher.look()
    assert wanted.loads == 1
    assert len(wanted.reports) == 1


def test_version_that_cannot_be_loaded_is_reported_once_and_not_tried_in_a_storm(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact
) -> None:
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    watcher.look()
    wanted.releases = [release(other_artifact, epoch=2)]  # its folder is not there
    for _ in range(50):
        watcher.look()

    assert wanted.loads == 2
    name, epoch, error, corrupt = wanted.reports[-1]
    assert len(wanted.reports) == 2
    assert (name, epoch, corrupt) == ("default", 2, True)
    assert watcher.errors == {"default": error}
    assert runtime.find("default").release.version == "default-v1"  # type: ignore[union-attr]


def test_replica_that_cannot_load_goes_on_saying_so(
    runtime: Runtime, other_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would count as gone, and its error with it, until the next try."""
    monkeypatch.setattr(watching, "REPORT_SECONDS", 0.0)
    wanted = Wanted(release(other_artifact))
    watcher = _watch(runtime, wanted)
    for _ in range(3):
        watcher.look()
    assert wanted.loads == 1
    assert len(wanted.reports) == 3
    assert {report[2] for report in wanted.reports} == {watcher.errors["default"]}
    # What is wrong with the artifact is told once: it is a fact about the version, not about this moment.
    assert [report[3] for report in wanted.reports] == [True, False, False]


def test_failed_version_is_tried_again_after_a_while_and_then_serves(
    runtime: Runtime, other_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(release(other_artifact))
    watcher = _watch(runtime, wanted)
    watcher.look()
    assert watcher.errors
    other_artifact.installed_in(tmp_path / "artifacts")
    watcher.look()
    assert watcher.errors
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.0)
    watcher.look()
    assert watcher.errors == {}
    assert runtime.find("default") is not None


def test_going_back_from_a_failed_version_is_not_held_up_by_it(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact
) -> None:
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    watcher.look()
    wanted.releases = [release(other_artifact, epoch=2)]
    watcher.look()
    wanted.releases = [release(artifact, epoch=3)]
    watcher.look()
    assert watcher.errors == {}
    assert runtime.find("default").release.state.epoch == 3  # type: ignore[union-attr]


def test_domain_that_cannot_be_loaded_does_not_hold_up_the_others(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact
) -> None:
    bad = release(other_artifact, domain="bad")
    good = release(artifact, domain="good")
    good = Release(
        DomainState(2, *_rest(good.state)), good.version_id, good.version, good.artifact_digest, 0.5, good.paths
    )
    watcher = _watch(runtime, Wanted(bad, good))
    watcher.look()
    assert runtime.find("good") is not None
    assert set(watcher.errors) == {"bad"}


def _rest(state: DomainState) -> tuple[str, str, bool, int, int]:
    return state.name, state.task, state.keep_text, state.epoch, state.taxonomy_version


def test_artifact_that_breaks_the_loader_in_an_unknown_way_is_a_failed_load(
    runtime: Runtime, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours in a loader must look like any broken artifact: one report, no storm, the other domains served."""
    from app.scorers import LOADERS

    def broken(_: Path) -> object:
        raise IndexError("list index out of range")

    monkeypatch.setitem(LOADERS, "ngram", broken)  # type: ignore[arg-type]
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    for _ in range(5):
        watcher.look()
    assert wanted.loads == 1
    assert "IndexError" in watcher.errors["default"]
    assert wanted.reports[0][3] is False


def test_database_that_is_away_changes_nothing_and_is_asked_again(
    runtime: Runtime, artifact: Artifact, stopped: list[Watcher]
) -> None:
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    stopped.append(watcher)
    watcher.start()
    wanted.broken = ConnectionError("away")
    looks = wanted.looks
    _until(lambda: wanted.looks > looks + 5)
    assert runtime.find("default") is not None
    wanted.broken = None
    wanted.releases = [release(artifact, epoch=5)]
    _until(lambda: runtime.find("default").release.state.epoch == 5)  # type: ignore[union-attr]


def test_artifact_damaged_after_it_was_loaded_serves_on(runtime: Runtime, artifact: Artifact, tmp_path: Path) -> None:
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    watcher.look()
    shutil.rmtree(tmp_path / "artifacts")
    wanted.releases = [release(artifact, epoch=2)]
    watcher.look()
    assert watcher.errors == {}
    assert runtime.find("default").release.state.epoch == 2  # type: ignore[union-attr]


def test_service_that_starts_with_a_damaged_artifact_knows_the_domain_and_answers_without_a_model(
    runtime: Runtime, artifact: Artifact, tmp_path: Path
) -> None:
    wanted = release(artifact)
    weights = tmp_path / "artifacts" / artifact.digest / "weights.npz"
    whole = weights.read_bytes()
    weights.write_bytes(whole + b"x")
    watcher = _watch(runtime, Wanted(wanted))

    watcher.look()

    loaded = runtime.find(wanted.state.name)
    assert loaded is not None
    assert (loaded.release.version, loaded.tiers) == (None, ())
    assert wanted.state.name in watcher.errors

    weights.write_bytes(whole)
    watcher._failed.clear()  # as after RETRY_SECONDS
    watcher.look()
    recovered = runtime.find(wanted.state.name)
    assert recovered is not None
    assert recovered.release == wanted
