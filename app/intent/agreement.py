"""How far people agree about the same texts beyond what chance alone would bring: Krippendorff's α.

α = 1 − D_o / D_e: observed over expected disagreement, nominal, with missing answers (K. Krippendorff, "Computing
Krippendorff's Alpha-Reliability", 2011, and "Content Analysis", ch. 12). It is 1 where all agree, 0 where they agree no
more than by chance, below 0 where less; None where it says nothing: no text with two answers, or but one label in all.

All functions take three arrays of one length, one place per answer: which text, which labeler and which label it was,
each as any integers; a labeler answers a text once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one label or one labeler agrees with the others'. `answers`: those that another can be compared with.

    `share`: of all pairs of answers about one text, weighted so that each answer counts once, those that agree.
    """

    answers: int
    share: float | None
    alpha: float | None


def alpha(texts: IntArray, labels: IntArray) -> float | None:
    """Krippendorff's α over all labels: α = 1 − (n − 1)(n − Σ_c o_cc) / (n² − Σ_c n_c²).

    n: the answers that can be paired, n_c: those of label c, o_cc: pairs of c with c, each weighted by 1 / (m_u − 1),
    m_u being the answers about the text.
    """
    return _alpha(_pairable(texts, labels))


def overall(texts: IntArray, labels: IntArray) -> Agreement:
    """All answers together."""
    counts = _pairable(texts, labels)
    total = float(counts.sum())
    share = 1.0 - float(_disagreeing(counts).sum()) / total if total else None
    return Agreement(int(total), share, _alpha(counts))


def interval(
    texts: IntArray, labels: IntArray, rng: np.random.Generator, *, draws: int = 1000
) -> tuple[float, float] | None:
    """A 95 % interval of α by drawing the texts anew, with replacement (percentile bootstrap)."""
    counts = _pairable(texts, labels)
    if not len(counts):
        return None
    # What α is made of, per text: its disagreement, its answers, and those of each label.
    parts = np.hstack([_disagreeing(counts)[:, None], counts.sum(axis=1, keepdims=True), counts])
    even = np.full(len(counts), 1.0 / len(counts))
    drawn = np.array([rng.multinomial(len(counts), even) @ parts for _ in range(draws)])
    observed, total, by_label = drawn[:, 0], drawn[:, 1], drawn[:, 2:]
    expected = (total**2 - (by_label**2).sum(axis=1)) / (total * (total - 1))
    known = expected > 0
    if not known.any():
        return None
    low, high = np.quantile(1.0 - observed[known] / total[known] / expected[known], [0.025, 0.975])
    return float(low), float(high)


def by_label(texts: IntArray, labels: IntArray) -> Mapping[int, Agreement]:
    """For each label: α of "this label or another", and of the answers that gave it the share that others gave too."""
    counts = _pairable(texts, labels)
    sizes = counts.sum(axis=1, keepdims=True)
    found = {}
    for place, label in enumerate(np.unique(labels)):
        column = counts[:, [place]]
        given = float(column.sum())
        agreeing = float((column * (column - 1) / np.maximum(sizes - 1, 1)).sum())
        one_or_other = np.hstack([column, sizes - column])
        found[int(label)] = Agreement(int(given), agreeing / given if given else None, _alpha(one_or_other))
    return found


def by_labeler(texts: IntArray, labelers: IntArray, labels: IntArray) -> Mapping[int, Agreement]:
    """For each labeler against all others: over the pairs that one of their answers is in.

    Their α is 1 − D_o / D_e with the disagreement observed in their own pairs and that expected among all answers.
    """
    _, text = np.unique(texts, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    counts = _counts(text, label)
    sizes = counts.sum(axis=1)
    expected = _expected(counts[sizes >= 2])
    same, others = counts[text, label] - 1, sizes[text] - 1
    found = {}
    for labeler in np.unique(labelers):
        theirs = (labelers == labeler) & (others > 0)
        answers = int(theirs.sum())
        if not answers:
            found[int(labeler)] = Agreement(0, None, None)
            continue
        share = float((same[theirs] / others[theirs]).mean())
        found[int(labeler)] = Agreement(answers, share, 1.0 - (1.0 - share) / expected if expected else None)
    return found


def _counts(text: IntArray, label: IntArray) -> FloatArray:
    """How many answers of each label each text has: shape (n_texts, n_labels)."""
    counts = np.zeros((text.max(initial=-1) + 1, label.max(initial=-1) + 1))
    np.add.at(counts, (text, label), 1.0)
    return counts


def _pairable(texts: IntArray, labels: IntArray) -> FloatArray:
    _, text = np.unique(texts, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    counts = _counts(text, label)
    pairable: FloatArray = counts[counts.sum(axis=1) >= 2]
    return pairable


def _disagreeing(counts: FloatArray) -> FloatArray:
    """How many answers about each text disagree with the others, in pairs that weigh 1 / (m_u − 1)."""
    sizes = counts.sum(axis=1)
    disagreeing: FloatArray = sizes - (counts * (counts - 1)).sum(axis=1) / np.maximum(sizes - 1, 1)
    return disagreeing


def _expected(counts: FloatArray) -> float:
    """D_e: the probability that two of all answers, drawn without replacement, disagree."""
    total = float(counts.sum())
    if total < 2:
        return 0.0
    by_label = counts.sum(axis=0)
    return float((total**2 - (by_label**2).sum()) / (total * (total - 1)))


def _alpha(counts: FloatArray) -> float | None:
    expected = _expected(counts)
    return 1.0 - float(_disagreeing(counts).sum()) / float(counts.sum()) / expected if expected else None
