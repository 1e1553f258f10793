"""Score texts by how much a label would teach the model, and draw the uniform sample that is gold.

Every score lies in [0, 1], and a higher one is always more worth a label. Arrays of scores have shape
(n_texts,). `probabilities` have shape (n_texts, n_labels), and their rows sum to 1.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from app.intent.arrays import FloatArray, IntArray

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


UNCERTAINTIES: Final[Mapping[str, Callable[[FloatArray], FloatArray]]] = {
    "least_confidence": least_confidence,
    "margin": margin,
    "entropy": entropy,
}


def confusion(probabilities: FloatArray, pairs: Sequence[tuple[int, int]]) -> FloatArray:
    """How evenly a text lies between two labels that are known to be confused: the greatest 2 · min(p, q) of a pair.

    `pairs`: columns of `probabilities`. Zero without a pair.
    """
    if not pairs:
        return np.zeros(len(probabilities))
    left, right = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    scores: FloatArray = 2.0 * np.minimum(probabilities[:, left], probabilities[:, right]).max(axis=1)
    return scores.clip(0.0, 1.0)


def rare(probabilities: FloatArray, label_counts: IntArray) -> FloatArray:
    """How much of the probability lies on labels with few texts: Σ p · (1 - count / largest count).

    `label_counts`: shape (n_labels,), labelled texts of each. Zero where every label has as many.
    """
    largest = int(label_counts.max(initial=0))
    if largest == 0:
        return np.zeros(len(probabilities))
    scores: FloatArray = probabilities @ (1.0 - label_counts / largest)
    return scores.clip(0.0, 1.0)


def suspect(probabilities: FloatArray, neighbour_labels: IntArray, cosines: FloatArray) -> FloatArray:
    """How sure the model is of what the nearest labelled texts deny: p(answer) · their share with another label.

    Neighbours count by their cosine. High where the model is probably wrong and does not know it, where no
    uncertainty looks (deep k-nearest neighbours, Papernot & McDaniel 2018).

    Args:
        neighbour_labels, cosines: shape (n_texts, k); a column of `probabilities` or -1 for a label it does not have.
    """
    if probabilities.shape[1] == 0 or neighbour_labels.shape[1] == 0:
        return np.zeros(len(probabilities))
    weights = cosines.clip(0.0, 1.0)
    others = neighbour_labels != probabilities.argmax(axis=1)[:, None]
    total = weights.sum(axis=1)
    share = np.divide((weights * others).sum(axis=1), total, out=np.zeros_like(total), where=total > 0.0)
    scores: FloatArray = probabilities.max(axis=1) * share
    return scores.clip(0.0, 1.0)


def far(cosines: FloatArray) -> FloatArray:
    """One minus the cosine to the nearest labelled text. `cosines`: shape (n_texts,)."""
    return (1.0 - cosines).clip(0.0, 1.0)


def in_turns(scores: FloatArray, clusters: IntArray, behind: IntArray | None = None) -> FloatArray:
    """One text of each cluster, then a second of each, and so on: the best first everywhere.

    The text of rank r in its cluster scores between 1/(r+2) and 1/(r+1), higher the higher its own score. Equal ones of
    a cluster follow each other in their order here, for only one of them is asked first.

    Args:
        scores: what ranks a text in its cluster and among those of its turn.
        clusters: shape (n_texts,), the number of each text's cluster.
        behind: shape (n_clusters,), the turns that a cluster has had before: a covered one comes later.
    """
    order = np.lexsort((np.arange(len(scores)), -scores, clusters))
    ordered = clusters[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(ordered)])
    rank = np.empty(len(scores))
    rank[order] = np.arange(len(ordered)) - np.repeat(starts, sizes)
    if behind is not None:
        rank += behind[clusters]
    low = 1.0 / (rank + 2.0)
    found: FloatArray = low + scores * (1.0 / (rank + 1.0) - low)
    return found


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


def tempered(scores: FloatArray, counts: IntArray) -> FloatArray:
    """`frequency_weighted` for arrays: how often each text was asked raises its score, and never above 1."""
    raised: FloatArray = scores ** (1.0 / (1.0 + np.log(np.maximum(counts, 1))))
    return raised


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
