"""The watcher: it follows what is wanted, tells what is served, and does not hammer what cannot be loaded."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.store import ArtifactUnavailable
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

    def broken(_: Path, __: int, ___: Path | None) -> object:
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


class SlowStore:
    """Fetches like a folder, when it is let; or says that it is out of reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = threading.Event()
        self.asked = 0
        self.away = False

    def __call__(self, digest: str) -> Path:
        self.asked += 1
        if self.away:
            raise ArtifactUnavailable("the artifact store does not answer: Timeout")
        assert self.open.wait(20)
        return self.folder / digest


@pytest.fixture
def slow(tmp_path: Path, artifact: Artifact, other_artifact: Artifact) -> SlowStore:
    for one in (artifact, other_artifact):
        one.installed_in(tmp_path / "artifacts")
    return SlowStore(tmp_path / "artifacts")


def _serving(slow: SlowStore, artifact: Artifact) -> tuple[Runtime, Wanted, Watcher]:
    """The artifact serves, and whatever is wanted next waits for the store."""
    slow.open.set()
    runtime = Runtime(slow)
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted)
    watcher.look()
    slow.open.clear()
    return runtime, wanted, watcher


def test_slow_load_of_one_domain_holds_up_neither_another_nor_the_look(
    slow: SlowStore, artifact: Artifact, other_artifact: Artifact
) -> None:
    runtime = Runtime(slow)
    second = replace(release(None), state=DomainState(2, "second", "single_label", True, 0, 0))
    wanted = Wanted(release(artifact), second)
    watcher = _watch(runtime, wanted)
    watcher.look(patience_seconds=0)
    watcher.look(patience_seconds=0)
    assert (slow.asked, runtime.find("default")) == (1, None)
    assert runtime.find("second") is not None
    slow.open.set()
    _until(lambda: runtime.find("default"))
    watcher.look()
    assert wanted.loads == 2


def test_start_on_a_slow_store_knows_the_domain_and_says_that_its_version_loads(
    slow: SlowStore, artifact: Artifact, stopped: list[Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "START_PATIENCE_SECONDS", 0.05)
    runtime = Runtime(slow)
    watcher = _watch(runtime, Wanted(release(artifact)))
    stopped.append(watcher)
    watcher.start()
    loaded = runtime.find("default")
    assert loaded is not None
    assert (loaded.release.version, loaded.tiers) == (None, ())
    assert "loaded" in watcher.errors["default"]
    slow.open.set()
    _until(lambda: runtime.find("default").release.version == "default-v1")  # type: ignore[union-attr]
    _until(lambda: watcher.errors == {})


def test_flip_that_comes_while_another_loads_wins_and_the_overtaken_one_never_serves(
    slow: SlowStore, artifact: Artifact, other_artifact: Artifact, stopped: list[Watcher]
) -> None:
    runtime, wanted, watcher = _serving(slow, artifact)
    served: list[str | None] = []
    swap = runtime.swap

    def noted(given: Release, **more: Any) -> bool:
        done = swap(given, **more)
        served.append(given.version if done else None)
        return done

    runtime.swap = noted  # type: ignore[method-assign]
    wanted.releases = [release(other_artifact, epoch=2, version="default-v2")]
    watcher.look(patience_seconds=0)
    wanted.releases = [release(artifact, epoch=3, version="default-v3")]
    slow.open.set()
    _until(lambda: served)
    watcher.look()
    assert served == [None, "default-v3"]
    assert runtime.find("default").release.version == "default-v3"  # type: ignore[union-attr]


def test_going_back_to_what_is_in_memory_does_not_wait_for_a_load(
    slow: SlowStore, artifact: Artifact, other_artifact: Artifact
) -> None:
    """The way back from a bad version, whose artifact may take minutes to come."""
    runtime, wanted, watcher = _serving(slow, artifact)
    wanted.releases = [release(other_artifact, epoch=2, version="default-v2")]
    watcher.look(patience_seconds=0)
    wanted.releases = [release(artifact, epoch=3, version="default-v3")]
    watcher.look(patience_seconds=0)
    assert runtime.find("default").release.version == "default-v3"  # type: ignore[union-attr]
    assert wanted.reports[-1] == ("default", 3, None, False)
    slow.open.set()
    watcher.look()
    assert runtime.find("default").release.version == "default-v3"  # type: ignore[union-attr]


def test_load_that_fails_after_it_was_overtaken_is_no_error_of_what_serves(
    slow: SlowStore, artifact: Artifact, other_artifact: Artifact
) -> None:
    _, wanted, watcher = _serving(slow, artifact)
    shutil.rmtree(slow.folder / other_artifact.digest)
    wanted.releases = [release(other_artifact, epoch=2, version="default-v2")]
    watcher.look(patience_seconds=0)
    wanted.releases = [release(artifact, epoch=3, version="default-v3")]
    watcher.look(patience_seconds=0)
    slow.open.set()
    _until(lambda: len(wanted.reports) == 4)
    assert [(epoch, error is None, corrupt) for _, epoch, error, corrupt in wanted.reports] == [
        (1, True, False),
        (3, True, False),
        (2, False, True),
        (3, True, False),
    ]
    assert watcher.errors == {}


class Lingering(threading.Event):
    """Whoever is woken by it finds the thread that woke alive for a while."""

    def set(self) -> None:
        super().set()
        time.sleep(0.1)


@pytest.mark.parametrize(("patience", "served"), [(60.0, ["default-v2", "default-v3"]), (0.0, ["default-v3"])])
def test_what_was_overtaken_while_it_loaded_serves_meanwhile_only_if_it_was_wanted_lately(
    slow: SlowStore,
    artifact: Artifact,
    other_artifact: Artifact,
    third_artifact: Artifact,
    stopped: list[Watcher],
    monkeypatch: pytest.MonkeyPatch,
    patience: float,
    served: list[str],
) -> None:
    """Flips that come faster than a load takes must not keep a service on its old version for ever."""
    monkeypatch.setattr(watching, "OVERTAKEN_SECONDS", patience)
    third_artifact.installed_in(slow.folder)
    slow.open.set()
    runtime = Runtime(slow)
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted, poll_seconds=600)
    watcher._wake = Lingering()
    stopped.append(watcher)
    watcher.start()
    slow.open.clear()
    wanted.releases = [release(other_artifact, epoch=2, version="default-v2")]
    watcher.look(patience_seconds=0)
    wanted.releases = [release(third_artifact, epoch=3, version="default-v3")]
    slow.open.set()
    # Without a poll: the end of a load looks for what came meanwhile.
    _until(lambda: runtime.find("default").release.version == "default-v3")  # type: ignore[union-attr]
    _until(lambda: wanted.reports[-1][1] == 3)
    assert [f"default-v{epoch}" for _, epoch, *_ in wanted.reports[1:]] == served


