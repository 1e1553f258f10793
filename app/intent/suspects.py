"""Tell which labels look wrong, by what models say that never saw them, and by the labels of near texts.

Confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"): a
label is doubted when a model that was trained without its text speaks for another, and the more so the more often
labels were mistaken for each other in just this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.clusters import Float32Array, nearest_few, unit_rows

NEIGHBOURS: Final = 30
"""Labelled texts that vote for each text."""

MOST_COMPARED: Final = 20_000
"""Of more labelled texts than so many only every second, third, … votes: 20,000 × 20,000 take some ten seconds."""

# Votes of near texts count as (cosine)⁴ times the trust in their labels; what they do not name keeps this share.
_SHARPNESS: Final = 4
_DISSENT: Final = 0.15
# So probable a label is enough for a confident answer, however sure its own texts are: where a model is nearly always
# sure, hardly a wrong label would be counted otherwise.
_SURE: Final = 0.8
# Added to probabilities: an out-of-fold answer is never as sure as it says.
_DOUBT: Final = 1e-4
# Mistakes that are expected alike for all pairs of labels, beside those that were counted. See `_mistakes`.
_CAUTION: Final = 10.0
_CONCENTRATIONS: Final = np.geomspace(0.5, 3000.0, 40)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with their labels, and what a model says of them that has not seen them.

    Args:
        probabilities: shape (n_texts, n_labels), calibrated, out of fold.
        given: shape (n_texts,), the column of each text's label.
        embeddings: shape (n_texts, dimension); without them no near text votes.
    """

    probabilities: FloatArray
    given: IntArray
    embeddings: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True)
class Suspects:
    """What is doubted about labels.

    Args:
        suspicion: shape (n_texts,), in [0, 1], higher is more likely wrong.
        looks_wrong: shape (n_texts,): the most suspect, as many as the confident joint counts beside its diagonal, as
            far as another label is likelier than the given one.
        answers: shape (n_texts,), the likeliest label by all evidence.
    """

    suspicion: FloatArray
    looks_wrong: NDArray[np.bool_]
    answers: IntArray


def find_suspects(labelled: Labelled, asked: Labelled | None = None) -> Suspects:
    """Doubt the labels of `asked` by what `labelled` teaches; without `asked` those of `labelled` itself.

    With p the probability of a label by the model and the near texts, g the given label and m(j, g) how many times
    oftener than others g is given by mistake where j is right, the odds that g is wrong are c·Σ_{j ≠ g} p(j)·m(j, g) /
    p(g), and suspicion is odds / (1 + odds). c is what lets suspicion add up to the wrong labels that the confident
    joint counts. Near texts vote twice: first as far as the model believes their labels, then as far as these were
    found right by that too.
    """
    judged = labelled if asked is None else asked
    if not len(judged.given) or not len(labelled.given):
        return Suspects(np.zeros(len(judged.given)), np.zeros(len(judged.given), dtype=bool), judged.given.copy())
    trust = labelled.probabilities[np.arange(len(labelled.given)), labelled.given]
    if labelled.embeddings is not None:
        trust = np.sqrt(trust) * (1.0 - _found(labelled, labelled, trust).suspicion)
    return _found(judged, labelled, trust)


def _found(judged: Labelled, labelled: Labelled, trust: FloatArray) -> Suspects:
    """`trust`: how far the label of each of `labelled` is believed when it votes, shape (n_labelled,)."""
    learned = _with_votes(labelled, labelled, trust)
    least = _own_confidence(learned, labelled.given)
    joint = confident_joint(learned, labelled.given, least)
    mistakes = _mistakes(joint)
    likely = learned
    if judged is not labelled:
        likely = _with_votes(judged, labelled, trust)
        joint = confident_joint(likely, judged.given, least)
    odds, answers = _odds(likely, judged.given, mistakes)
    share = 1.0 - float(np.trace(joint) / joint.sum())
    odds *= _scale(odds, share)
    looks_wrong = np.zeros(len(odds), dtype=bool)
    looks_wrong[np.argsort(-odds, kind="stable")[: round(share * len(odds))]] = True
    return Suspects(odds / (1.0 + odds), looks_wrong & (answers != judged.given), answers)


def confident_joint(probabilities: FloatArray, given: IntArray, least: FloatArray | None = None) -> FloatArray:
    """How many texts with a label (rows) belong to which (columns), by confident answers; sums to n_texts.

    A text belongs to the likeliest of the labels whose probability is at least the mean that texts with this label
    give it themselves, or at least 0.8; where no label reaches that, it is not counted, and its label's row is scaled
    up for it.

    Args:
        probabilities: shape (n_texts, n_labels).
        given: shape (n_texts,).
        least: shape (n_labels,), what a label must reach, where other texts say so.
    """
    n_labels = probabilities.shape[1]
    counts = np.bincount(given, minlength=n_labels)
    confident = probabilities >= (_own_confidence(probabilities, given) if least is None else least)
    joint = np.zeros((n_labels, n_labels))
    rows = np.flatnonzero(confident.any(axis=1))
    belongs = np.where(confident[rows], probabilities[rows], -1.0).argmax(axis=1)
    np.add.at(joint, (given[rows], belongs), 1.0)
    # Nothing confident about a label says that nothing is wrong with it.
    joint[np.diag_indices(n_labels)] += np.where(joint.sum(axis=1) == 0.0, counts, 0.0)
    scaled: FloatArray = joint * (counts / np.maximum(joint.sum(axis=1), 1.0))[:, None]
    return scaled


