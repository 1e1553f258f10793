"""The figures of a domain: what was asked, answered, labelled and trained, and what is missing for the next batch.

Read from counters and from tables that grow with batches and rules, never from questions or texts: `/stats` costs the
same whatever was asked.
"""

from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from app.db.tables import Domain, KeywordRule, Label, ModelVersion, TrainingBatch, UserQuestion
from app.intent.proportions import wilson
from app.services import batches, counters, counting, periods, runs, trainable, versions, worth
from app.services.counters import Figures

CLOCK_ALIVE_SECONDS = 15.0
DAYS: Final = 30
MOST_UNFOLDED: Final = 10_000
MOST_DURATIONS: Final = 100
_UNFOLDED: Final = "unfolded"


def of_domain(
    session: Session, domain: Domain, rule: batches.OpeningRule, *, days: int = DAYS, target: float | None = None
) -> dict[str, Any]:
    """All figures of one domain, read in one transaction; those by day for the last `days`, today included.

    `target`: the macro-F1 for which the labels still needed are told.
    """
    totals = counters.totals(session, domain.id, beside=_unfolded(domain.id))
    active = versions.active(session, domain)
    labels = _paths(session, domain.id)
    last = versions.listing(session, domain.id, limit=worth.MOST_VERSIONS)
    return {
        "domain": domain.name,
        **_questions(totals),
        **_texts(totals),
        "queue": _one(totals, counting.QUEUED) if domain.keep_text else 0,
        "by_label": _by_path(totals.get(counting.TEXT_LABEL, {}), labels),
        "answers": _answers(totals),
        "by_answer": _by_path(totals.get(counting.ANSWER, {}), labels),
        "live_accuracy": _live_accuracy(totals, active),
        "selection": _selection(domain, totals),
        "active_version": active.version if active else None,
        "epoch": domain.epoch,
        "versions": [_quality(version) for version in last],
        "worth": worth.of_versions(last, target=target),
        "rules": _rules(session, domain.id),
        **_batches(session, domain.id),
        "next_batch": _next_batch(session, domain, rule, totals),
        "clock_running": clock_running(session),
        **periods.of_domain(session, domain.id, days=days),
    }


def clock_running(session: Session) -> bool:
    """Whether any clock reported lately: without one, nothing trains."""
    return bool(runs.replicas(session, role="clock", alive_seconds=CLOCK_ALIVE_SECONDS))


def _unfolded(domain_id: int) -> Any:
    """Questions that were answered a moment ago and are folded, and so counted, within the next one."""
    # The front of an index, whatever was asked before; bounded, for a backlog that nobody folds.
    waiting = (
        select(UserQuestion.domain_id, UserQuestion.method)
        .where(UserQuestion.text_id.is_(None))
        .limit(MOST_UNFOLDED)
        .subquery()
    )
    return (
        select(literal(_UNFOLDED), waiting.c.method, func.count())
        .where(waiting.c.domain_id == domain_id)
        .group_by(waiting.c.method)
    )


def _one(totals: Figures, name: str, key: str = "") -> int:
    return totals.get(name, {}).get(key, 0)


def share(part: int, whole: int) -> float | None:
    """A ratio in [0, 1], or None of nothing."""
    return part / whole if whole else None


def _questions(totals: Figures) -> dict[str, Any]:
    by_method = dict(totals.get(counting.METHOD, {}))
    for method, count in totals.get(_UNFOLDED, {}).items():
        by_method[method] = by_method.get(method, 0) + count
    asked, labelled = sum(by_method.values()), _one(totals, counting.LABELLED)
    return {
        "questions": asked,
        "labelled": labelled,
        "label_rate": labelled / asked if asked else 0.0,
        "by_method": dict(sorted(by_method.items())),
    }


def _answers(totals: Figures) -> dict[str, Any]:
    stands, to_person = _one(totals, counting.STANDS), _one(totals, counting.TO_PERSON)
    served, llm_calls = stands + to_person, _one(totals, counting.LLM)
    return {
        "served": served,
        "external": _one(totals, counting.SOURCE, "external"),
        "above_threshold": stands,
        "above_threshold_share": share(stands, served),
        "to_person": to_person,
        "to_person_share": share(to_person, served),
        "llm_calls": llm_calls,
        "llm_call_rate": share(llm_calls, served),
        "outside_taxonomy": _one(totals, counting.ANSWER, counting.OUTSIDE),
    }


