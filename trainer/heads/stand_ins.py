"""Embeddings in place of texts that nobody has: for labels that a version knows from elsewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import IntArray
from trainer.heads.linear_head import LinearHead
from trainer.logistic import Float32Array


def stand_ins(head: LinearHead, embeddings: NDArray[np.float32], columns: IntArray, wanted: IntArray) -> Float32Array:
    """One embedding for each wanted column of the head, about where the texts of its label would lie.

    In a classifier that was trained to the end, the mean of a label's texts lies from the mean of all in the direction
    of the label's weights, and as far as the others do (neural collapse: Papyan, Han & Donoho 2020). What is known
    of the texts that are here tells both.

    Args:
        embeddings: of texts that are here, shape (n, dimension).
        columns: for each the column of its label, or -1 where the head does not know it.
        wanted: columns of labels without a text, shape (m,).

    Returns:
        Shape (m, dimension).
    """
    directions = (head.weights - head.weights.mean(axis=1, keepdims=True)).T.astype(np.float64)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    # Those that the head does not know lie somewhere about the middle, as far as it can tell.
    means = {int(one): embeddings[columns == one].mean(axis=0, dtype=np.float64) for one in np.unique(columns)}
    middle = np.mean(list(means.values()), axis=0)
    here = [column for column in means if column >= 0]
    pull = directions[here].sum(axis=0) / len(means)
    reaches = [
        float((means[column] - middle) @ directions[column]) / max(1.0 - float(pull @ directions[column]), 0.1)
        for column in here
    ]
    far = float(np.linalg.norm(embeddings - middle, axis=1).mean())
    reach = float(np.mean(reaches)) if reaches and np.mean(reaches) > 0 else far
    found: Float32Array = (middle - reach * pull + reach * directions[wanted]).astype(np.float32)
    return found
