"""Find groups of questions that no label fits: dense, and nearer to each other than to anything labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from app.intent.arrays import FloatArray, IntArray
from app.intent.clusters import Float32Array, unit_rows
from app.intent.scenarios import MOST_SCENARIOS, MOST_TEXTS, is_large_enough

DEFAULT_CUT: Final = 0.45
_CUTS: Final = tuple(step / 20 for step in range(4, 13))
_MOST_FITTED: Final = 2_000
_PRECISION_COUNTS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """One group. `members`: rows of the embeddings, the most typical first.

    Args:
        questions: how often its members were asked.
        cohesion: mean cosine of the members to their centre, in [-1, 1]; higher is denser.
        novelty: how much nearer a member lies to the nearest other member than to the nearest labelled text, on
            average, as a difference of cosines; above 0.
    """

    members: IntArray
    questions: int
    cohesion: float
    novelty: float


def find_scenarios(
    embeddings: NDArray[np.floating],
    counts: IntArray,
    near_labelled: FloatArray,
    *,
    cut: float = DEFAULT_CUT,
) -> list[Found]:
    """The groups, the most asked first, at most 50; what is in none is noise.

    Average linkage over cosine distances, cut where two groups are on average farther apart than `cut`: it needs no
    number of groups, and leaves alone what lies alone. A group counts when it is large enough and nearer to itself than
    to what is labelled: leaving ten labels out of training, this told groups of unknown labels from groups of known
    ones with an area under the curve of 0.91 to 1.00 (docs/flow.md).

    Args:
        embeddings: shape (n_texts, dimension), rows of length 1; at most 4,000 rows.
        counts: shape (n_texts,); how often each was asked.
        near_labelled: shape (n_texts,); the cosine to the nearest labelled text, -1 where nothing is labelled.
        cut: a cosine distance, from `fit_cut`.
    """
    vectors = unit_rows(embeddings)
    if len(vectors) > MOST_TEXTS:
        raise ValueError(f"at most {MOST_TEXTS} texts can be grouped at once, {len(vectors)} were given")
    if not is_large_enough(counts):
        return []
    groups = _cut(vectors, cut)
    order = np.argsort(groups, kind="stable")
    found = []
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if not is_large_enough(counts[members]):
            continue
        group = _described(vectors, counts, near_labelled, members)
        if group.novelty > 0.0:
            found.append(group)
    found.sort(key=lambda group: (-group.questions, -len(group.members), int(group.members[0])))
    return found[:MOST_SCENARIOS]


def fit_cut(embeddings: NDArray[np.floating], labels: Sequence[int], rng: np.random.Generator) -> float:
    """The distance at which labelled texts fall best into their labels: every embedding has a measure of its own.

    Of the cuts from 0.20 to 0.60 the one with the best F0.5 over pairs of texts: two in one group should have one
    label, and to be right counts more than to be complete. At most 2,000 texts are looked at. Fewer than two labels
    with two texts tell nothing: 0.45.

    Args:
        embeddings: shape (n_texts, dimension), rows of length 1.
        labels: the label of each.
    """
    looked_at = np.sort(rng.permutation(len(labels))[:_MOST_FITTED])
    _, targets = np.unique(np.asarray(labels, dtype=np.int64)[looked_at], return_inverse=True)
    if len(targets) == 0 or (np.bincount(targets) > 1).sum() < 2:
        return DEFAULT_CUT
    tree = _tree(unit_rows(embeddings)[looked_at])
    scores = [_agreement(fcluster(tree, cut, "distance"), targets) for cut in _CUTS]
    return _CUTS[int(np.argmax(scores))]


def _cut(vectors: Float32Array, cut: float) -> IntArray:
    groups: IntArray = fcluster(_tree(vectors), cut, "distance").astype(np.int64)
    return groups


def _tree(vectors: Float32Array) -> FloatArray:
    n_texts = len(vectors)
    distances = np.empty(n_texts * (n_texts - 1) // 2)
    first = 0
    for row in range(n_texts - 1):
        last = first + n_texts - 1 - row
        # A text without any direction is at a distance of 1 from all, and from its like.
        np.subtract(1.0, vectors[row + 1 :] @ vectors[row], out=distances[first:last])
        first = last
    tree: FloatArray = linkage(distances.clip(0.0, 2.0, out=distances), "average")
    return tree


def _agreement(groups: IntArray, targets: IntArray) -> float:
    """F0.5 over pairs of texts: in one group, and of one label."""
    together = _pairs(np.unique(groups * (int(targets.max()) + 1) + targets, return_counts=True)[1])
    grouped, alike = _pairs(np.bincount(groups)), _pairs(np.bincount(targets))
    if together == 0:
        return 0.0
    precision, recall = together / grouped, together / alike
    weight = _PRECISION_COUNTS**2
    return (1.0 + weight) * precision * recall / (weight * precision + recall)


def _pairs(sizes: IntArray) -> int:
    return int((sizes * (sizes - 1)).sum()) // 2


def _described(vectors: Float32Array, counts: IntArray, near_labelled: FloatArray, members: IntArray) -> Found:
    own = vectors[members]
    centre = unit_rows(own.mean(axis=0, keepdims=True))[0]
    to_centre = (own @ centre).astype(np.float64)
    similar = own @ own.T
    np.fill_diagonal(similar, -1.0)
    return Found(
        members=members[np.argsort(-to_centre, kind="stable")],
        questions=int(counts[members].sum()),
        cohesion=float(to_centre.mean()),
        novelty=float((similar.max(axis=1) - near_labelled[members]).mean()),
    )
