"""How well the labels were learned: accuracy and macro-F1, and how they grow with the labels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.intent.evaluation import macro_f1


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy and macro-F1, both in [0, 1]."""

    accuracy: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: the labels given by then, and what the version of that moment scores."""

    labels: int
    scores: Scores
    version: str


@dataclass(slots=True)
class Curve:
    """The measurements in the order in which they were taken."""

    points: list[Point] = field(default_factory=list)

    @property
    def last(self) -> Point | None:
        """The newest measurement, or None."""
        return self.points[-1] if self.points else None


def scores(truth: Sequence[str], answers: Sequence[str | None]) -> Scores:
    """Compare answers with the truth, text by text; None (no answer) is wrong.

    Macro-F1 is the house's: over the labels that occur in the truth. Where every answered label does, it is
    scikit-learn's `f1_score(average="macro")` too.
    """
    if not truth or len(truth) != len(answers):
        raise ValueError(f"{len(truth)} true labels against {len(answers)} answers")
    codes = {label: code for code, label in enumerate(dict.fromkeys([*truth, *answers]))}
    true = np.array([codes[label] for label in truth], dtype=np.int64)
    answered = np.array([codes[label] for label in answers], dtype=np.int64)
    return Scores(float((true == answered).mean()), macro_f1(true, answered))


def summary(curve: Curve, *, labels: int, versions: int, failed_requests: int) -> dict[str, Any]:
    """What `simulate --json` ends with; without any measurement the scores are 0."""
    last = curve.last
    return {
        "accuracy": round(last.scores.accuracy, 4) if last else 0.0,
        "macro_f1": round(last.scores.macro_f1, 4) if last else 0.0,
        "labels": labels,
        "versions": versions,
        "failed_requests": failed_requests,
        "curve": [[point.labels, round(point.scores.accuracy, 4)] for point in curve.points],
    }


def json_line(figures: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(figures, ensure_ascii=False)
