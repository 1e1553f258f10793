"""Embed some thousand texts by what they share with each other: latent semantic analysis, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.sparse import csr_matrix, diags_array

from app.intent.clusters import Float32Array, unit_rows
from app.intent.text_embedding import bucket_counts, bucket_weights

DIMENSION: Final = 128
_SURPLUS: Final = 16  # directions that are followed beside those that are kept
_ROUNDS: Final = 4
_ROUNDING: Final = 1e-5


def latent_embeddings(texts: Sequence[str], dimension: int = DIMENSION) -> Float32Array:
    """Embeddings of length 1, shape (n_texts, up to `dimension`); a text that shares nothing has zeros.

    The first singular directions of the texts' weighed character sequences (Deerwester et al. 1990), found by random
    projections (Halko, Martinsson & Tropp 2011). Other than a projection alone they bring sequences together that
    occur in the same texts: two questions may be near that share no word. They belong to these texts: an embedding
    compares with those of the same call only. 12,000 short texts take about ten seconds of one core.

    Args:
        texts: masked and normalised, distinct.
    """
    weighed = csr_matrix(bucket_counts(texts).multiply(bucket_weights(texts)))
    # What stands in one text alone brings no two together.
    found = np.bincount(weighed.indices, minlength=weighed.shape[1])
    shared = csr_matrix(_unit(weighed)[:, np.flatnonzero(found > 1)])
    kept = min(dimension, *shared.shape)
    if kept < 1:
        return np.zeros((len(texts), 1), dtype=np.float32)
    rng = np.random.default_rng(19_900_901)
    start = rng.standard_normal((shared.shape[1], min(kept + _SURPLUS, *shared.shape))).astype(np.float32)
    basis = np.linalg.qr(shared @ start)[0]
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(shared @ np.linalg.qr(shared.T @ basis)[0])[0]
    left, strengths, _ = np.linalg.svd((shared.T @ basis).T, full_matrices=False)
    found_rows = (basis @ left[:, :kept]) * strengths[:kept]
    # What is left of a text that shares nothing is rounding, and would be as long as any other.
    found_rows[np.linalg.norm(found_rows, axis=1) < _ROUNDING] = 0.0
    return unit_rows(found_rows)


def _unit(rows: csr_matrix) -> csr_matrix:
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float64)).ravel()
    lengths[lengths == 0.0] = 1.0
    return csr_matrix(diags_array((1.0 / lengths).astype(np.float32)) @ rows)
