"""Group embeddings of length 1 and look among them for near ones; the cosine is the only measure.

Everything is float32 and computed in blocks: 20,000 texts × 384 dimensions × 100 clusters take about a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray

Float32Array = NDArray[np.float32]

MOST_FITTED: Final = 20_000
"""Centres are fitted on a random sample of so many texts."""

MOST_COMPARED: Final = 2_000
"""Members of a cluster that a text is compared with."""

NEIGHBOURS: Final = 20
"""What typicality looks at (Hacohen et al. 2022)."""

_ROUNDS: Final = 12
_COMPARED_AT_ONCE: Final = 1 << 19  # cosines; thirty times as many take as long, and 300 MB


def unit_rows(vectors: NDArray[np.floating]) -> Float32Array:
    """The rows brought to length 1; a row of zeros stays what it is."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)


def cluster(embeddings: NDArray[np.floating], n_clusters: int, rng: np.random.Generator) -> IntArray:
    """The number of the cluster of each text, below `n_clusters`: spherical k-means (Dhillon & Modha 2001).

    Begun by k-means++ (Arthur & Vassilvitskii 2007), at most 12 rounds. Some numbers may have no text.

    Args:
        embeddings: shape (n_texts, dimension), rows of length 1.
    """
    vectors = unit_rows(embeddings)
    n_clusters = min(n_clusters, len(vectors))
    if n_clusters < 2:
        return np.zeros(len(vectors), dtype=np.int64)
    fitted = vectors
    if len(vectors) > MOST_FITTED:
        fitted = vectors[np.sort(rng.permutation(len(vectors))[:MOST_FITTED])]
    centres = _spread_out(fitted, n_clusters, rng)
    before: IntArray | None = None
    for _ in range(_ROUNDS):
        owners, _ = nearest(fitted, centres)
        if before is not None and (owners == before).all():
            break
        before = owners
        centres = _centres(fitted, owners, centres)
    found, _ = nearest(vectors, centres)
    return found


def nearest(vectors: Float32Array, others: Float32Array) -> tuple[IntArray, FloatArray]:
    """For each row the most similar row of `others` (the first of equals) and their cosine."""
    places = np.empty(len(vectors), dtype=np.int64)
    cosines = np.empty(len(vectors), dtype=np.float64)
    for block in _blocks(len(vectors), len(others)):
        similar = vectors[block] @ others.T
        places[block] = similar.argmax(axis=1)
        cosines[block] = similar.max(axis=1)
    return places, cosines


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """All rows, as many at once as keep their cosines with so many others within memory."""
    size = max(1, _COMPARED_AT_ONCE // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, start + size)


def nearest_few(vectors: Float32Array, others: Float32Array, count: int) -> tuple[IntArray, FloatArray]:
    """For each row the `count` most similar rows of `others`, best first, and their cosines; shapes (n, count)."""
    count = min(count, len(others))
    places = np.empty((len(vectors), count), dtype=np.int64)
    cosines = np.empty((len(vectors), count), dtype=np.float64)
    for block in _blocks(len(vectors), len(others)):
        similar = vectors[block] @ others.T
        few = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(similar, few, axis=1)
        order = np.lexsort((few, -values), axis=1)
        places[block] = np.take_along_axis(few, order, axis=1)
        cosines[block] = np.take_along_axis(values, order, axis=1)
    return places, cosines


def typicality(embeddings: NDArray[np.floating], clusters: IntArray) -> FloatArray:
    """How dense a text's surroundings in its own cluster are: its mean cosine to the 20 nearest others, in [0, 1].

    As TypiClust's inverse mean distance (Hacohen et al. 2022) it is highest in the middle of a crowd; alone in a
    cluster it is 0. A large cluster is compared with 2,000 of its members.
    """
    vectors = unit_rows(embeddings)
    found = np.zeros(len(vectors))
    for number in np.unique(clusters):
        members = np.flatnonzero(clusters == number)
        if len(members) < 2:
            continue
        step = -(-len(members) // MOST_COMPARED)
        compared = members[::step]
        _, cosines = nearest_few(vectors[members], vectors[compared], NEIGHBOURS + 1)
        # The nearest of those that were compared is the text itself, which says nothing.
        itself = np.isin(members, compared)
        total = cosines.sum(axis=1) - np.where(itself, cosines[:, 0], cosines[:, -1])
        found[members] = total / max(1, cosines.shape[1] - 1)
    return found.clip(0.0, 1.0)


def _spread_out(vectors: Float32Array, count: int, rng: np.random.Generator) -> Float32Array:
    """k-means++: each next centre is drawn in proportion to its squared distance from those before."""
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = rng.integers(len(vectors))
    distance = np.full(len(vectors), np.inf)
    for place in range(1, count):
        distance = np.minimum(distance, 1.0 - (vectors @ vectors[chosen[place - 1]]).astype(np.float64)).clip(0.0)
        total = distance.cumsum()
        drawn = rng.random()
        if total[-1] <= 1e-9:  # fewer distinct texts than centres
            chosen[place] = rng.integers(len(vectors))
            continue
        chosen[place] = min(int(np.searchsorted(total, drawn * total[-1], side="right")), len(vectors) - 1)
    return vectors[chosen]


def _centres(vectors: Float32Array, owners: IntArray, before: Float32Array) -> Float32Array:
    """The mean direction of each cluster's members; an empty one keeps its centre."""
    order = np.argsort(owners, kind="stable")
    numbers, starts = np.unique(owners[order], return_index=True)
    centres = before.copy()
    centres[numbers] = unit_rows(np.add.reduceat(vectors[order], starts, axis=0))
    return centres
