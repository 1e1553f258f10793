"""A batch whose trainer, clock or both are killed, paused or stopped: failed cleanly, never half served, done again."""

import os
import random
import signal
import time
from contextlib import suppress

import pytest

from app.main import opening_rule
from app.settings import Settings
from jobs.context import JobContext
from jobs.purge import purge
from tests.journeys.processes import NEVER, Installation, installation, kill, stop, wait_for
from tests.journeys.worlds import LABELS, check_whole, label_texts, queue_a_batch

# Long enough to be killed in the middle, on any machine.
LONG = {"folds": 20, "strengths": [n / 4 for n in range(1, 120)], "tolerance": 1e-6}
DEAD = "gave no sign of life"


@pytest.fixture
def world(databases, tmp_path):
    """No clock opens a batch by itself here, unless a test says so."""
    with installation(tmp_path, databases.fresh("sqlite", tmp_path), TRAIN_CRON=NEVER, SELECT_CRON=NEVER) as made:
        yield made


def status(world: Installation) -> str:
    return world.batches()[-1].training_status


def wait_until_training(world: Installation, beyond: float = 0.0) -> None:
    wait_for(lambda: status(world) == "training" and world.batches()[-1].progress > beyond, what="the training")
    wait_for(lambda: world.trainers(), what="the trainer")


def run_again(world: Installation, **config: object) -> None:
    """What a person does after a failure: a batch on the same labels, by hand. It must succeed."""
    from app.services import batches

    def opened(session):
        batch = batches.open_batch(session, "default", opened_by="person", config=config)
        return batches.run(session, batch.batch_id).batch_id

    world.work(opened)


def test_a_killed_trainer_fails_its_batch_at_once_and_the_clock_tries_again_by_itself(databases, tmp_path):
    with installation(tmp_path, databases.fresh("sqlite", tmp_path), SELECT_CRON=NEVER) as world:
        queue_a_batch(world, LONG)
        clock = world.start("clock")
        wait_until_training(world)
        os.kill(world.trainers()[0], signal.SIGKILL)
        wait_for(lambda: world.batches()[0].training_status == "failed", seconds=30, what="the failure")
        failed = world.batches()[0]
        assert "signal 9" in failed.error
        assert failed.model_version is None
        # Its labels are pending again, and enough for a batch: the clock's retry takes them, after its delay.
        wait_for(lambda: len(world.batches()) == 2 and status(world) == "completed", what="the retry")
        retry = world.batches()[1]
        assert (retry.opened_by, retry.question_count, retry.outcome) == ("clock", failed.question_count, "activated")
        assert retry.created_at >= failed.finished_at
        assert world.training_states() == {"used": 36}
        check_whole(world)
        stop(clock)


def test_the_batch_of_a_killed_clock_is_failed_by_its_lost_heartbeat(world):
    queue_a_batch(world, LONG)
    clock = world.start("clock")
    wait_until_training(world)
    os.kill(world.trainers()[0], signal.SIGSTOP)  # one that hangs, and does not meet its broken pipe
    kill(clock)
    # Nobody stops a trainer whose clock is gone, but the kernel.
    wait_for(lambda: not world.trainers(), seconds=30, what="the end of the trainer")
    assert status(world) == "training"
    assert set(world.training_states()) == {"claimed"}
    (left,) = workshops(world)

    other = world.start("clock")
    wait_for(lambda: status(world) == "failed", seconds=20, what="the failure")
    failed = world.batches()[0]
    assert DEAD in failed.error
    assert str(clock.pid) in failed.error
    assert failed.running_key is None
    assert world.training_states() == {"pending": 36}
    run_again(world)
    wait_for(lambda: status(world) == "completed", what="the retry")
    check_whole(world)
    stop(other)
    sweep(world)
    assert workshops(world) == [left]  # a trainer may still be at work in a young one
    os.utime(world.artifacts / ".workshop" / left, (time.time() - 2 * 24 * 3600,) * 2)
    sweep(world)
    assert workshops(world) == []


def sweep(world: Installation) -> None:
    settings = Settings(data_dir=world.folder, train_timeout_seconds=3600)
    purge(JobContext(settings, world.work, opening_rule(settings)))


