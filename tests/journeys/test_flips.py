"""Flips under traffic, rollbacks bit for bit, and versions whose artifact was damaged."""

import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from app.db.tables import ModelActivation, ModelVersion
from tests.journeys.processes import Installation, installation, wait_for
from tests.journeys.worlds import answered_shift, label_texts, probes, told_version

STALE_SECONDS = 1.0
THREADS = 8
FLIPS = 20


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it."""

    text: str
    start: datetime
    end: datetime
    status: int
    label: str | None
    version: str | None


class Traffic:
    """Steady requests from some threads until the block ends."""

    def __init__(self, world: Installation, threads: int = THREADS) -> None:
        self._address = str(world.http.base_url)
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]
        self.answers: list[Answer] = []
        self.failures: list[str] = []

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def _ask(self, number: int) -> None:
        texts = itertools.cycle(probes(60)[number:] + probes(number))
        with httpx.Client(base_url=self._address, timeout=20, trust_env=False) as http:
            while not self._ending.is_set():
                text, start = next(texts), datetime.now(UTC)
                try:
                    given = http.post("/classify", json={"text": text})
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                body = given.json()
                self.answers.append(
                    Answer(
                        text, start, datetime.now(UTC), given.status_code, body.get("label"), body.get("model_version")
                    )
                )


@pytest.fixture(scope="module")
def told(databases, tmp_path_factory) -> Iterator[tuple[Installation, list[str]]]:
    """A service, and three versions that never give the same answer; the first one serves."""
    folder = tmp_path_factory.mktemp("flips")
    with installation(folder, databases.fresh("sqlite", folder)) as world:
        versions = [told_version(world, folder / "specs", shift=shift) for shift in range(3)]
        world.serve()
        activate(world, versions[0])
        yield world, versions


def activate(world: Installation, version: str, **body: object) -> dict:
    """Flip, and wait until the service has it: the first time it reads a dictionary of words, too."""
    flip = world.post(f"/models/{version}/activate", body)
    wait_for(lambda: serving(world) == (version, flip["epoch"]), seconds=15, what=version, every=0.02)
    return flip


def serving(world: Installation) -> tuple[str, int]:
    state = world.http.get("/readyz").json()["domains"][0]
    return state["version"], state["epoch"]


def activations(world: Installation) -> list[tuple[str, datetime]]:
    """Every version that became active, and when."""
    return world.work.read(
        lambda session: [
            tuple(row)
            for row in session.execute(
                select(ModelVersion.version, ModelActivation.created_at)
                .join(ModelVersion, ModelVersion.id == ModelActivation.version_id)
                .order_by(ModelActivation.epoch)
            )
        ]
    )


def active_between(history: list[tuple[str, datetime]], start: datetime, end: datetime) -> set[str]:
    """The versions that were active at some moment of this interval."""
    until = [moment for _, moment in history[1:]] + [datetime.max.replace(tzinfo=UTC)]
    return {version for (version, since), left in zip(history, until, strict=True) if since <= end and left >= start}


def test_twenty_flips_under_traffic_fail_no_request_and_answer_with_what_was_active(told):
    world, versions = told
    with Traffic(world) as seen:
        time.sleep(0.3)
        serves = versions[0]
        for number in range(FLIPS):
            if number % 4 == 3:
                serves = world.post("/models/rollback", {"reason": "back again"})["version"]
            else:
                serves = versions[(versions.index(serves) + 1) % 3]
                world.post(f"/models/{serves}/activate", {"reason": f"flip {number}"})
            time.sleep(0.15 if number % 5 else 1.2)  # faster than a service looks, and slower
        time.sleep(0.5)
    history = activations(world)
    assert len(history) == FLIPS + 1
    assert seen.failures == []
    assert {answer.status for answer in seen.answers} == {200}
    assert len(seen.answers) > 200
    assert {answer.version for answer in seen.answers} == set(versions)
    for answer in seen.answers:
        # Each version answers each text differently: the label names its version.
        assert versions[answered_shift(answer.text, answer.label)] == answer.version
        allowed = active_between(history, answer.start - timedelta(seconds=STALE_SECONDS), answer.end)
        assert answer.version in allowed, (answer, history)


def test_every_row_of_the_log_names_the_version_that_answered_it(told):
    world, versions = told
    for row in world.questions()[-200:]:
        if row.model_version is not None:
            assert versions[answered_shift(row.question, row.intents[0])] == row.model_version


def test_rolling_back_answers_bit_for_bit_as_before_and_needs_no_clock(told):
    world, versions = told
    texts = probes(200)
    activate(world, versions[1])
    before = answers(world, texts)
    activate(world, versions[2])
    assert answers(world, texts) != before
    assert world.get("/stats")["clock_running"] is False
    back = world.post("/models/rollback", {"by": "ana", "reason": "it was better"})
    assert (back["version"], back["kind"]) == (versions[1], "rollback")
    wait_for(lambda: serving(world)[0] == versions[1], seconds=STALE_SECONDS + 1, what="the rollback")
    assert answers(world, texts) == before
    left = world.get(f"/models/{versions[2]}")
    assert left["status"] == "rolled_back"
    assert "ana" in left["reason"]


def answers(world: Installation, texts: list[str]) -> list[tuple]:
    return [
        (given["label"], given["confidence"], str(given["topk"]), given["trigger_check"])
        for start in range(0, len(texts), 100)
        for given in world.post("/classify/batch", {"texts": texts[start : start + 100]})["results"]
    ]


def test_of_two_flips_that_saw_the_same_epoch_one_is_refused(told):
    world, versions = told
    active = world.get("/models/active")
    first, second = (version for version in versions if version != active["version"])
    world.post(f"/models/{first}/activate", {"epoch": active["epoch"]})
    refusal = world.post(f"/models/{second}/activate", {"epoch": active["epoch"]}, expect=409)
    assert refusal["code"] == "stale_epoch"


@pytest.mark.parametrize("backend", ["sqlite", "postgresql", "mariadb"])
def test_flips_from_many_threads_leave_one_active_version_and_no_epoch_twice(databases, tmp_path, backend):
    from app.errors import StaleEpoch
    from app.services import activations as service
    from tests.builders import make_version

    with installation(tmp_path, databases.fresh(backend, tmp_path)) as world:
        names = [world.work(lambda session: make_version(session).version) for _ in range(3)]
        refused = []

        def flip(number: int) -> None:
            for step in range(6):
                seen = world.work.read(lambda session: service.domains.find(session, "default").epoch)
                try:
                    world.work(service.activate, names[(number + step) % 3], by="ana", reason="", seen_epoch=seen)
                except StaleEpoch:
                    refused.append(number)

        threads = [threading.Thread(target=flip, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)

        def outcome(session):
            epochs = session.scalars(select(ModelActivation.epoch).order_by(ModelActivation.epoch)).all()
            active = session.scalars(select(ModelVersion.version).where(ModelVersion.is_active.is_(True))).all()
            return epochs, active, service.domains.find(session, "default")

        epochs, active, domain = world.work.read(outcome)
        assert list(epochs) == list(range(1, domain.epoch + 1))
        assert len(active) == 1
        assert world.work.read(lambda session: session.get(ModelVersion, domain.active_version_id)).version == active[0]
        assert refused, "eight threads never met: this shows nothing"


# A version whose artifact was damaged


def flip_a_bit(folder: Path) -> None:
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-100])


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_a_file(folder: Path) -> None:
    max(folder.iterdir(), key=lambda path: path.stat().st_size).unlink()


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def put_a_directory(folder: Path) -> None:
    path = folder / "references.json"
    path.unlink()
    path.mkdir()


DAMAGES = (flip_a_bit, truncate, remove, lose_a_file, empty_the_manifest, put_a_directory)


@pytest.fixture(scope="module")
def guarded(databases, tmp_path_factory) -> Iterator[tuple[Installation, str, str]]:
    """A service on a good version, and a second good version to damage copies of."""
    folder = tmp_path_factory.mktemp("damages")
    with installation(folder, databases.fresh("sqlite", folder)) as world:
        good, other = (told_version(world, folder / "specs", shift=shift) for shift in (0, 1))
        world.serve()
        activate(world, good)
        yield world, good, other


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_artifact_leaves_the_old_version_serving_and_its_reason_on_the_row(guarded, damage):
    world, good, other = guarded
    folder = world.artifacts / world.get(f"/models/{other}")["artifact_digest"]
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    damage(folder)
    try:
        check_that_a_bad_flip_changes_nothing(world, good, other)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)
        world.work(_forgive, other)


def test_an_artifact_that_was_swapped_for_another_is_not_loaded(guarded):
    world, good, other = guarded
    ours, theirs = (world.artifacts / world.get(f"/models/{name}")["artifact_digest"] for name in (other, good))
    kept = ours.with_name("kept")
    ours.rename(kept)
    shutil.copytree(theirs, ours)
    try:
        check_that_a_bad_flip_changes_nothing(world, good, other)
    finally:
        shutil.rmtree(ours)
        kept.rename(ours)
        world.work(_forgive, other)


def check_that_a_bad_flip_changes_nothing(world: Installation, good: str, bad: str) -> None:
    before = len(world.questions())
    with Traffic(world, threads=2) as seen:
        flip = world.post(f"/models/{bad}/activate", {"reason": "not knowing that it is broken"})
        row = wait_for(
            lambda: (found := world.get(f"/models/{bad}"))["status"] == "failed" and found,
            seconds=30,
            what="the reason",
        )
        time.sleep(0.5)
    assert row["reason"]
    assert seen.failures == []
    assert {(answer.status, answer.version) for answer in seen.answers} == {(200, good)}
    assert len(world.questions()) - before == len(seen.answers)
    active = world.get("/models/active")
    assert (active["version"], active["epoch"], active["propagated"]) == (bad, flip["epoch"], "0/1")
    assert [replica["error"] is None for replica in active["replicas"]] == [False]
    ready = world.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    # Looked at ten times a second, tried once: no storm of reads.
    assert world.said().count("keeps its version") == 1
    refusal = world.post(f"/models/{bad}/activate", expect=409)
    assert refusal["code"] == "version_unusable"
    world.post("/models/rollback", {"reason": "it is broken"})
    wait_for(lambda: serving(world)[0] == good, seconds=30, what="the rollback")
    world.log.write_bytes(b"")


def _forgive(session, name: str) -> None:
    version = session.scalar(select(ModelVersion).where(ModelVersion.version == name))
    version.status, version.reason = "passed", None


def test_a_service_that_starts_on_a_damaged_version_answers_without_a_model_and_says_so(databases, tmp_path):
    with installation(tmp_path, databases.fresh("sqlite", tmp_path)) as world:
        label_texts(world, 1)
        version = told_version(world, tmp_path / "specs", shift=0)
        from app.services import activations as service

        world.work(service.activate, version, by="ana", reason="before the service")
        for folder in world.artifacts.iterdir():
            if len(folder.name) == 64:
                flip_a_bit(folder)
        world.serve()
        answer = world.post("/classify", {"text": probes(1)[0]})
        assert (answer["method"], answer["label"], answer["model_version"]) == ("none", None, None)
        ready = world.http.get("/readyz").json()
        assert ready["status"] == "degraded"
        assert ready["domains"][0]["error"]
