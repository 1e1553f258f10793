"""Score texts by how much a label would teach the model, and draw the uniform sample that is gold.

Every score lies in [0, 1], and a higher one is always more worth a label. Arrays of scores have shape
(n_texts,).
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from app.intent.arrays import FloatArray

GOLD_CANDIDATES: Final = 0.10
"""Share of all texts that may become gold."""

GOLD_STEPS: Final = ((200, 0.15), (2_000, 0.10))
"""Share of gold in a selection until so many gold texts are labelled."""

GOLD_SHARE_LATER: Final = 0.02


def least_confidence(probabilities: FloatArray) -> FloatArray:
    """One minus the best probability, scaled to reach 1 where all are equal.

    `probabilities`: shape (n_texts, n_labels), rows sum to 1. Zero where there is only one label. Lewis &
    Gale 1994.
    """
    n_labels = probabilities.shape[1]
    if n_labels < 2:
        return np.zeros(len(probabilities))
    scores: FloatArray = (1.0 - probabilities.max(axis=1)) * n_labels / (n_labels - 1)
    return scores.clip(0.0, 1.0)


def margin(probabilities: FloatArray) -> FloatArray:
    """One minus the gap between the two best labels.

    `probabilities`: shape (n_texts, n_labels), rows sum to 1. Zero where there is only one label. Scheffer et
    al. 2001.
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    best_two = np.partition(probabilities, -2, axis=1)[:, -2:]
    scores: FloatArray = 1.0 - (best_two[:, 1] - best_two[:, 0])
    return scores.clip(0.0, 1.0)


def entropy(probabilities: FloatArray) -> FloatArray:
    """Shannon's entropy over its maximum: -Σ p ln p / ln n_labels.

    `probabilities`: shape (n_texts, n_labels), rows sum to 1. Zero where there is only one label.
    """
    n_labels = probabilities.shape[1]
    if n_labels < 2:
        return np.zeros(len(probabilities))
    logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0.0)
    scores: FloatArray = -(probabilities * logarithms).sum(axis=1) / math.log(n_labels)
    return scores.clip(0.0, 1.0)


STRATEGIES: Final[Mapping[str, Callable[[FloatArray], FloatArray]]] = {
    "least_confidence": least_confidence,
    "margin": margin,
    "entropy": entropy,
}


def margin_from_topk(topk: Sequence[Sequence[Any]]) -> float:
    """`margin` of a text of which only the logged (label, probability) pairs are known, best first.

    With one pair, the second label is taken to have all the rest, as far as it could: the model may be that
    unsure. Without a probability nothing is known, and the score is 1.
    """
    known = [min(1.0, max(0.0, float(pair[1]))) for pair in topk[:2] if pair[1] is not None]
    if not known:
        return 1.0
    best = known[0]
    second = known[1] if len(known) > 1 else min(best, 1.0 - best)
    return 1.0 - max(0.0, best - second)


def frequency_weighted(score: float, count: int) -> float:
    """The score raised by how often the text is asked: score ** (1 / (1 + ln(count))).

    Monotone in both, and still in [0, 1]; 0 and 1 stay what they are: a text that is asked a thousand times
    and that the model is sure of teaches nothing.
    """
    return math.pow(score, 1.0 / _weight(count))


def random_priority(hashes: Sequence[str], counts: Sequence[int]) -> FloatArray:
    """Random scores weighted by log frequency: u ** (1 / w) with w = 1 + ln(count).

    Taking the highest draws without replacement, with probability in proportion to w (Efraimidis & Spirakis
    2006). u is uniform and follows from the text's hash: every process draws the same.
    """
    drawn = [
        frequency_weighted(_uniform("priority", text_hash), count)
        for text_hash, count in zip(hashes, counts, strict=True)
    ]
    return np.array(drawn, dtype=np.float64)


def _weight(count: int) -> float:
    return 1.0 + math.log(max(1, count))


def is_gold_candidate(group_hash: str, share: float = GOLD_CANDIDATES) -> bool:
    """Whether a text may become gold: decided once and for all by the hash of its group of near twins."""
    return _uniform("gold", group_hash) < share


def _uniform(purpose: str, text_hash: str) -> float:
    """A number in (0, 1) that follows from the hash; for different purposes the numbers are independent."""
    digest = hashlib.sha256(f"intentloop-{purpose}\n{text_hash}".encode()).digest()
    # 52 bits and a half: with more, the largest would round up to 1.
    return ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2.0**52


def gold_share(n_labelled_gold: int) -> float:
    """The share of gold in the next selection: less, the more gold is labelled."""
    for until, share in GOLD_STEPS:
        if n_labelled_gold < until:
            return share
    return GOLD_SHARE_LATER


def gold_draw(candidate_ids: Sequence[int], quota: int, rng: np.random.Generator) -> tuple[list[int], float]:
    """A uniform draw without replacement, in random order, and the probability with which it took each."""
    taken = min(max(0, quota), len(candidate_ids))
    if taken == 0:
        return [], 0.0
    places = rng.permutation(len(candidate_ids))[:taken]
    return [candidate_ids[place] for place in places], taken / len(candidate_ids)


def interleave(priorities: Sequence[float], n_gold: int, rng: np.random.Generator) -> list[float]:
    """Priorities for gold texts that hide them among the others. `priorities`: of the others, highest first.

    The list is cut into as many equal stretches as there are gold texts, and each takes the priority of a
    uniformly random place in its own stretch: any place is equally likely, and gold is spread evenly. The
    answer is in random order. Where nothing else waits, the priorities are uniform in [0, 1).
    """
    if not priorities:
        return [float(place) for place in rng.random(n_gold)]
    places = (rng.permutation(n_gold) + rng.random(n_gold)) / max(1, n_gold) * len(priorities)
    last = len(priorities) - 1
    return [float(priorities[min(last, int(place))]) for place in places]
