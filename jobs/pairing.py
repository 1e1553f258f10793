"""Fit what a version and a set of rules serve with together: the fusion's weights and the threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.intent.arrays import IntArray
from app.intent.calibration import Held, Thresholds, fit_thresholds
from app.intent.rule_evidence import MiningOptions, out_of_fold_hits
from app.intent.rule_matching import Matcher
from app.intent.rules import Rule
from app.scorers.artifact import OutOfFold
from app.services.activations import Pairing
from jobs.answering import Answers

SEED = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A pairing, the answers out of fold that it was fitted on, shape (n,), and how its τ follows from them."""

    pairing: Pairing
    out_of_fold: Answers
    thresholds: Thresholds


def fit(
    out_of_fold: OutOfFold,
    label_ids: Sequence[int],
    *,
    texts: Mapping[int, str],
    rules: Sequence[Rule],
    revision: int | None,
    policy: str = "sweep",
    later: Held | None = None,
) -> Fitted:
    """Fit the two together on answers to texts that the model had not seen, and mined rules had not been mined on.

    Without rules the model's own confidence stands. `texts`: by text id, all or most of those out of fold; one that was
    forgotten since has no rule that matches it. `policy`: how τ is chosen, a key of `calibration.POLICIES`. `later`:
    what the next tier says about the same texts.
    """
    if not rules:
        best = Answers(_best(out_of_fold, label_ids), out_of_fold.probabilities.max(axis=1, initial=0.0))
        chosen = _thresholds(best, out_of_fold, policy, later)
        return Fitted(Pairing(chosen.threshold), best, chosen)
    # Optimising takes a second to import, and most proofs have no rules.
    from app.intent.fusion_fitting import fit_fusion

    fitted = fit_fusion(
        out_of_fold.probabilities,
        label_ids,
        out_of_fold.label_ids.tolist(),
        _hits(out_of_fold, texts, rules),
        rules,
        seed=SEED,
    )
    answers = Answers(np.asarray(fitted.predicted), np.asarray(fitted.confidence))
    chosen = _thresholds(answers, out_of_fold, policy, later)
    return Fitted(Pairing(chosen.threshold, revision, fitted.fusion.as_json()), answers, chosen)


def _thresholds(answers: Answers, out_of_fold: OutOfFold, policy: str, later: Held | None) -> Thresholds:
    return fit_thresholds(out_of_fold.label_ids, Held(answers.predicted, answers.confidence), later, policy=policy)


def _best(out_of_fold: OutOfFold, label_ids: Sequence[int]) -> IntArray:
    if len(out_of_fold.probabilities) == 0:
        return np.zeros(0, dtype=np.int64)
    best: IntArray = np.asarray(label_ids, dtype=np.int64)[out_of_fold.probabilities.argmax(axis=1)]
    return best


def _hits(out_of_fold: OutOfFold, texts: Mapping[int, str], rules: Sequence[Rule]) -> list[list[int]]:
    """For each text the places of the rules that match it and may count: a mined one only where it was not mined."""
    places = {rule.rule_id: place for place, rule in enumerate(rules)}
    matcher = Matcher(rules)
    matches = [
        [places[rule.rule_id] for rule in matcher.matched(texts.get(int(text_id), ""))]
        for text_id in out_of_fold.text_ids
    ]
    return out_of_fold_hits(matches, out_of_fold.label_ids.tolist(), rules, MiningOptions(seed=SEED))