def _own_confidence(probabilities: FloatArray, given: IntArray) -> FloatArray:
    """The mean probability that texts with a label give it, at most 0.8; of a label that nobody gave infinity."""
    n_texts, n_labels = probabilities.shape
    counts = np.bincount(given, minlength=n_labels)
    own = np.bincount(given, probabilities[np.arange(n_texts), given], minlength=n_labels)
    means: FloatArray = np.where(counts > 0, (own / np.maximum(counts, 1)).clip(max=_SURE), np.inf)
    return means


def nearest_labelled(
    embeddings: NDArray[np.floating], others: NDArray[np.floating], itself: IntArray, count: int
) -> list[list[int]]:
    """For each text the `count` most similar rows of `others`, best first; those with a cosine of 0 or less are none.

    Args:
        embeddings: shape (n_texts, dimension).
        others: shape (n_others, dimension).
        itself: shape (n_texts,): the row of `others` that is the text itself, -1 where none is.
    """
    places, cosines = nearest_few(unit_rows(embeddings), unit_rows(others), count + 1)
    return [
        [int(place) for place in near[(likeness > 0.0) & (near != own)]][:count]
        for near, likeness, own in zip(places, cosines, itself, strict=True)
    ]


def _odds(likely: FloatArray, given: IntArray, mistakes: FloatArray) -> tuple[FloatArray, IntArray]:
    """The odds against each given label, up to a factor, and the likeliest label; shapes (n_texts,)."""
    weighed = likely * mistakes[:, given].T
    own = weighed[np.arange(len(given)), given]
    answers: IntArray = weighed.argmax(axis=1).astype(np.int64)
    return (weighed.sum(axis=1) - own).clip(0.0) / own, answers


def _scale(odds: FloatArray, share: float) -> float:
    """The factor c at which the mean of c·odds / (1 + c·odds) is `share`, within [1e-12, 1e12]."""
    low, high = np.log(1e-12), np.log(1e12)
    for _ in range(60):
        middle = (low + high) / 2.0
        scaled = np.exp(middle) * odds
        low, high = (middle, high) if float((scaled / (1.0 + scaled)).mean()) < share else (low, middle)
    return float(np.exp((low + high) / 2.0))


def _with_votes(judged: Labelled, labelled: Labelled, trust: FloatArray) -> FloatArray:
    """Probabilities times what the near labelled texts say, shape (n_judged, n_labels); rows sum to 1.

    A near text votes as much as its label is trusted: wrong labels do not vouch for each other.
    """
    likely = judged.probabilities + _DOUBT
    if judged.embeddings is not None and labelled.embeddings is not None:
        votes = _votes(judged, unit_rows(judged.embeddings), labelled, unit_rows(labelled.embeddings), trust)
        likely = likely * (votes + _DISSENT)
    rows: FloatArray = likely / likely.sum(axis=1, keepdims=True)
    return rows


def _votes(
    judged: Labelled, vectors: Float32Array, labelled: Labelled, others: Float32Array, trust: FloatArray
) -> FloatArray:
    """The share of each label among the near labelled texts, shape (n_judged, n_labels)."""
    n_judged, n_labels = judged.probabilities.shape
    own = judged is labelled
    compared = np.arange(0, len(labelled.given), -(-len(labelled.given) // MOST_COMPARED))
    places, cosines = nearest_few(vectors, others[compared], NEIGHBOURS + own)
    weights = cosines.clip(0.0) ** _SHARPNESS * trust[compared][places]
    if own:
        # Its own label is what is in doubt.
        weights[compared[places] == np.arange(n_judged)[:, None]] = 0.0
    votes = np.zeros((n_judged, n_labels))
    np.add.at(votes, (np.arange(n_judged)[:, None], labelled.given[compared][places]), weights)
    total = votes.sum(axis=1, keepdims=True)
    shares: FloatArray = np.divide(votes, total, out=np.full_like(votes, 1.0 / n_labels), where=total > 0.0)
    return shares


def _mistakes(joint: FloatArray) -> FloatArray:
    """m(j, g): how many times oftener than an average label g is given by mistake where j is right; 1 where j = g.

    Counts of the joint, with `_CAUTION`·a mistakes added that are spread evenly. a is the concentration that makes the
    counts likeliest as draws from Dirichlet-multinomials (Minka 2000): mistakes that fall anywhere give a large one,
    and all m become about 1; where each label is mistaken for one other, it is small. Caution, because the joint
    counts what the model itself confuses too.
    """
    from scipy.special import gammaln  # a tenth of a second to import, and a service that answers never needs it

    n_labels = len(joint)
    if n_labels < 3:
        return np.ones_like(joint)
    others = n_labels - 1
    wrong = joint.T.copy()
    np.fill_diagonal(wrong, 0.0)
    counts = wrong[~np.eye(n_labels, dtype=bool)].reshape(n_labels, others)
    totals = counts.sum(axis=1)

    def likelihood(a: float) -> float:
        rows = gammaln(a) - gammaln(a + totals) + (gammaln(counts + a / others) - gammaln(a / others)).sum(axis=1)
        return float(rows.sum())

    even = _CAUTION * max(_CONCENTRATIONS, key=likelihood)
    oftener: FloatArray = (wrong * others + even) / (totals + even)[:, None]
    np.fill_diagonal(oftener, 1.0)
    return oftener
