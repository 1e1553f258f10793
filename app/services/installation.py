"""The figures of the whole installation that a monitor polls: a handful of rows, whatever was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Domain, Replica, TrainingBatch, UserQuestion
from app.services import counters, counting, runs
from app.services.counters import INSTALLATION, Figures
from app.services.statistics import CLOCK_ALIVE_SECONDS


@dataclass(frozen=True, slots=True)
class DomainFigures:
    """One domain. `labels_pending` were given since the last batch, of labels that were retired since too."""

    name: str
    epoch: int
    replicas_arrived: int
    texts_waiting: int
    labels_pending: int
    judged: int
    agreed: int
    batches: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Installation:
    """What the database knows at one moment. `fold_lag_seconds`: the age of the oldest question that is not folded."""

    domains: Sequence[DomainFigures]
    replicas: Mapping[str, int]
    job_runs: Mapping[tuple[str, str], int]
    fold_lag_seconds: float


def look(session: Session, *, most_domains: int) -> Installation:
    """Read them all; of the domains the oldest `most_domains`."""
    found = session.execute(select(Domain.id, Domain.name, Domain.epoch).order_by(Domain.id).limit(most_domains)).all()
    names = (counting.QUEUED, counting.TRAINABLE, counting.JUDGED, counting.AGREED, runs.COUNTER)
    totals = counters.totals_of(session, [INSTALLATION, *(row.id for row in found)], names)
    by_status, arrived = _batches(session), _arrived(session)
    return Installation(
        domains=[
            _domain(row.name, row.epoch, arrived.get(row.id, 0), totals.get(row.id, {}), by_status.get(row.id, {}))
            for row in found
        ],
        replicas=_replicas(session),
        job_runs=_job_runs(totals.get(INSTALLATION, {})),
        fold_lag_seconds=_fold_lag_seconds(session),
    )


def _domain(name: str, epoch: int, arrived: int, totals: Figures, by_status: Mapping[str, int]) -> DomainFigures:
    trainable = totals.get(counting.TRAINABLE, {})
    return DomainFigures(
        name=name,
        epoch=epoch,
        replicas_arrived=arrived,
        texts_waiting=totals.get(counting.QUEUED, {}).get("", 0),
        labels_pending=sum(count for key, count in trainable.items() if key.startswith("pending/")),
        judged=sum(totals.get(counting.JUDGED, {}).values()),
        agreed=sum(totals.get(counting.AGREED, {}).values()),
        batches=by_status,
    )


def _batches(session: Session) -> Mapping[int, Mapping[str, int]]:
    found: dict[int, dict[str, int]] = {}
    rows = session.execute(
        select(TrainingBatch.domain_id, TrainingBatch.training_status, func.count()).group_by(
            TrainingBatch.domain_id, TrainingBatch.training_status
        )
    )
    for domain_id, status, count in rows:
        found.setdefault(domain_id, {})[status] = count
    return found


def _replicas(session: Session) -> Mapping[str, int]:
    line = database_time(session) - timedelta(seconds=CLOCK_ALIVE_SECONDS)
    rows = session.execute(
        select(Replica.role, func.count(Replica.replica.distinct()))
        .where(Replica.reported_at >= line)
        .group_by(Replica.role)
    )
    return {"service": 0, "clock": 0} | dict(rows.all())


def _arrived(session: Session) -> Mapping[int, int]:
    """By domain, how many services serve what they should."""
    line = database_time(session) - timedelta(seconds=runs.SERVICE_ALIVE_SECONDS)
    rows = session.execute(
        select(Replica.domain_id, func.count())
        .join(Domain, (Domain.id == Replica.domain_id) & (Domain.epoch == Replica.epoch))
        .where(Replica.role == "service", Replica.error.is_(None), Replica.reported_at >= line)
        .group_by(Replica.domain_id)
    )
    return dict(rows.all())


def _job_runs(totals: Figures) -> Mapping[tuple[str, str], int]:
    split = ((key.partition("/"), count) for key, count in totals.get(runs.COUNTER, {}).items())
    return {(job, outcome): count for (job, _, outcome), count in split}


def _fold_lag_seconds(session: Session) -> float:
    oldest = session.scalar(
        select(UserQuestion.created_at)
        .where(UserQuestion.text_id.is_(None))
        .order_by(UserQuestion.question_id)
        .limit(1)
    )
    return 0.0 if oldest is None else max(0.0, (database_time(session) - oldest).total_seconds())
