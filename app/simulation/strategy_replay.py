"""Replay selection on texts whose labels are known: choose, reveal, fit, measure, batch by batch, paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.selection_mix import DEFAULT_MIX, STRATEGIES, Pool, choose

MIX: Final = "mix"
"""The name of the default mix among strategies."""

Fit = Callable[[IntArray, IntArray], tuple[FloatArray, FloatArray]]
"""(rows of the pool that are labelled, their columns) -> probabilities of all pool texts and of all test texts.

Columns are 0, 1, … without a gap, and at least two; both answers have one column for each.
"""

Chooser = Callable[[Pool, int, np.random.Generator], Sequence[int]]
"""(texts that wait and what is known, how many are wanted, rng) -> rows of the pool, in order."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What is replayed on.

    Args:
        embeddings: shape (n_pool, dimension), rows of length 1: what selection sees.
        targets: shape (n_pool,), the label of each pool text, revealed when it is chosen.
        test_targets: shape (n_test,).
        fit: the classifier, the same for every strategy.
    """

    embeddings: NDArray[np.floating]
    targets: IntArray
    test_targets: IntArray
    fit: Fit


@dataclass(frozen=True, slots=True)
class Steps:
    """One run. `labels`: how many were given at each step, ascending; `accuracies`: on the test texts, in [0, 1]."""

    labels: tuple[int, ...]
    accuracies: tuple[float, ...]


def chooser(name: str, mix: Mapping[str, float] = DEFAULT_MIX) -> Chooser:
    """What chooses under this name: `mix`, or a strategy alone.

    Raises:
        ValueError: there is no such strategy.
    """
    if name != MIX and name not in STRATEGIES:
        raise ValueError(f"there is no strategy {name!r}; there are {', '.join((MIX, *STRATEGIES))}")
    shares = mix if name == MIX else {name: 1.0}
    return lambda pool, size, rng: [chosen.row for chosen in choose(pool, shares, size, rng)]


def replay(
    ground: Ground,
    chosen_by: Chooser,
    *,
    seed: int,
    batch: int,
    most: int | None = None,
    enough: float | None = None,
    first_by: Chooser | None = None,
) -> Steps:
    """Label `batch` texts at a time until `most` are labelled, or all, or the accuracy is `enough`.

    Two runs with one seed meet the same chance: strategies that draw at random draw the same first batch.

    Args:
        first_by: chooses the first batch in place of `chosen_by`.
    """
    rng = np.random.default_rng(seed)
    most = min(most or len(ground.targets), len(ground.targets))
    waiting = np.ones(len(ground.targets), dtype=bool)
    probabilities, columns = np.zeros((len(ground.targets), 0)), np.zeros(0, dtype=np.int64)
    labels, accuracies = [], []
    while (given := int((~waiting).sum())) < most:
        rows = np.flatnonzero(waiting)
        pool = _pool(ground, waiting, probabilities, columns)
        by = first_by if first_by is not None and given == 0 else chosen_by
        taken = list(by(pool, min(batch, most - given), rng))
        if len(set(taken)) != min(batch, most - given):
            raise ValueError(
                f"{len(set(taken))} distinct texts were chosen, where {min(batch, most - given)} were wanted"
            )
        waiting[rows[taken]] = False
        probabilities, columns, accuracy = _measured(ground, np.flatnonzero(~waiting))
        labels.append(given + len(taken))
        accuracies.append(accuracy)
        if enough is not None and accuracy >= enough:
            break
    return Steps(tuple(labels), tuple(accuracies))


def full_accuracy(ground: Ground) -> float:
    """What the same classifier reaches with every pool text labelled."""
    return _measured(ground, np.arange(len(ground.targets)))[2]


def _pool(ground: Ground, waiting: NDArray[np.bool_], probabilities: FloatArray, columns: IntArray) -> Pool:
    """`columns`: the label of each column of `probabilities`."""
    targets = ground.targets[~waiting]
    known = np.full(len(targets), -1, dtype=np.int64)
    if len(columns):
        known = np.searchsorted(columns, targets)
    embeddings = ground.embeddings
    counts = np.ones(int(waiting.sum()), dtype=np.int64)
    return Pool(probabilities[waiting], embeddings[waiting], counts, embeddings[~waiting], known)


def _measured(ground: Ground, rows: IntArray) -> tuple[FloatArray, IntArray, float]:
    """Probabilities of the pool, the label of each of their columns, and the accuracy on the test texts."""
    columns, targets = np.unique(ground.targets[rows], return_inverse=True)
    if len(columns) < 2:
        nothing = np.zeros((len(ground.targets), 0))
        return nothing, np.zeros(0, dtype=np.int64), float((ground.test_targets == columns[0]).mean())
    probabilities, answers = ground.fit(rows, targets.astype(np.int64))
    accuracy = float((columns[answers.argmax(axis=1)] == ground.test_targets).mean())
    return probabilities, columns, accuracy
