"""What each job does with the database it finds, called as the clock calls it."""

import os
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from app.db.session import UnitOfWork, connect
from app.db.tables import BatchItem, JobRun, ModelVersion, Text, TrainingBatch
from app.errors import ClaimLost
from app.intent.selection_mix import STRATEGIES
from app.main import opening_rule
from app.services import activations, batches, domains, runs
from app.settings import Settings
from jobs.context import JobContext
from jobs.ledger import Ledger
from jobs.purge import purge
from jobs.reasons import in_words
from jobs.select_questions import select_questions
from jobs.train_model import train_model
from jobs.training import Claim
from tests.builders import ask, domain_id, make_labelled_texts, make_version
from tests.journeys.worlds import label_texts, texts_of, told_version

THREADS = 10


def context_on(url: str, folder, **changes) -> JobContext:
    settings = Settings(data_dir=folder, **changes)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    return JobContext(settings, UnitOfWork(connect(url)), opening_rule(settings))


@pytest.fixture
def context(database_url, tmp_path):
    made = context_on(database_url, tmp_path, batch_labels=10)
    yield made
    made.work.engine.dispose()


def count(work: UnitOfWork, *conditions) -> int:
    return work.read(lambda session: session.scalar(select(func.count()).where(*conditions)))


def test_ten_clocks_at_once_open_one_batch_for_the_same_labels(database_url, tmp_path, context):
    make_labelled_texts(context.work, {"a": 8, "b": 8})
    opened: list[str] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(THREADS)

    def clock() -> None:
        own = context_on(database_url, tmp_path, batch_labels=10)
        ready.wait()
        try:
            opened.extend(train_model(own)["opened"])
        except BaseException as error:
            errors.append(error)
        own.work.engine.dispose()

    threads = [threading.Thread(target=clock) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert opened == ["default-b1"]
    assert count(context.work, TrainingBatch.id.is_not(None)) == 1
    assert count(context.work, BatchItem.role == "new") == 16


def test_of_ten_workers_at_once_one_claims_a_batch(database_url, tmp_path, context):
    make_labelled_texts(context.work, {"a": 8, "b": 8})
    train_model(context)
    claimed: list[str] = []
    ready = threading.Barrier(THREADS)

    def worker(number: int) -> None:
        own = context_on(database_url, tmp_path)
        ready.wait()
        if own.work(batches.claim_next, worker=f"w{number}") is not None:
            claimed.append(f"w{number}")
        own.work.engine.dispose()

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    (row,) = context.work.read(lambda session: session.scalars(select(TrainingBatch)).all())
    assert [row.worker] == claimed
    assert row.attempt == 1


def test_every_domain_that_is_due_gets_its_batch_whatever_the_others_lack(context):
    context.work(domains.create, "poor")
    context.work(domains.create, "rich")
    make_labelled_texts(context.work, {"a": 3}, domain="poor")
    make_labelled_texts(context.work, {"a": 8, "b": 8}, domain="rich")
    assert train_model(context) == {"opened": ["rich-b1"]}
    assert train_model(context) == {"opened": []}


def test_ten_runs_of_one_slot_are_one(database_url, tmp_path, context):
    slot = datetime.now(UTC).replace(microsecond=0)
    taken: list[int] = []
    ready = threading.Barrier(THREADS)

    def clock() -> None:
        own = context_on(database_url, tmp_path)
        ready.wait()
        run_id = Ledger(own).take("purge", slot)
        if run_id is not None:
            taken.append(run_id)
        own.work.engine.dispose()

    threads = [threading.Thread(target=clock) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(taken) == 1
    assert count(context.work, JobRun.job == "purge") == 1


def test_a_run_that_lasts_beats_and_one_that_fell_silent_is_marked_died(sqlite_url, tmp_path):
    context = context_on(sqlite_url, tmp_path, lost_after_seconds=0.6)
    ledger = Ledger(context)
    long = ledger.take("purge", datetime.now(UTC))
    silent = ledger.take("select_questions", datetime.now(UTC))
    with ledger.beating(), ledger._listed(long):
        time.sleep(1.2)
        assert context.work(runs.reap, lost_after_seconds=0.6) == 1
    rows = {row.id: row for row in context.work.read(runs.recent)}
    assert (rows[long].outcome, rows[silent].outcome) == ("running", "died")
    ledger.run("select_questions", silent)
    rows = {row.id: row for row in context.work.read(runs.recent)}
    assert rows[silent].outcome == "died"  # it was given up; its late end changes nothing
    context.work.engine.dispose()


def test_a_job_that_fails_is_in_the_ledger_and_raised(sqlite_url, tmp_path):
    context = context_on(sqlite_url, tmp_path)
    run_id = Ledger(context).take("purge", datetime.now(UTC))
    with context.work.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE intent_replicas RENAME TO lost")
    with pytest.raises(OperationalError):
        Ledger(context).run("purge", run_id)
    (row,) = context.work.read(runs.recent)
    assert (row.outcome, row.error) == ("failed", "the database refused: OperationalError")
    context.work.engine.dispose()


def test_an_error_of_the_database_is_told_without_what_was_asked():
    error = OperationalError("INSERT …", {"question": "我的电话"}, Exception("value 我的电话 is too long"))
    assert "电话" not in in_words(error)
    assert in_words(ValueError("no label")) == "ValueError: no label"
    assert in_words(MemoryError()) == "MemoryError"


class World:
    """What `told_version` needs of an installation."""

    def __init__(self, context: JobContext) -> None:
        self.work, self.artifacts = context.work, context.settings.artifacts


def test_waiting_texts_are_scored_by_the_version_that_serves(sqlite_url, tmp_path):
    context = context_on(sqlite_url, tmp_path)
    world = World(context)
    version = told_version(world, tmp_path / "specs", shift=0)
    ask(context.work, *texts_of("物流 > 快递延误", 12, gold=False, seed=3))
    assert select_questions(context)["scored"] == 0
    context.work(activations.activate, version, by="ana", reason="")
    assert select_questions(context) == {"scored": 12, "selected": 12, "gold_drawn": 0, "not_scored": []}
    assert select_questions(context)["scored"] == 0
    rows = context.work.read(lambda session: session.scalars(select(Text).where(Text.priority.is_not(None))).all())
    assert {row.scored_by for row in rows} == {version}
    assert {row.strategy for row in rows} <= set(STRATEGIES)
    context.work.engine.dispose()


def test_a_broken_artifact_of_one_domain_stops_neither_its_gold_nor_the_others(sqlite_url, tmp_path):
    context = context_on(sqlite_url, tmp_path)
    version = told_version(World(context), tmp_path / "specs", shift=0)
    context.work(activations.activate, version, by="ana", reason="")
    shutil.rmtree(context.settings.artifacts / digest_of(context.work, version))
    ask(context.work, *texts_of("物流 > 快递延误", 12, gold=False), *texts_of("物流 > 快递延误", 5, gold=True))
    context.work(domains.create, "other")
    ask(context.work, *texts_of("物流 > 快递延误", 5, gold=True), domain="other")
    said = select_questions(context)
    assert said["not_scored"] == ["default"]
    assert said["scored"] == 0
    drawn = context.work.read(
        lambda session: set(session.scalars(select(Text.domain_id).where(Text.is_gold, Text.priority.is_not(None))))
    )
    assert drawn == {domain_id(context.work), domain_id(context.work, "other")}
    context.work.engine.dispose()


def digest_of(work: UnitOfWork, version: str) -> str:
    return work.read(
        lambda session: session.scalar(select(ModelVersion.artifact_digest).where(ModelVersion.version == version))
    )


def test_a_batch_beats_often_enough_whatever_the_settings_say(sqlite_url, tmp_path):
    """A heartbeat that is rarer than the patience of the others would fail every batch."""
    context = context_on(sqlite_url, tmp_path, heartbeat_seconds=60, lost_after_seconds=0.9, batch_labels=10)
    make_labelled_texts(context.work, {"a": 8, "b": 8})
    train_model(context)
    claimed = context.work(batches.claim_next, worker="here")
    with Claim(context, claimed) as claim:
        for _ in range(6):
            time.sleep(0.3)
            assert context.work(batches.fail_lost, lost_after_seconds=0.9) == []
        assert claim.wanted
    context.work.engine.dispose()


def test_a_claim_knows_when_it_is_lost(sqlite_url, tmp_path):
    context = context_on(sqlite_url, tmp_path, heartbeat_seconds=0.1, batch_labels=10)
    make_labelled_texts(context.work, {"a": 8, "b": 8})
    train_model(context)
    claimed = context.work(batches.claim_next, worker="here")
    with Claim(context, claimed) as claim:
        context.work(
            lambda session: session.execute(
                update(TrainingBatch).values(heartbeat_at=datetime.now(UTC) - timedelta(seconds=90))
            )
        )
        context.work(batches.fail_lost, lost_after_seconds=60)
        deadline = time.monotonic() + 5
        while claim.wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        assert claim.lost
        with pytest.raises(ClaimLost):
            claim.enter("evaluating", 0.9, "proving")
    assert context.work.read(lambda session: session.scalars(select(TrainingBatch.training_status)).one()) == "failed"
    context.work.engine.dispose()


def test_purge_forgets_old_runs_silent_replicas_and_what_killed_trainers_left(sqlite_url, tmp_path):
    context = context_on(sqlite_url, tmp_path, run_days=1, replica_days=1, train_timeout_seconds=60)
    old = datetime.now(UTC) - timedelta(days=3)

    def past(session) -> None:
        for number in range(3):
            run_id = runs.begin(session, "purge", old + timedelta(hours=number), worker="gone")
            if number:
                runs.finish(session, run_id, detail={})
        session.execute(update(JobRun).where(JobRun.finished_at.is_not(None)).values(finished_at=old))
        runs.report_replica(session, "gone:1", role="clock")
        runs.replicas(session, role="clock", alive_seconds=9)[0].reported_at = old

    context.work(past)
    workshop = context.settings.artifacts / ".workshop"
    for name, age in (("left", 3 * 86_400), ("young", 3600)):
        (workshop / name).mkdir(parents=True)
        (workshop / name / "spec.json").write_text("{}")
        os.utime(workshop / name, (time.time() - age,) * 2)
    said = purge(context)
    assert (said["runs"], said["replicas"], said["workshops"]) == (2, 1, 1)
    assert [path.name for path in workshop.iterdir()] == ["young"]
    context.work.engine.dispose()


def test_a_version_that_is_gone_cannot_stand_against_a_new_one(sqlite_url, tmp_path):
    """The rival's artifact was deleted: the loop goes on, and the gate says what it could not compare."""
    from jobs.training import train_next

    context = context_on(sqlite_url, tmp_path, batch_labels=10)
    world = World(context)
    gone = context.work(make_version)
    context.work(activations.activate, gone.version, by="ana", reason="")
    label_texts(world, 10)
    train_model(context)
    assert train_next(context) == "default-b1"
    (batch,) = context.work.read(lambda session: session.scalars(select(TrainingBatch)).all())
    assert (batch.training_status, batch.outcome) == ("completed", "activated"), batch.error
    context.work.engine.dispose()
