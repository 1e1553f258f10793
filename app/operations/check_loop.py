"""Look at the loop: who runs, what serves, what waits, what failed."""

from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.artifacts.opening import open_store
from app.artifacts.store import ArtifactStore, ArtifactUnavailable
from app.db.session import database_time
from app.db.tables import ApiKey, Domain, JobRun, ModelVersion, Replica, TrainingBatch, UserQuestion
from app.operations import artifact_store
from app.operations.artifact_store import REMOVED
from app.operations.check_machine import is_loopback
from app.operations.findings import Finding, Patient
from app.scorers.artifact import ArtifactCorrupt, verify
from app.services import audit, domains, members, quarantine, runs, taxonomy, trainable
from app.services.versions import serving_ids
from app.trail import remembered_head

ALIVE_SECONDS = 60.0
FOLD_LATE_SECONDS = 300.0
QUEUED_LATE_SECONDS = 600.0


def processes(patient: Patient) -> Iterator[Finding]:
    """A service and a clock report, and serve what they should."""
    work = patient.work
    clocks = work.read(runs.replicas, role="clock", alive_seconds=ALIVE_SECONDS)
    services = work.read(_services)
    if not services:
        yield Finding("service", "warn", "none has reported for a minute", "start `intentloop serve` or `up`")
    if clocks:
        yield Finding("clock", "ok", f"{len(clocks)} running")
    else:
        # A service alone looks as if all were well, and learns nothing.
        level = "fail" if services else "warn"
        yield Finding("clock", level, "none has reported for a minute: nothing is trained", "start `intentloop clock`")
    epochs = {domain.id: domain for domain in work.read(domains.listing)}
    for replica in services:
        domain = epochs.get(replica.domain_id)
        name = domain.name if domain is not None else str(replica.domain_id)
        if replica.error:
            advice = "roll back (`intentloop models rollback`) or bring the artifact back"
            yield Finding("service", "fail", f"{replica.replica}, domain {name}: {replica.error[:200]}", advice)
        elif domain is not None and replica.epoch != domain.epoch:
            says = f"{replica.replica} serves epoch {replica.epoch} of domain {name} instead of {domain.epoch}"
            yield Finding("service", "warn", says, "look again in a minute; then restart it")
        else:
            yield Finding("service", "ok", f"{replica.replica} serves domain {name}, epoch {replica.epoch}")


def _services(session: Session) -> list[Replica]:
    line = database_time(session) - timedelta(seconds=ALIVE_SECONDS)
    statement = select(Replica).where(Replica.role == "service", Replica.reported_at >= line)
    return list(session.scalars(statement.order_by(Replica.replica, Replica.domain_id)))


def jobs(patient: Patient) -> Iterator[Finding]:
    """The last run of every job went well."""
    for run in patient.work.read(_last_runs):
        if run.outcome in ("failed", "died"):
            says = f"{run.job} {run.outcome} at {run.scheduled_for:%Y-%m-%d %H:%M} UTC: {(run.error or '')[:200]}"
            yield Finding("job", "warn", says, f"run it by hand: `intentloop job {run.job}`")


def _last_runs(session: Session) -> list[JobRun]:
    ended = select(func.max(JobRun.id)).where(JobRun.outcome != "running").group_by(JobRun.job)
    return list(session.scalars(select(JobRun).where(JobRun.id.in_(ended)).order_by(JobRun.job)))


def artifacts(patient: Patient) -> Iterator[Finding]:
    """What serves is there, bit for bit, and so is what one could roll back to; nothing lies about."""
    store = open_store(patient.settings)
    versions, serving = patient.work.read(_usable), patient.work.read(serving_ids)
    try:
        missing = []
        for version in versions:
            if version.id in serving:
                yield _of_active(store, version)
            elif not store.holds(version.artifact_digest):
                missing.append(version.version)
        if missing:
            says = f"{len(missing)} that could be activated are missing, among them that of version {missing[-1]}"
            yield Finding("artifacts", "warn", says, "bring them back from a backup")
        if left := artifact_store.orphans(patient.work, store):
            says = f"{len(left)} artifacts were never registered"
            yield Finding("artifacts", "ok", says + "; purge removes them")
    except ArtifactUnavailable as error:
        advice = "see that it runs, and that its address and credentials are right: no new version can be loaded"
        yield Finding("artifacts", "fail", str(error), advice)


def _of_active(store: ArtifactStore, version: ModelVersion) -> Finding:
    try:
        verify(store.fetch(version.artifact_digest), version.artifact_digest)
    except ArtifactUnavailable:
        raise
    except (ArtifactCorrupt, OSError) as error:
        says = f"version {version.version} serves, and its artifact is damaged: {error}"
        return Finding("artifacts", "fail", says, "roll back, or bring the folder back from a backup")
    return Finding("artifacts", "ok", f"the artifact of version {version.version}, which serves, is whole")


def _usable(session: Session) -> list[ModelVersion]:
    return list(session.scalars(select(ModelVersion).where(ModelVersion.status != "failed").order_by(ModelVersion.id)))


def versions(patient: Patient) -> Iterator[Finding]:
    """No version that serves is known to be broken, and of the others it is said which are."""
    for version in patient.work.read(_failed):
        level = "fail" if version.is_active else "warn"
        says = f"version {version.version} could not be loaded: {(version.reason or '')[:200]}"
        yield Finding("versions", level, says, "roll back" if version.is_active else "train again when labels come in")


