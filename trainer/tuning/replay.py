"""Choose which labelled texts are held out, which old ones are replayed, and which of those are worth it most.

Rows are positions in the arrays that are given. Every choice is made with the generator that is given, and is the same
for the same state of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray

# How much likelier a text is drawn than one that the model is sure of: for the largest loss, and for one that an
# earlier version had right and the current one has not. Never certain: the largest losses are often wrong labels.
LOSS_PREFERENCE = 4.0
FORGOTTEN_PREFERENCE = 8.0


def even_quotas(targets: IntArray, wanted: int, rng: np.random.Generator) -> dict[int, int]:
    """How many rows of each label make up `wanted`: the same number of each, as far as a label has them."""
    labels, counts = np.unique(targets, return_counts=True)
    quotas = np.zeros(len(labels), dtype=np.int64)
    left = min(wanted, len(targets))
    while left > 0:
        open_labels = rng.permutation(np.flatnonzero(quotas < counts))
        share = max(left // len(open_labels), 1)
        for label in open_labels[:left]:
            given = min(share, int(counts[label] - quotas[label]), left)
            quotas[label] += given
            left -= given
    return {int(label): int(quota) for label, quota in zip(labels, quotas, strict=True)}


def stratified(targets: IntArray, wanted: int, rng: np.random.Generator) -> IntArray:
    """Rows of every label alike, ascending. Shape (min(wanted, n),)."""
    return weighted(targets, np.ones(len(targets)), wanted, rng)


def weighted(targets: IntArray, weights: FloatArray, wanted: int, rng: np.random.Generator) -> IntArray:
    """As `stratified`; within a label a row is drawn in proportion to its weight, without replacement.

    By exponential keys (Efraimidis & Spirakis 2006). `weights`: shape (n,), positive.
    """
    keys = rng.exponential(size=len(targets)) / weights
    chosen: list[IntArray] = []
    for label, quota in even_quotas(targets, wanted, rng).items():
        rows = np.flatnonzero(targets == label)
        chosen.append(rows[np.argsort(keys[rows], kind="stable")[:quota]])
    return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.empty(0, dtype=np.int64)


def choose_replay(
    targets: IntArray,
    losses: FloatArray,
    forgotten: NDArray[np.bool_],
    wanted: int,
    rng: np.random.Generator,
) -> IntArray:
    """The rows to replay, ascending: every label alike, and rather those that are being forgotten or are hard.

    Args:
        losses: shape (n,), -log p(label) by the current version.
        forgotten: shape (n,), right by an earlier version and wrong by the current one.
    """
    if len(targets) == 0:
        return np.empty(0, dtype=np.int64)
    rank = np.argsort(np.argsort(losses, kind="stable"), kind="stable") / max(len(losses) - 1, 1)
    weights = 1.0 + LOSS_PREFERENCE * rank + FORGOTTEN_PREFERENCE * forgotten
    return weighted(targets, weights, wanted, rng)


def replay_count(n_new: int, ratio: float) -> int:
    """How many texts are replayed beside `n_new`: replayed / (new + replayed) = `ratio`."""
    return round(n_new * ratio / (1.0 - ratio))


def hold_out(targets: IntArray, share: float, most: int, rng: np.random.Generator) -> IntArray:
    """Rows that nothing is trained on, ascending: `share` of every label, and at least two of it remain.

    The remainders of small labels are drawn, so that the whole comes near to the share. At most `most` rows.
    """
    share = min(share, most / max(len(targets), 1))
    held: list[IntArray] = []
    for label in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == label))
        exact = share * len(rows)
        count = int(exact) + int(rng.random() < exact - int(exact))
        held.append(rows[: max(min(count, len(rows) - 2), 0)])
    chosen = np.concatenate(held) if held else np.empty(0, dtype=np.int64)
    return np.sort(rng.permutation(chosen)[:most]).astype(np.int64)