def test_store_out_of_reach_is_tried_again_soon_and_then_seldom_and_the_version_is_not_blamed(
    slow: SlowStore, artifact: Artifact, other_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.open.set()
    wanted = Wanted(release(artifact))
    watcher = _watch(Runtime(slow), wanted)
    watcher.look()
    wanted.releases = [release(other_artifact, epoch=2)]
    slow.away, moment = True, [1000.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: moment[0])
    tries = []
    for _ in range(400):
        before = slow.asked
        watcher.look(patience_seconds=60)
        if slow.asked > before:
            tries.append(round(moment[0] - 1000.0, 1))
        moment[0] += 0.25
    assert tries == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0]
    assert not any(corrupt for *_, corrupt in wanted.reports)
    assert "out of reach" in watcher.errors["default"]


def test_epoch_that_goes_back_in_the_database_is_not_followed_and_is_told(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact, tmp_path: Path
) -> None:
    other_artifact.installed_in(tmp_path / "artifacts")
    wanted = Wanted(release(artifact, epoch=5, version="default-v5"))
    watcher = _watch(runtime, wanted)
    watcher.look()
    wanted.releases = [release(other_artifact, epoch=4, version="default-v4")]
    watcher.look()
    assert runtime.find("default").release.version == "default-v5"  # type: ignore[union-attr]
    assert "epoch 4" in watcher.errors["default"]
    wanted.releases = [release(other_artifact, epoch=6, version="default-v6")]
    watcher.look()
    assert runtime.find("default").release.version == "default-v6"  # type: ignore[union-attr]
    assert watcher.errors == {}


def test_nudge_is_followed_at_once(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact, tmp_path: Path, stopped: list[Watcher]
) -> None:
    other_artifact.installed_in(tmp_path / "artifacts")
    wanted = Wanted(release(artifact))
    watcher = _watch(runtime, wanted, poll_seconds=600)
    stopped.append(watcher)
    watcher.start()
    wanted.releases = [release(other_artifact, epoch=2, version="default-v2")]
    watcher.nudge()
    _until(lambda: runtime.find("default").release.version == "default-v2")  # type: ignore[union-attr]


def test_start_while_the_database_is_away_serves_what_is_remembered_until_it_is_back(
    runtime: Runtime, artifact: Artifact, other_artifact: Artifact, tmp_path: Path, stopped: list[Watcher]
) -> None:
    other_artifact.installed_in(tmp_path / "artifacts")
    wanted = Wanted(release(other_artifact, epoch=8, version="default-v8"))
    wanted.broken = ConnectionError("away")
    watcher = _watch(runtime, wanted)
    stopped.append(watcher)
    watcher.start(remembered=lambda: [release(artifact, epoch=7, version="default-v7")])
    assert runtime.find("default").release.version == "default-v7"  # type: ignore[union-attr]
    wanted.broken = None
    _until(lambda: runtime.find("default").release.version == "default-v8")  # type: ignore[union-attr]


def test_start_while_the_database_is_away_and_nothing_is_remembered_fails(runtime: Runtime) -> None:
    wanted = Wanted()
    wanted.broken = ConnectionError("away")
    with pytest.raises(ConnectionError):
        _watch(runtime, wanted).start(remembered=lambda: [])


def test_replica_goes_on_saying_what_it_serves_while_a_slow_load_goes_on(
    slow: SlowStore, artifact: Artifact, other_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "REPORT_SECONDS", 0.0)
    slow.open.set()
    wanted = Wanted(release(artifact))
    watcher = _watch(Runtime(slow), wanted)
    watcher.look()
    slow.open.clear()
    wanted.releases = [release(other_artifact, epoch=2)]
    for _ in range(3):
        watcher.look(patience_seconds=0)
    slow.open.set()
    watcher.look()
    assert [report[1:] for report in wanted.reports[:3]] == [(1, None, False)] * 3
    assert wanted.reports[-1][1:] == (2, None, False)