def _failed(session: Session) -> list[ModelVersion]:
    statement = select(ModelVersion).where(ModelVersion.status == "failed", ModelVersion.reason != REMOVED)
    return list(session.scalars(statement.order_by(ModelVersion.id.desc()).limit(5)))


def training(patient: Patient) -> Iterator[Finding]:
    """The last batch of each domain went well, and none waits for a clock."""
    for domain, batch, waited in patient.work.read(_last_batches):
        if batch.training_status == "failed":
            says = f"the last of domain {domain}, {batch.batch_id}, failed: {(batch.error or '')[:200]}"
            yield Finding("batches", "warn", says, "it is tried again by itself, or `POST /batches/{batch_id}/run`")
        elif batch.training_status == "queued" and waited > QUEUED_LATE_SECONDS:
            says = f"{batch.batch_id} has been queued for {waited / 60:.0f} minutes"
            yield Finding("batches", "warn", says, "see that a clock runs and its training is not stuck")


def _last_batches(session: Session) -> list[tuple[str, TrainingBatch, float]]:
    newest = select(func.max(TrainingBatch.id)).group_by(TrainingBatch.domain_id)
    now = database_time(session)
    rows = session.execute(
        select(Domain.name, TrainingBatch)
        .join(TrainingBatch, TrainingBatch.domain_id == Domain.id)
        .where(TrainingBatch.id.in_(newest))
        .order_by(Domain.id)
    )
    return [(name, batch, (now - (batch.queued_at or now)).total_seconds()) for name, batch in rows]


def backlog(patient: Patient) -> Iterator[Finding]:
    """What is logged is folded into texts soon."""
    count, late = patient.work.read(_unfolded)
    if late > FOLD_LATE_SECONDS:
        says = f"{count} questions are not folded, the oldest for {late / 60:.0f} minutes"
        yield Finding("backlog", "warn", says, "run `intentloop job purge`, and see why no service folds")
    else:
        yield Finding("backlog", "ok", f"{count} questions wait to be folded")


def _unfolded(session: Session) -> tuple[int, float]:
    count, oldest = session.execute(
        select(func.count(), func.min(UserQuestion.created_at)).where(UserQuestion.text_id.is_(None))
    ).one()
    return count, (database_time(session) - oldest).total_seconds() if oldest else 0.0


def spooled(patient: Patient) -> Iterator[Finding]:
    """Every answered question is in the log, and none lies about."""
    kept = patient.work.read(quarantine.count)
    if kept:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(kept.items()))
        advice = "look at intent_quarantined_questions, and delete what is not needed"
        yield Finding("spool", "warn", f"answered questions that could not be logged: {reasons}", advice)
    root = patient.settings.spool
    size = sum(path.stat().st_size for path in root.glob("*/*.frames"))
    if size:
        advice = "start the service here, with this data folder: it hands them on"
        says = f"{size} bytes of answered questions wait on this machine for the database"
        yield Finding("spool", "warn", says, advice)
    if damaged := len(list(root.glob("*/*.damaged"))):
        says = f"{damaged} files of spools are damaged, and some of their questions are lost"
        yield Finding("spool", "fail", says, f"look for errors of the disk; delete *.damaged in {root}")
    if not kept and not size and not damaged:
        yield Finding("spool", "ok", "nothing waits, and nothing is in quarantine")


def taxonomies(patient: Patient) -> Iterator[Finding]:
    """Every domain has labels to choose from, and answers for two of them."""
    for domain in patient.work.read(domains.listing):
        labels = patient.work.read(taxonomy.active, domain.id)
        if not labels:
            advice = f"`intentloop taxonomy import FILE -d {domain.name}`"
            yield Finding("domains", "warn", f"{domain.name} has no labels", advice)
        elif domain.active_version_id is None and (why := patient.work.read(_one_class, domain.id)):
            yield Finding("domains", "warn", f"{domain.name} cannot be trained yet: {why}", "label more texts")
        else:
            yield Finding("domains", "ok", f"{domain.name} has {len(labels)} labels")


def audit_trail(patient: Patient) -> Iterator[Finding]:
    """The chain of the audit trail holds, up to the row that this machine remembers."""
    if patient.secret is None:
        return
    remembered = remembered_head(patient.settings.audit_head)
    found = patient.work.read(audit.verify, secret=patient.secret, remembered=remembered)
    if found.faults:
        yield Finding(
            "audit",
            "fail",
            f"the trail does not hold at {len(found.faults)} place(s)",
            "`intentloop audit verify` names them; ask who can write to the database",
        )
    else:
        yield Finding("audit", "ok", f"the trail holds, {found.head.sequence if found.head else 0} rows")


def _one_class(session: Session, domain_id: int) -> str | None:
    return members.one_class_reason(trainable.looked_up(session, domain_id).per_label)


def keys(patient: Patient) -> Iterator[Finding]:
    """Whoever reaches the service needs a key, unless only this machine does."""
    count = patient.work.read(_keys)
    host = patient.settings.host
    if count:
        yield Finding("keys", "ok", f"{count} in use")
    elif is_loopback(host):
        yield Finding("keys", "ok", "none: the service is open to this machine alone")
    else:
        advice = "make one: `intentloop keys create`"
        yield Finding("keys", "fail", f"there is none, and others reach {host}", advice)


def _keys(session: Session) -> int:
    now = database_time(session)
    usable = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > now))
    return session.scalar(select(func.count(ApiKey.id)).where(usable)) or 0
