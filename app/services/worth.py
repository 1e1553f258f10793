"""What further labels are worth to a domain: its learning curve, the labels that a target needs, and when to stop.

Read from the evaluations of versions alone, the last ones, so it costs the same whatever was asked or labelled.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, ModelVersion, Text
from app.intent.learning_curve import LEAST_SIZES, Estimate, LabelsNeeded, LearningCurve, Point, fit_learning_curve
from app.intent.recipes import GENERATIVE, RECIPES
from app.intent.stability import VERSIONS, have_stabilised
from app.services import versions

MOST_VERSIONS: Final = 50
FURTHER: Final = 100
SAMPLE: Final = 500
"""Texts without gold labels on which versions are compared."""

LEAST_SAMPLE: Final = 100
"""Compared on fewer, versions that answer alike prove nothing."""

NEAR: Final = 0.95
"""The target where none is given, as a share of what labels without end would come to."""


def of_domain(session: Session, domain: Domain, *, target: float | None = None) -> dict[str, Any]:
    """What further labels are worth to this domain; `target`: the macro-F1 that is wanted, in (0, 1]."""
    return of_versions(versions.listing(session, domain.id, limit=MOST_VERSIONS), target=target)


def of_versions(newest_first: Sequence[ModelVersion], *, target: float | None = None) -> dict[str, Any]:
    """As `of_domain`, of its last versions. A recipe has a curve of its own: the one of the newest version counts."""
    series, fitted = curve_of(newest_first)
    stop = _stop(series)
    told: dict[str, Any] = {
        "recipe": series[-1].recipe if series else None,
        "labels": max((version.train_count for version in series), default=0),
        "points": [_point_as_json(version) for version in series],
        "curve": None,
        "target": None,
        "gain": None,
        "stop": stop,
    }
    if fitted is None:
        sizes = len({version.train_count for version in series})
        return told | {"says": [_too_few(sizes), stop["reason"]]}
    wanted = target if target is not None else round(NEAR * fitted.asymptote.value, 4)
    needed, gain = fitted.needed(wanted), fitted.gain(FURTHER)
    a, b, c = (float(value) for value in fitted.parameters)
    return told | {
        "curve": {"a": a, "b": b, "c": c, "asymptote": _estimate_as_json(fitted.asymptote)},
        "target": {
            "macro_f1": wanted,
            "is_given": target is not None,
            "reached": needed.reached,
            "more_labels": needed.more,
            "low": needed.low,
            "high": needed.high,
        },
        "gain": {"labels": FURTHER, **_estimate_as_json(gain)},
        "says": [f"{_needed_in_words(needed, wanted)}; {_gain_in_words(gain)}", stop["reason"]],
    }


def curve_of(newest_first: Sequence[ModelVersion]) -> tuple[list[ModelVersion], LearningCurve | None]:
    """The versions that lie on the curve of today's recipe, the oldest first, and the curve where they are enough."""
    measured = [version for version in reversed(newest_first) if _is_measured(version)]
    series = [version for version in measured if version.recipe == measured[-1].recipe]
    return series, fit_learning_curve([point_of(version) for version in series])


def point_of(version: ModelVersion) -> Point:
    """A version as a point of the curve."""
    gold = version.evaluation["gold"]
    found = gold["macro_f1"]
    return Point(version.train_count, found["value"], gold["count"], found.get("low"), found.get("high"))


def sample(session: Session, domain_id: int, *, limit: int = SAMPLE) -> list[str]:
    """The same texts each time, as long as they are there: no gold, and none that may not be trained on.

    Those with the lowest hashes, which are as good as drawn at random. Some were labelled, perhaps: agreement asks for
    no label.
    """
    found = session.scalars(
        select(Text.text)
        .where(
            Text.domain_id == domain_id, Text.is_gold.is_(False), Text.train_allowed.is_(True), Text.text.is_not(None)
        )
        .order_by(Text.text_hash)
        .limit(limit)
    )
    return [text for text in found if text is not None]


def _is_measured(version: ModelVersion) -> bool:
    """Whether it was trained here, in the main route, and measured on gold."""
    gold = version.evaluation.get("gold") or {}
    return (
        version.recipe in RECIPES
        and version.recipe not in GENERATIVE
        and version.status != "failed"
        and version.train_count > 0
        and bool(gold.get("count"))
        and (gold.get("macro_f1") or {}).get("value") is not None
    )


def _stop(series: Sequence[ModelVersion]) -> dict[str, Any]:
    """Whether further labels have stopped to change the answers, by versions that had more labels than all before."""
    grown, most = [], 0
    for version in series:
        if version.train_count > most:
            most = version.train_count
            grown.append(version)
    compared = [
        {"version": version.version, **version.evaluation["stability"]}
        for version in grown[-VERSIONS:]
        if version.evaluation.get("stability")
    ]
    kappas = [entry["kappa"] for entry in compared]
    fewest = min((entry["sample"] for entry in compared), default=0)
    stop = have_stabilised(kappas) and fewest >= LEAST_SAMPLE
    return {"stop": stop, "compared": compared, "reason": _stop_in_words(kappas, fewest)}


def _stop_in_words(kappas: Sequence[float], fewest: int) -> str:
    shown = ", ".join(f"{kappa:.3f}" for kappa in kappas)
    if len(kappas) < VERSIONS:
        return (
            f"whether answers still change is known from {VERSIONS} versions on that had more labels each and were "
            f"compared with the one that served; there are {len(kappas)}"
        )
    if not have_stabilised(kappas):
        return f"further labels still change the answers of the last three versions (κ {shown})"
    if fewest < LEAST_SAMPLE:
        return f"the last three versions answer alike (κ {shown}), but to {fewest} texts only: too few to stop by"
    return f"the last three versions answer alike (κ {shown}): more labels of this kind change little"


def _point_as_json(version: ModelVersion) -> dict[str, Any]:
    gold = version.evaluation["gold"]
    return {
        "version": version.version,
        "labels": version.train_count,
        "gold_count": gold["count"],
        "macro_f1": gold["macro_f1"],
    }


def _estimate_as_json(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _too_few(sizes: int) -> str:
    return (
        f"a learning curve needs {LEAST_SIZES} versions of one recipe with different numbers of labels, "
        f"measured on gold; there are {sizes}"
    )


def _needed_in_words(needed: LabelsNeeded, target: float) -> str:
    if needed.more == 0:
        return f"macro-F1 {target:.2f} is reached by this curve"
    if needed.more is None:
        least = "" if needed.low is None else f" (95 %: from {_rounded(needed.low)} more labels on, or never)"
        return f"macro-F1 {target:.2f} is never reached by this curve{least}"
    more, low = _rounded(needed.more), _rounded(needed.low or 0)
    high = "never" if needed.high is None else _rounded(needed.high)
    return f"about {more} more labels (95 %: {low}–{high}) to reach macro-F1 {target:.2f}"


def _rounded(labels: int) -> str:
    """Two digits: no more of them is known."""
    return f"{int(float(f'{labels:.1e}')):,}"


def _gain_in_words(gain: Estimate) -> str:
    value, low, high = (100 * share for share in (gain.value, gain.low, gain.high))
    return f"the next {FURTHER} are worth {value:+.1f} points ({low:.1f}–{high:.1f})"
