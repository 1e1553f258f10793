"""Embed texts without a model: hashed sequences of characters, weighed, projected at random, brought to length 1.

The cosine of two texts is about that of their weighed sequences: texts that share rare sequences are near. Nothing is
learned and nothing is stored: the same text has the same embedding in every process and at every time.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from app.intent.clusters import Float32Array, unit_rows

DIMENSION: Final = 256

BUCKETS: Final = 1 << 16
"""Sequences are told apart by their hash, of so many."""

_LONGEST: Final = 3
_SPREAD: Final = 8  # entries of each bucket's row of the projection


def embed_texts(texts: Sequence[str], weights: NDArray[np.floating] | None = None) -> Float32Array:
    """Embeddings of length 1, shape (n_texts, 256); a text without any character has zeros.

    A sequence counts 1 + log(its count) times its weight, and is projected by a sparse random matrix of signs
    (Achlioptas 2003; Li, Hastie & Church 2006), which keeps cosines to within about 1/16.

    Args:
        texts: masked and normalised.
        weights: shape (BUCKETS,), from `bucket_weights`; all alike without it.
    """
    counted = bucket_counts(texts)
    if weights is not None:
        counted = csr_matrix(counted.multiply(weights.astype(np.float32)))
    # At length 1 before the projection: its error is relative to the length.
    return unit_rows((counted @ _projection()).toarray())


def bucket_weights(texts: Sequence[str]) -> NDArray[np.float32]:
    """log((1 + n) / (1 + texts with the sequence)) + 1 of each bucket over `texts`: what is everywhere says little."""
    found = np.bincount(bucket_counts(texts).indices, minlength=BUCKETS)
    weights: NDArray[np.float32] = (np.log((1.0 + len(texts)) / (1.0 + found)) + 1.0).astype(np.float32)
    return weights


def bucket_counts(texts: Sequence[str]) -> csr_matrix:
    """1 + log(count) of each bucket, shape (n_texts, BUCKETS)."""
    starts, columns, values = [0], [], []
    for text in texts:
        folded = f" {text.casefold()} "
        buckets = Counter(
            zlib.crc32(folded[at : at + length].encode("utf-8", "surrogatepass")) % BUCKETS
            for length in range(1, _LONGEST + 1)
            for at in range(len(folded) - length + 1)
            if not folded[at : at + length].isspace()
        )
        columns += sorted(buckets)
        values += [buckets[bucket] for bucket in sorted(buckets)]
        starts.append(len(columns))
    logarithms = (1.0 + np.log(np.array(values, dtype=np.float64))).astype(np.float32)
    return csr_matrix(
        (logarithms, np.array(columns, dtype=np.int32), np.array(starts, dtype=np.int32)), shape=(len(texts), BUCKETS)
    )


@cache
def _projection() -> csr_matrix:
    """Signs at random places, shape (BUCKETS, DIMENSION), the same in every process: 4 MB."""
    rng = np.random.default_rng(20_031_017)
    columns = rng.integers(DIMENSION, size=BUCKETS * _SPREAD)
    signs = rng.integers(2, size=BUCKETS * _SPREAD).astype(np.float32) * 2.0 - 1.0
    rows = np.repeat(np.arange(BUCKETS), _SPREAD)
    return csr_matrix((signs, (rows, columns)), shape=(BUCKETS, DIMENSION))
