"""The scope of an encoder that was trained itself: learned from its texts, judged by those that were held out from it.

How near the texts of a label lie is no measure for new ones where the encoder was trained to bring them together; what
it never saw is. An artifact that was trained once more on the held-out texts is judged through its twin that was not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.scope import Scope, fit_scope
from trainer.tuning.replay import stratified

# Means and a shrunk covariance need no more, and each costs a pass of the encoder with every step.
MOST_TEXTS = 5_000

Embeddings = NDArray[np.float32]


def rows_for_scope(targets: IntArray, held: IntArray, seed: int) -> IntArray:
    """The texts that a scope is learned from: of those that were not held out as many of each label; ascending."""
    trained = np.setdiff1d(np.arange(len(targets)), held)
    most = max(MOST_TEXTS, len(np.unique(targets)))
    return trained[stratified(targets[trained], most, np.random.default_rng(seed))]


def fit_held_out_scope(
    judged: Embeddings, served: Embeddings, targets: IntArray, probabilities: FloatArray
) -> Scope | None:
    """The scope for the embeddings `served`, with the threshold that the judge needs; None without held-out texts.

    Args:
        judged: by the encoder that was not trained on the last texts, the held-out ones; shape (n, dimension).
        served: the same texts by the encoder that is served; the same array where that is the judge.
        targets: the column of each text's label, shape (n,); every column has a text.
        probabilities: calibrated, the judge's for the held-out texts; shape (n_held, n_labels).
    """
    if not len(probabilities):
        return None
    held = np.arange(len(targets) - len(probabilities), len(targets))
    scope = fit_scope(judged, targets, probabilities, rows=held)
    if served is judged:
        return scope
    own = fit_scope(served, targets, probabilities, rows=held)
    return replace(scope, factor=own.factor, means=own.means)
