"""The figures of a domain: what was asked, answered, labelled and trained, and what is missing for the next batch."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Domain, Label, ModelVersion, Text, TrainingBatch, UserQuestion
from app.services import batches, members, queue, runs, versions

CLOCK_ALIVE_SECONDS = 15.0


def of_domain(session: Session, domain: Domain, rule: batches.OpeningRule) -> dict[str, Any]:
    """All figures of one domain, read in one transaction."""
    questions = _questions(session, domain.id)
    texts = _texts(session, domain.id)
    active = versions.active(session, domain)
    asked = questions["questions"]
    return {
        "domain": domain.name,
        **questions,
        **texts,
        "label_rate": questions["labelled"] / asked if asked else 0.0,
        "queue": queue.length(session, domain.id) if domain.keep_text else 0,
        "by_label": _by_label(session, domain.id),
        "active_version": active.version if active else None,
        "epoch": domain.epoch,
        "versions": [_quality(version) for version in versions.listing(session, domain.id, limit=50)],
        "batches": _batches(session, domain.id),
        "next_batch": _next_batch(session, domain, rule),
        "clock_running": clock_running(session),
    }


def clock_running(session: Session) -> bool:
    """Whether any clock reported lately: without one, nothing trains."""
    return bool(runs.replicas(session, role="clock", alive_seconds=CLOCK_ALIVE_SECONDS))


def _questions(session: Session, domain_id: int) -> dict[str, Any]:
    rows = session.execute(
        select(UserQuestion.method, UserQuestion.is_labeled, func.count())
        .where(UserQuestion.domain_id == domain_id)
        .group_by(UserQuestion.method, UserQuestion.is_labeled)
    ).all()
    by_method: dict[str, int] = {}
    for method, _, count in rows:
        by_method[method] = by_method.get(method, 0) + count
    return {
        "questions": sum(by_method.values()),
        "labelled": sum(count for _, labelled, count in rows if labelled),
        "by_method": by_method,
    }


def _texts(session: Session, domain_id: int) -> dict[str, Any]:
    rows = session.execute(
        select(Text.state, Text.is_gold, func.count())
        .where(Text.domain_id == domain_id)
        .group_by(Text.state, Text.is_gold)
    ).all()
    counts = {(state, bool(gold)): count for state, gold, count in rows}
    return {
        "texts": sum(counts.values()),
        "texts_labelled": counts.get(("labelled", False), 0) + counts.get(("labelled", True), 0),
        "texts_skipped": counts.get(("skipped", False), 0) + counts.get(("skipped", True), 0),
        "gold_labelled": counts.get(("labelled", True), 0),
        "gold_candidates": counts.get(("unlabelled", True), 0),
    }


def _by_label(session: Session, domain_id: int) -> dict[str, int]:
    rows = session.execute(
        select(Label.path, func.count())
        .join(Text, Text.label_id == Label.id)
        .where(Text.domain_id == domain_id)
        .group_by(Label.path)
        .order_by(func.count().desc(), Label.path)
    )
    return dict(rows.all())


def _batches(session: Session, domain_id: int) -> dict[str, int]:
    rows = session.execute(
        select(TrainingBatch.training_status, func.count())
        .where(TrainingBatch.domain_id == domain_id)
        .group_by(TrainingBatch.training_status)
    )
    return dict(rows.all())


def _quality(version: ModelVersion) -> dict[str, Any]:
    gold = version.evaluation.get("gold") or {}
    return {
        "version": version.version,
        "recipe": version.recipe,
        "status": version.status,
        "is_active": bool(version.is_active),
        "train_count": version.train_count,
        "gold_count": gold.get("count"),
        "macro_f1": gold.get("macro_f1"),
        "accuracy": gold.get("accuracy"),
        "evidence": (version.evaluation.get("gate") or {}).get("evidence"),
        "reason": version.reason,
        "created_at": version.created_at,
        "activated_at": version.activated_at,
    }


def _next_batch(session: Session, domain: Domain, rule: batches.OpeningRule) -> dict[str, Any]:
    decision = batches.whether_due(session, domain, rule)
    pending = session.scalar(
        select(func.count(Text.id)).where(members.trainable(domain.id), Text.training_status == "pending")
    )
    answer = asdict(decision)
    return {
        "labels_new": pending or 0,
        "labels_missing": answer["missing"],
        "due": answer["open"],
        "reason": answer["reason"],
    }
