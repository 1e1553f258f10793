"""Pools of waiting texts for tests of selection: each argument has a default."""

import numpy as np

from app.intent.clusters import unit_rows
from app.intent.strategies import Pool


def pool_of(*, probabilities=None, embeddings=None, counts=None, known=(), known_labels=(), confusions=()) -> Pool:
    """Texts as wide as what is given; without probabilities there is no model."""
    n_texts = len(probabilities if probabilities is not None else embeddings)
    embeddings = np.tile([1.0, 0.0], (n_texts, 1)) if embeddings is None else embeddings
    width = np.shape(embeddings)[1] if n_texts else 2
    return Pool(
        np.zeros((n_texts, 0)) if probabilities is None else np.array(probabilities, dtype=np.float64),
        unit_rows(np.array(embeddings, dtype=np.float64).reshape(-1, width)),
        np.ones(n_texts, dtype=np.int64) if counts is None else np.array(counts),
        unit_rows(np.array(known, dtype=np.float64).reshape(-1, width)),
        np.array(known_labels, dtype=np.int64),
        confusions=confusions,
    )


def crowd(sizes, *, width=6, spread=0.15, seed=0):
    """Embeddings in groups of these sizes, each about an axis of its own, and the group of each."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    return unit_rows(np.eye(width)[kinds] + rng.normal(scale=spread, size=(len(kinds), width))), kinds