def _texts(totals: Figures) -> dict[str, Any]:
    found = totals.get(counting.TEXT, {})

    def both(state: str) -> int:
        return found.get(state, 0) + found.get(state + counting.GOLD, 0)

    return {
        "texts": sum(found.values()),
        "texts_labelled": both("labelled"),
        "texts_skipped": both("skipped"),
        "texts_discarded": both("discarded"),
        "texts_disputed": both("disputed"),
        "texts_flagged": _one(totals, counting.FLAGGED),
        "suspects": _one(totals, counting.SUSPECT),
        "gold_labelled": found.get("labelled" + counting.GOLD, 0),
        "gold_candidates": found.get("unlabelled" + counting.GOLD, 0),
    }


def _paths(session: Session, domain_id: int) -> dict[str, str]:
    rows = session.execute(select(Label.id, Label.path).where(Label.domain_id == domain_id))
    return {str(label_id): path for label_id, path in rows}


def _by_path(counts: Mapping[str, int], paths: Mapping[str, str]) -> dict[str, int]:
    """Counts by label, the most frequent first."""
    named = [(paths[key], count) for key, count in counts.items() if key in paths and count]
    return dict(sorted(named, key=lambda entry: (-entry[1], entry[0])))


def _selection(domain: Domain, totals: Figures) -> dict[str, Any]:
    """The last selection, and what people answered of all that were asked, each by strategy."""
    last = domain.last_selection or {}
    return {
        "selected_at": last.get("selected_at"),
        "version": last.get("version"),
        "selected": last.get("by_strategy", {}),
        "labelled": {name: count for name, count in sorted(totals.get(counting.CHOSEN_BY, {}).items()) if count > 0},
    }


def _live_accuracy(totals: Figures, active: ModelVersion | None) -> dict[str, Any]:
    judged, agreed = totals.get(counting.JUDGED, {}), totals.get(counting.AGREED, {})
    return {
        "overall": accuracy(sum(agreed.values()), sum(judged.values())),
        "active_version": accuracy(agreed.get(active.version, 0), judged.get(active.version, 0)) if active else None,
    }


def accuracy(right: int, counted: int) -> dict[str, Any]:
    """A share of right answers with its 95 % interval."""
    low, high = wilson(right, counted)
    return {"judged": counted, "right": right, "accuracy": share(right, counted), "low": low, "high": high}


def _rules(session: Session, domain_id: int) -> dict[str, Any]:
    """Over the rules of a domain: as many rows as it has rules, whatever was asked."""
    rows = session.execute(
        select(
            KeywordRule.status,
            func.count(),
            func.sum(KeywordRule.usage_count),
            func.sum(KeywordRule.judged_count),
            func.sum(KeywordRule.success_count),
        )
        .where(KeywordRule.domain_id == domain_id)
        .group_by(KeywordRule.status)
        .order_by(KeywordRule.status)
    ).all()
    usage, judged, success = (int(sum(column)) for column in list(zip(*rows, strict=True))[2:] or ((), (), ()))
    return {
        "by_status": {row[0]: row[1] for row in rows},
        "usage": usage,
        "judged": judged,
        "success": success,
        "success_rate": share(success, judged),
    }


def _batches(session: Session, domain_id: int) -> dict[str, Any]:
    rows = session.execute(
        select(TrainingBatch.training_status, TrainingBatch.outcome, func.count())
        .where(TrainingBatch.domain_id == domain_id)
        .group_by(TrainingBatch.training_status, TrainingBatch.outcome)
        .order_by(TrainingBatch.training_status, TrainingBatch.outcome)
    ).all()
    by_status: dict[str, int] = {}
    for status, _, count in rows:
        by_status[status] = by_status.get(status, 0) + count
    completed, failed = by_status.get("completed", 0), by_status.get("failed", 0)
    return {
        "batches": by_status,
        "training": {
            "finished": completed + failed,
            "success_rate": share(completed, completed + failed),
            "by_outcome": {outcome: count for _, outcome, count in rows if outcome is not None},
            "median_seconds": _median_seconds(session, domain_id),
        },
    }


def _median_seconds(session: Session, domain_id: int) -> float | None:
    """How long the last batches took that ended with a version."""
    times = session.execute(
        select(TrainingBatch.started_at, TrainingBatch.finished_at)
        .where(TrainingBatch.domain_id == domain_id, TrainingBatch.training_status == "completed")
        .order_by(TrainingBatch.id.desc())
        .limit(MOST_DURATIONS)
    )
    seconds = [(end - start).total_seconds() for start, end in times if start is not None and end is not None]
    return round(median(seconds), 3) if seconds else None


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


def _next_batch(session: Session, domain: Domain, rule: batches.OpeningRule, totals: Figures) -> dict[str, Any]:
    known = trainable.from_counters(session, domain.id, totals)
    decision = batches.whether_due(session, domain, rule, known)
    return {
        "labels_new": known.new,
        "labels_missing": decision.missing,
        "due": decision.open,
        "reason": decision.reason,
    }
