"""A slot runs once among all clocks, and a job that died is seen."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import JobRun, Replica
from app.services import runs
from tests.builders import column
from tests.services.together import in_processes

SLOT = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def _age(work: UnitOfWork, **columns: datetime) -> None:
    def age(session: Session) -> None:
        session.execute(update(JobRun).values(columns))

    work(age)


def _ago(**since: float) -> datetime:
    return datetime.now(UTC) - timedelta(**since)


def test_a_slot_is_taken_once(work: UnitOfWork) -> None:
    assert work(runs.begin, "train_model", SLOT, worker="a") is not None
    assert work(runs.begin, "train_model", SLOT, worker="b") is None
    assert work(runs.begin, "purge", SLOT, worker="b") is not None
    assert work(runs.begin, "train_model", SLOT + timedelta(microseconds=1), worker="b") is not None


def _take_all(work: UnitOfWork, number: int, slots: int) -> list[int]:
    taken = (
        work(runs.begin, "train_model", SLOT + timedelta(minutes=slot), worker=str(number)) for slot in range(slots)
    )
    return [slot for slot, run_id in enumerate(taken) if run_id is not None]


def test_eight_clocks_run_each_slot_once(database_url: str, work: UnitOfWork) -> None:
    taken = in_processes(8, _take_all, database_url, 12)
    assert sorted(slot for one in taken for slot in one) == list(range(12))
    assert len(column(work, JobRun.id)) == 12


def test_a_run_ends_done_or_failed(work: UnitOfWork) -> None:
    done, failed = (work(runs.begin, job, SLOT, worker="a") for job in ("train_model", "purge"))
    assert done is not None
    assert failed is not None
    work(runs.finish, done, detail={"opened": ["default-b1"]})
    work(runs.finish, failed, error="e" * 5000)
    ended = {row.id: row for row in work.read(runs.recent)}
    assert (ended[done].outcome, ended[done].detail, ended[done].error) == ("done", {"opened": ["default-b1"]}, None)
    assert (ended[failed].outcome, ended[failed].detail, len(ended[failed].error or "")) == ("failed", None, 4000)
    assert ended[done].finished_at is not None


def test_a_silent_run_died_and_nothing_it_says_later_counts(work: UnitOfWork) -> None:
    run_id = work(runs.begin, "train_model", SLOT, worker="a")
    assert run_id is not None
    assert work(runs.reap, lost_after_seconds=60) == 0
    _age(work, heartbeat_at=_ago(seconds=61))
    assert work(runs.reap, lost_after_seconds=60) == 1
    assert work(runs.reap, lost_after_seconds=60) == 0

    work(runs.finish, run_id, detail={"late": True})

    (row,) = work.read(runs.recent)
    assert (row.outcome, row.detail) == ("died", None)
    assert row.finished_at is not None


def test_a_heartbeat_keeps_a_run_alive(sqlite_work: UnitOfWork) -> None:
    run_id = sqlite_work(runs.begin, "train_model", SLOT, worker="a")
    _age(sqlite_work, heartbeat_at=_ago(seconds=61))
    sqlite_work(runs.beat, [run_id])
    sqlite_work(runs.beat, [])
    assert sqlite_work(runs.reap, lost_after_seconds=60) == 0


def test_last_slot_is_the_latest_that_was_taken(sqlite_work: UnitOfWork) -> None:
    assert sqlite_work.read(runs.last_slot, "purge") is None
    for hours in (2, 5, 3):
        sqlite_work(runs.begin, "purge", SLOT + timedelta(hours=hours), worker="a")
    assert sqlite_work.read(runs.last_slot, "purge") == SLOT + timedelta(hours=5)


def test_purge_forgets_old_finished_runs_alone(sqlite_work: UnitOfWork) -> None:
    old, running = (sqlite_work(runs.begin, job, SLOT, worker="a") for job in ("purge", "train_model"))
    assert old is not None
    sqlite_work(runs.finish, old)
    _age(sqlite_work, started_at=_ago(days=99))
    assert sqlite_work(runs.purge, older_than_days=90) == 0

    def age(session: Session) -> None:
        session.execute(update(JobRun).where(JobRun.id == old).values(finished_at=_ago(days=91)))

    sqlite_work(age)
    assert sqlite_work(runs.purge, older_than_days=90) == 1
    assert column(sqlite_work, JobRun.id) == [running]


def test_replicas_are_those_that_reported_lately(work: UnitOfWork) -> None:
    for error in ("could not load", None):
        work(runs.report_replica, "host:1", role="service", domain_id=7, epoch=3, error=error)
    work(runs.report_replica, "host:2", role="clock")

    (service,) = work.read(runs.replicas, role="service", alive_seconds=15, domain_id=7)
    assert (service.replica, service.epoch, service.error) == ("host:1", 3, None)
    assert work.read(runs.replicas, role="service", alive_seconds=15) == []
    assert [row.replica for row in work.read(runs.replicas, role="clock", alive_seconds=15)] == ["host:2"]

    def age(session: Session) -> None:
        session.execute(update(Replica).where(Replica.role == "clock").values(reported_at=_ago(days=2)))

    work(age)
    assert work.read(runs.replicas, role="clock", alive_seconds=15) == []
    assert work(runs.forget_replicas, older_than_days=1) == 1
    assert column(work, Replica.replica) == ["host:1"]
