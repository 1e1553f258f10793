"""Count for and against rules on texts that they were not mined on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.rules import Rule

BoolArray = NDArray[np.bool_]

LEAST_LOG_ODDS: Final = 1.28
"""z-score from which on a word counts as typical of its label: one of ten that are not would pass."""

LEAST_LOG_ODDS_OF_SEVERAL: Final = 1.96
"""The same for several words together: one of forty. There are many more of them, so more are lucky."""


@dataclass(frozen=True, slots=True)
class MiningOptions:
    """What a rule must show.

    Args:
        min_support: least texts that it was counted on, out of fold; 1 and above.
        min_confidence: least share of them that have its label, in (0, 1].
        limit: most rules.
        folds: 2 to 20.
        seed: deals the texts to folds.
    """

    min_support: int = 3
    min_confidence: float = 0.8
    limit: int = 1_000
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what nothing can be mined with."""
        if self.min_support < 1 or self.limit < 1:
            raise ValueError("min_support and limit must be at least 1")
        if not 0.0 < self.min_confidence <= 1.0:
            raise ValueError("min_confidence must lie above 0 and at most at 1")
        if not 2 <= self.folds <= 20:
            raise ValueError("folds must lie between 2 and 20")


@dataclass(frozen=True, slots=True)
class FoldCounts:
    """What candidates match in each fold. Shape (n_candidates, n_folds) where nothing else is said.

    Args:
        matched: texts that the candidate matches.
        right: those of them that have its label.
        of_label: all texts of its label.
        texts: all texts; shape (n_folds,).
        least_log_odds: what a candidate's z-score must reach; shape (n_candidates,).
    """

    matched: IntArray
    right: IntArray
    of_label: IntArray
    texts: IntArray
    least_log_odds: FloatArray

    def without(self, folds: Sequence[int]) -> tuple[IntArray, IntArray, IntArray, int]:
        """The four counts summed over all folds but these."""
        kept = np.ones(len(self.texts), dtype=bool)
        kept[list(folds)] = False
        sums = (counts[:, kept].sum(axis=1) for counts in (self.matched, self.right, self.of_label))
        matched, right, of_label = sums
        return matched, right, of_label, int(self.texts[kept].sum())


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counted on folds that a candidate was not mined on; arrays of shape (n_candidates,)."""

    support: IntArray
    right: IntArray
    of_label: IntArray
    texts: IntArray

    @property
    def precision(self) -> FloatArray:
        """Share of the matched texts that have the label; 0 where nothing was counted."""
        shares: FloatArray = self.right / np.maximum(self.support, 1)
        return shares

    @property
    def log_odds(self) -> FloatArray:
        """How typical each candidate is of its label, as a z-score."""
        return log_odds(self.support, self.right, self.of_label, self.texts)

    def suffices(self, options: MiningOptions, *, share: float = 1.0) -> BoolArray:
        """Which candidates are rules. `share` of the texts was looked at: so much of the least support is asked."""
        least = max(1, round(options.min_support * share))
        return (self.support >= least) & (self.right >= options.min_confidence * self.support - 1e-9)


def assign_folds(targets: IntArray, options: MiningOptions) -> IntArray:
    """A fold for each text, every label spread as evenly as it goes. `targets`: shape (n,), label columns."""
    folds = np.empty(len(targets), dtype=np.int64)
    order = np.lexsort((np.random.default_rng(options.seed).random(len(targets)), targets))
    folds[order] = np.arange(len(targets)) % min(options.folds, max(2, len(targets)))
    return folds


def log_odds(matched: IntArray, right: IntArray, of_label: IntArray, texts: IntArray | int) -> FloatArray:
    """z-scores of log-odds ratios with an informative Dirichlet prior (Monroe, Colaresi & Quinn 2008).

    log((y + α) / (n + α₀ - y - α)) of the label's texts less the same of all others, over its standard error. y of n
    texts hold the word; the prior is what all texts hold: α = `matched`, α₀ = `texts`. Above 0: more typical of the
    label than of the rest. Rare words are drawn to 0, and a word that all texts hold has 0. Arrays of shape (n,).
    """
    wrong, others, rest = matched - right, texts - of_label, texts - matched
    cells = np.stack([right + matched, of_label - right + rest, wrong + matched, others - wrong + rest]) + 1e-9
    with_word, without, elsewhere_with, elsewhere_without = np.log(cells)
    scores: FloatArray = (with_word - without - elsewhere_with + elsewhere_without) / np.sqrt((1.0 / cells).sum(axis=0))
    return scores


def expected_precision(precision: float, support: int) -> float:
    """The precision to count on: (right + 1) / (support + 2), Laplace's rule.

    Of many candidates some were lucky: rules that were right in 3 of 3 or 4 of 4 texts are wrong in one of seven.
    """
    return (precision * support + 1.0) / (support + 2.0)


def mined_without(counts: FoldCounts, folds: Sequence[int], options: MiningOptions) -> BoolArray:
    """Which candidates would be mined on all folds but these."""
    matched, right, of_label, texts = counts.without(folds)
    least = max(1, min(options.min_support - 1, 2))
    precise = right >= options.min_confidence * matched - 1e-9
    return (matched >= least) & precise & (log_odds(matched, right, of_label, texts) >= counts.least_log_odds)


def out_of_fold_evidence(counts: FoldCounts, options: MiningOptions, *, left_out: Sequence[int] = ()) -> Evidence:
    """Sum over the folds, but `left_out`: mine on the others, count on this one."""
    shape = len(counts.matched)
    support, right, of_label, texts = (np.zeros(shape, dtype=np.int64) for _ in range(4))
    for fold in range(len(counts.texts)):
        if fold in left_out:
            continue
        mined = mined_without(counts, (*left_out, fold), options)
        support += mined * counts.matched[:, fold]
        right += mined * counts.right[:, fold]
        of_label += mined * counts.of_label[:, fold]
        texts += mined * counts.texts[fold]
    return Evidence(support, right, of_label, texts)


def rules_without(counts: FoldCounts, options: MiningOptions) -> BoolArray:
    """Which candidates would be rules had a fold not been there: shape (n_candidates, n_folds).

    Mining is done over again for each fold, with the evidence counted on the folds that are left. What such a rule says
    about the fold is said without knowing it.
    """
    n_folds = len(counts.texts)
    columns = []
    for fold in range(n_folds):
        evidence = out_of_fold_evidence(counts, options, left_out=(fold,))
        columns.append(mined_without(counts, (fold,), options) & evidence.suffices(options, share=1 - 1 / n_folds))
    return np.stack(columns, axis=1)


def out_of_fold_hits(
    matches: Sequence[Sequence[int]], label_ids: Sequence[int], rules: Sequence[Rule], options: MiningOptions
) -> list[list[int]]:
    """For each text the rules that match it and may count: positions into `rules`.

    A mined rule counts for a text only if it would be a rule had the text's fold not been there; a manual one always.

    Args:
        matches: for each text the positions of all rules that match it.
        label_ids: the label of each text, in the same order.
    """
    if not len(label_ids):
        return []
    labels, targets = np.unique(np.asarray(label_ids, dtype=np.int64), return_inverse=True)
    folds = assign_folds(targets, options)
    columns = {int(label): column for column, label in enumerate(labels)}
    speaks_for = np.array([columns.get(rule.label_id, -1) for rule in rules], dtype=np.int64)
    numbers = np.array([rule for matched in matches for rule in matched], dtype=np.int64)
    texts = np.repeat(np.arange(len(matches)), [len(matched) for matched in matches])
    several = np.array([len(rule.all_of) != 1 for rule in rules], dtype=bool)
    counted = rules_without(count_folds(numbers, texts, speaks_for, several, targets, folds), options)
    counted[[rule.source == "manual" for rule in rules]] = True
    return [[r for r in matched if counted[r, folds[text]]] for text, matched in enumerate(matches)]


def count_folds(
    candidates: IntArray,
    texts: IntArray,
    speaks_for: IntArray,
    several: BoolArray,
    targets: IntArray,
    folds: IntArray,
) -> FoldCounts:
    """Counts from matches: candidate `candidates[k]` matches text `texts[k]`.

    Args:
        speaks_for: the column of each candidate's label, -1 where no text has it; shape (n_candidates,).
        several: which candidates are more than a word; shape (n_candidates,).
        targets, folds: shape (n_texts,).
    """
    n, n_folds = len(speaks_for), int(folds.max(initial=0)) + 1
    places = candidates * n_folds + folds[texts]
    hit = speaks_for[candidates] == targets[texts]
    sizes = np.zeros((int(targets.max(initial=-1)) + 2, n_folds), dtype=np.int64)
    np.add.at(sizes, (targets, folds), 1)
    return FoldCounts(
        matched=np.bincount(places, minlength=n * n_folds).reshape(n, n_folds),
        right=np.bincount(places[hit], minlength=n * n_folds).reshape(n, n_folds),
        of_label=sizes[speaks_for],
        texts=np.bincount(folds, minlength=n_folds),
        least_log_odds=np.where(several, LEAST_LOG_ODDS_OF_SEVERAL, LEAST_LOG_ODDS),
    )
