"""The ledger of the clock: every slot of every job runs once, and a job that died is seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Domain, JobRun, ModelVersion, Replica
from app.services import counters

COUNTER = "job_run"
# A service reports every five seconds.
SERVICE_ALIVE_SECONDS = 20.0


def begin(session: Session, job: str, scheduled_for: datetime, *, worker: str) -> int | None:
    """Take a slot, or None when it has been taken: by the unique key, whoever came first."""
    taken = session.scalar(select(JobRun.id).where(JobRun.job == job, JobRun.scheduled_for == scheduled_for))
    if taken is not None:
        return None
    moment = database_time(session)
    run = JobRun(
        job=job,
        scheduled_for=scheduled_for,
        worker=worker,
        started_at=moment,
        heartbeat_at=moment,
        outcome="running",
    )
    session.add(run)
    session.flush()
    return run.id


def finish(session: Session, run_id: int, *, detail: dict[str, Any] | None = None, error: str | None = None) -> None:
    """Close a run, unless it was given up for dead meanwhile."""
    outcome = "failed" if error else "done"
    result = session.execute(
        update(JobRun)
        .where(JobRun.id == run_id, JobRun.outcome == "running")
        .values(
            outcome=outcome,
            detail=detail,
            error=error[:4000] if error else None,
            finished_at=database_time(session),
        )
    )
    assert isinstance(result, CursorResult)
    if result.rowcount:
        _count(session, session.scalars(select(JobRun.job).where(JobRun.id == run_id)).all(), outcome)


def _count(session: Session, jobs: Sequence[str], outcome: str) -> None:
    day = counters.day_of(session, database_time(session))
    for job in jobs:
        counters.add(session, counters.INSTALLATION, COUNTER, f"{job}/{outcome}", day=day)


def beat(session: Session, run_ids: Sequence[int]) -> None:
    """Say that these runs are alive."""
    if run_ids:
        session.execute(update(JobRun).where(JobRun.id.in_(run_ids)).values(heartbeat_at=database_time(session)))


def reap(session: Session, *, lost_after_seconds: float) -> int:
    """Mark the runs that gave no sign of life for so long as died, and return how many."""
    line = database_time(session) - timedelta(seconds=lost_after_seconds)
    # Locked, so that of two that look at once one marks and counts a run.
    lost = session.execute(
        select(JobRun.id, JobRun.job)
        .where(JobRun.outcome == "running", JobRun.heartbeat_at < line)
        .with_for_update(skip_locked=True)
    ).all()
    if not lost:
        return 0
    session.execute(
        update(JobRun)
        .where(JobRun.id.in_([run_id for run_id, _ in lost]))
        .values(
            outcome="died",
            error="its process gave no sign of life: it died or was stopped",
            finished_at=database_time(session),
        )
    )
    _count(session, [job for _, job in lost], "died")
    return len(lost)


def last_slot(session: Session, job: str) -> datetime | None:
    """The latest slot of a job that was taken."""
    return session.scalar(
        select(JobRun.scheduled_for).where(JobRun.job == job).order_by(JobRun.scheduled_for.desc()).limit(1)
    )


def recent(session: Session, *, limit: int = 20) -> Sequence[JobRun]:
    """The newest runs of all jobs."""
    return session.scalars(select(JobRun).order_by(JobRun.id.desc()).limit(limit)).all()


def purge(session: Session, *, older_than_days: float) -> int:
    """Delete finished runs of the past."""
    line = database_time(session) - timedelta(days=older_than_days)
    result = session.execute(delete(JobRun).where(JobRun.finished_at.is_not(None), JobRun.finished_at < line))
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def report_replica(
    session: Session,
    replica: str,
    *,
    role: str,
    domain_id: int = 0,
    version_id: int | None = None,
    epoch: int = 0,
    error: str | None = None,
) -> None:
    """Say that a process is alive, and for a service what it serves in one domain and what it could not load."""
    # Asked first: a server answers it in a statement, before which the session would write the half-filled row.
    moment = database_time(session)
    row = session.get(Replica, (replica, domain_id))
    if row is None:
        row = Replica(replica=replica, domain_id=domain_id, role=role)
        session.add(row)
    row.version_id, row.epoch, row.error, row.reported_at = version_id, epoch, error, moment
    session.flush()


def replicas(session: Session, *, role: str, alive_seconds: float, domain_id: int = 0) -> Sequence[Replica]:
    """The processes of a role that reported lately."""
    line = database_time(session) - timedelta(seconds=alive_seconds)
    return session.scalars(
        select(Replica)
        .where(Replica.role == role, Replica.domain_id == domain_id, Replica.reported_at >= line)
        .order_by(Replica.replica)
    ).all()


@dataclass(frozen=True, slots=True)
class Serving:
    """What one service serves in a domain, as it said last; `error`: why not what it should."""

    replica: str
    version: str | None
    epoch: int
    error: str | None
    reported_at: datetime


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a domain's flip has come: the services that reported lately, and how many of them serve it."""

    replicas: Sequence[Serving]
    arrived: int

    @property
    def propagated(self) -> str:
        """Arrived of all, for people."""
        return f"{self.arrived}/{len(self.replicas)}"


def spread(session: Session, domain: Domain) -> Spread:
    """Who serves what the domain points to, who does not, and why; who fell silent is left out."""
    alive = replicas(session, role="service", alive_seconds=SERVICE_ALIVE_SECONDS, domain_id=domain.id)
    ids = {replica.version_id for replica in alive if replica.version_id is not None}
    rows = session.execute(select(ModelVersion.id, ModelVersion.version).where(ModelVersion.id.in_(ids))).all()
    names = dict(rows)
    found = [
        Serving(r.replica, None if r.version_id is None else names.get(r.version_id), r.epoch, r.error, r.reported_at)
        for r in alive
    ]
    return Spread(found, sum(row.epoch == domain.epoch and row.error is None for row in found))


def forget_replica(session: Session, replica: str) -> None:
    """Delete what a process reported, because it ends in order: nobody must wait for it to be found silent."""
    session.execute(delete(Replica).where(Replica.replica == replica))


def forget_replicas(session: Session, *, older_than_days: float) -> int:
    """Delete what stopped reporting long ago."""
    line = database_time(session) - timedelta(days=older_than_days)
    result = session.execute(delete(Replica).where(Replica.reported_at < line))
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