def test_clocks_killed_at_random_moments_leave_nothing_half_done(databases, tmp_path):
    """Kill whatever runs, again and again; then let it finish. Seeded moments, unseeded machine."""
    rng = random.Random(5)
    with installation(
        tmp_path, databases.fresh("sqlite", tmp_path), SELECT_CRON=NEVER, LOST_AFTER_SECONDS=1.2
    ) as world:
        label_texts(world, 12)
        for _ in range(3):
            clock = world.start("clock")
            wait_for(lambda: status_or_none(world) in ("training", "evaluating", "completed"), what="a batch")
            time.sleep(rng.uniform(0.0, 1.2))
            victims = [*world.trainers(), clock.pid]
            rng.shuffle(victims)
            for pid in victims:
                with_signal(pid)
            clock.wait()
            check_whole(world)
            if status(world) == "completed":
                label_texts(world, 12, seed=rng.randrange(10_000))
        clock = world.start("clock")
        wait_for(lambda: status(world) == "completed", what="the end")
        wait_for(lambda: set(world.training_states()) == {"used"}, what="all labels")
        check_whole(world)
        assert all(batch.training_status in ("completed", "failed") for batch in world.batches())
        assert all(batch.error for batch in world.batches() if batch.training_status == "failed")
        stop(clock)


def status_or_none(world: Installation) -> str | None:
    rows = world.batches()
    return rows[-1].training_status if rows else None


def with_signal(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_paused_clock_writes_nothing_when_it_wakes_after_another_finished_the_work(world):
    queue_a_batch(world, LONG)
    paused = world.start("clock")
    wait_until_training(world)
    trainers = world.trainers()
    for pid in (paused.pid, *trainers):
        os.kill(pid, signal.SIGSTOP)
    other = world.start("clock")
    wait_for(lambda: status(world) == "failed", what="the failure")
    run_again(world)
    wait_for(lambda: status(world) == "completed", what="the other's version")
    stop(other)
    before = snapshot(world)

    for pid in (paused.pid, *trainers):
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: "given up for lost" in world.said(), what="the late clock's insight")
    wait_for(lambda: not world.trainers(), what="the end of its trainer")
    assert snapshot(world) == before
    assert stop(paused) == 0
    assert snapshot(world) == before
    check_whole(world)


def snapshot(world: Installation) -> list:
    """All of what a late worker could spoil."""
    rows = [
        (b.batch_id, b.training_status, b.error, b.model_version, b.heartbeat_at, b.attempt) for b in world.batches()
    ]
    from sqlalchemy import select

    from app.db.tables import Domain, ModelVersion

    def read(session):
        domain = session.scalars(select(Domain)).one()
        versions = [(v.version, v.status, v.is_active) for v in session.scalars(select(ModelVersion))]
        return domain.epoch, domain.active_version_id, versions

    return [rows, world.work.read(read), world.training_states()]


def test_a_clock_that_is_stopped_gives_its_batch_back_and_the_next_one_finishes_it(world):
    batch_id = queue_a_batch(world, LONG)
    clock = world.start("clock")
    wait_until_training(world)
    started = time.monotonic()
    assert stop(clock) == 0
    assert time.monotonic() - started < 8
    given_back = world.batches()[0]
    assert (given_back.training_status, given_back.progress, given_back.error) == ("queued", 0.0, None)
    assert world.training_states() == {"claimed": 36}
    assert not world.processes()
    make_short(world)
    other = world.start("clock")
    wait_for(lambda: status(world) == "completed", what="the next clock's work")
    done = world.batches()[0]
    assert (done.batch_id, done.attempt, done.outcome) == (batch_id, 2, "activated")
    assert workshops(world) == []
    stop(other)


def make_short(world: Installation) -> None:
    from sqlalchemy import update

    from app.db.tables import TrainingBatch

    world.work(lambda session: session.execute(update(TrainingBatch).values(config={})))


def workshops(world: Installation) -> list[str]:
    folder = world.artifacts / ".workshop"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_progress_of_the_trainer_reaches_the_row_of_its_batch(world):
    queue_a_batch(world, LONG)
    clock = world.start("clock", HEARTBEAT_SECONDS=30, LOST_AFTER_SECONDS=90)
    seen: list[tuple[float, str]] = []

    def further() -> bool:
        row = world.batches()[0]
        if row.stage is not None and (row.progress, row.stage) not in seen:
            seen.append((row.progress, row.stage))
        return sum("fold" in stage for _, stage in seen) >= 3

    wait_for(further, what="three folds", every=0.02)
    assert [progress for progress, _ in seen] == sorted(progress for progress, _ in seen)
    assert all(0 <= progress < 0.9 for progress, _ in seen)
    stop(clock)


def test_a_job_by_hand_gives_its_batch_back_at_ctrl_c(world):
    queue_a_batch(world, LONG)
    process = world.start("job", "train_model")
    wait_until_training(world)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 1
    assert status(world) == "queued"
    assert "was stopped" in world.said()
    assert "Traceback" not in world.said()
    assert not world.processes()
    assert LABELS
