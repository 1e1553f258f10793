"""Sum probabilities up the tree of labels, and measure answers at every depth of it.

Leaves are the classes. The probability of an inner node is the sum over the leaves below it: P(node) = Σ P(leaf).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.taxonomy import SEPARATOR, split


class Hierarchy:
    """The tree over a release's labels, laid out once so that an answer costs one sum for each level above it."""

    def __init__(self, paths: Mapping[int, str], label_ids: Sequence[int]) -> None:
        """`paths`: of every label that an answer may hold, by id. `label_ids`: those of a model's columns."""
        self._above = {label_id: ancestors_of(path) for label_id, path in paths.items()}
        self._n_columns = len(label_ids)
        below: dict[str, list[int]] = {}
        for column, label_id in enumerate(label_ids):
            for node in self._above[label_id]:
                below.setdefault(node, []).append(column)
        self._columns = {node: np.array(columns, dtype=np.int64) for node, columns in below.items()}

    @property
    def is_flat(self) -> bool:
        """Whether no label has anything above it."""
        return not any(self._above.values())

    def above(
        self, label_id: int, label_ids: Sequence[int], probabilities: FloatArray
    ) -> tuple[tuple[str, float], ...]:
        """The nodes above a label with their probabilities in [0, 1], the deepest first; nothing above a flat label.

        `label_ids`: the model's columns in their order, then any others; `probabilities`: theirs, shape (n_labels,).
        """
        sums = []
        for node in self._above.get(label_id, ()):
            columns = self._columns.get(node)
            total = 0.0 if columns is None else float(probabilities[columns].sum())
            # Labels that only rules know: a few, and seldom.
            for place in range(self._n_columns, len(label_ids)):
                if node in self._above.get(label_ids[place], ()):
                    total += float(probabilities[place])
            sums.append((node, min(1.0, total)))
        return tuple(sums)


def above_in(topk: Sequence[tuple[int, float]], paths: Mapping[int, str]) -> tuple[tuple[str, float], ...]:
    """As `Hierarchy.above`, for the first of these label ids with probabilities, and of these alone."""
    answer = topk[0][0]
    if answer not in paths:
        return ()
    below = [(ancestors_of(paths[label_id]), probability) for label_id, probability in topk if label_id in paths]
    return tuple(
        (node, min(1.0, sum(probability for nodes, probability in below if node in nodes)))
        for node in ancestors_of(paths[answer])
    )


def ancestors_of(path: str) -> tuple[str, ...]:
    """The paths of the nodes above a label, the deepest first; none for a path of one level."""
    levels = split(path)
    return tuple(SEPARATOR.join(levels[:depth]) for depth in range(len(levels) - 1, 0, -1))


def at_depth(labels: IntArray, paths: Mapping[int, str], depth: int) -> IntArray:
    """A number for each label's node at `depth`, shape as `labels`; labels that end above it stand for themselves.

    Equal numbers are equal nodes, across calls with one `paths`. What has no path is a node of its own below 0.
    """
    nodes = {label_id: split(path)[:depth] for label_id, path in paths.items()}
    numbers = {node: number for number, node in enumerate(sorted(set(nodes.values())))}
    return np.array(
        [numbers[nodes[label_id]] if label_id in nodes else -1 - abs(label_id) for label_id in labels.tolist()],
        dtype=np.int64,
    )


def depth_of(labels: IntArray, paths: Mapping[int, str]) -> int:
    """The most levels that any of these labels has; 0 without labels."""
    return max((len(split(paths[label_id])) for label_id in set(labels.tolist()) if label_id in paths), default=0)
