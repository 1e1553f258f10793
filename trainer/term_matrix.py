"""Count the features of the training texts, and weigh them by TF-IDF for all texts or as one fold's model would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array, hstack

from app.intent.arrays import IntArray
from app.intent.ngram_features import BLOCKS, Featuriser


@dataclass(frozen=True, slots=True)
class TermCounts:
    """The training texts as features.

    Args:
        vocabulary: for each block its features, sorted; the columns of the block's matrix.
        blocks: for each block a float32 matrix of shape (n_texts, n_features) with 1 + log(count).
        min_texts: every feature of the vocabulary is in at least so many texts.
    """

    vocabulary: Mapping[str, tuple[str, ...]]
    blocks: Mapping[str, csr_matrix]
    min_texts: int

    def document_weights(self, rows: IntArray) -> NDArray[np.float32]:
        """log((1 + n) / (1 + texts with the feature)) + 1 over `rows`; 0 for what is in fewer than `min_texts`.

        Shape (n_features of all blocks,).
        """
        found = np.concatenate(
            [np.bincount(block[rows].indices, minlength=block.shape[1]) for block in self.blocks.values()]
        )
        weights = np.log((1.0 + len(rows)) / (1.0 + found)) + 1.0
        weights[found < self.min_texts] = 0.0
        return weights.astype(np.float32)

    def weighted(
        self, rows: IntArray, document_weights: NDArray[np.float32], block_weights: Mapping[str, float]
    ) -> csr_matrix:
        """TF-IDF rows of length 1, float32: the blocks side by side, each brought to length 1 and then weighed.

        A feature whose document weight is 0 is left out before lengths are taken: a model that never met it would.
        """
        parts = []
        first = 0
        for name, block in self.blocks.items():
            last = first + block.shape[1]
            part = block[rows] @ diags_array(document_weights[first:last])
            parts.append(_unit_rows(part) * np.float32(block_weights[name]))
            first = last
        matrix = csr_matrix(_unit_rows(csr_matrix(hstack(parts, format="csr"))), dtype=np.float32)
        matrix.eliminate_zeros()
        return matrix


def count_terms(texts: Sequence[str], featuriser: Featuriser, *, max_features: int) -> TermCounts:
    """Count the features of `texts`. While they are more than `max_features`, those of the fewest texts go."""
    counted: dict[str, list[Counter[str]]] = {name: [] for name in BLOCKS}
    for text in texts:
        for name, features in zip(BLOCKS, featuriser.blocks(text), strict=True):
            counted[name].append(Counter(features))
    found = {name: Counter(feature for row in rows for feature in row) for name, rows in counted.items()}
    spread = np.array([count for block in found.values() for count in block.values()], dtype=np.int64)
    min_texts = 1
    while int((spread >= min_texts).sum()) > max_features:
        min_texts += 1
    kept = {
        name: tuple(sorted(feature for feature, count in found[name].items() if count >= min_texts)) for name in BLOCKS
    }
    return TermCounts(kept, {name: _matrix(counted[name], kept[name]) for name in BLOCKS}, min_texts)


def assign_folds(targets: IntArray, n_folds: int, rng: np.random.Generator) -> IntArray:
    """A fold number for each text, every label spread as evenly as it goes."""
    folds = np.empty(len(targets), dtype=np.int64)
    dealt = 0
    for target in np.unique(targets):
        texts = rng.permutation(np.flatnonzero(targets == target))
        # Dealing goes on where the last label stopped, or all small labels would meet in the first folds.
        folds[texts] = (np.arange(len(texts)) + dealt) % n_folds
        dealt += len(texts)
    return folds


def _matrix(rows: Sequence[Counter[str]], features: Sequence[str]) -> csr_matrix:
    column = {feature: index for index, feature in enumerate(features)}
    starts: list[int] = [0]
    columns: list[int] = []
    counts: list[int] = []
    for row in rows:
        known = [(column[feature], count) for feature, count in row.items() if feature in column]
        columns += [index for index, _ in known]
        counts += [count for _, count in known]
        starts.append(len(columns))
    values = (1.0 + np.log(np.array(counts, dtype=np.float64))).astype(np.float32)
    shape = (len(rows), len(features))
    matrix = csr_matrix((values, np.array(columns, np.int32), np.array(starts, np.int32)), shape=shape)
    matrix.sort_indices()
    return matrix


def _unit_rows(matrix: csr_matrix) -> csr_matrix:
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1), dtype=np.float64)).ravel()
    lengths[lengths == 0.0] = 1.0
    return csr_matrix(diags_array((1.0 / lengths).astype(np.float32)) @ matrix)
