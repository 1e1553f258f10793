"""Fit a recipe's classifier on its own features at one strength, without folds or calibration: a second each.

What a replay of selection needs, where a fit is made hundreds of times and only compared with others of its kind. The
features and the fit are those of the recipe; the strength is the middle of those that the recipe chooses from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.ngram_features import FeatureSettings, Featuriser, has_han
from trainer.heads.dense_head import HeadSettings
from trainer.heads.dense_logistic import fit_linear
from trainer.logistic import class_weights, fit_logistic, softmax
from trainer.ngram import NgramConfig
from trainer.term_matrix import TermCounts, count_terms


class NgramFits:
    """The `ngram` recipe on texts that are cut once: the features of a fit are those of its own texts."""

    def __init__(self, texts: Sequence[str], config: NgramConfig | None = None) -> None:
        """`texts`: all that will be trained on or answered."""
        self._config = config or NgramConfig()
        settings = FeatureSettings(
            sequence_length=self._config.sequence_length,
            word_part_length=self._config.word_part_length,
            word_pairs=self._config.word_pairs,
            dictionary=any(map(has_han, texts)),
        )
        # No feature goes here: which ones are too many depends on what a fit is given.
        self._counts = count_terms(texts, Featuriser(settings), max_features=2**62)

    def probabilities(self, rows: IntArray, targets: IntArray) -> FloatArray:
        """Train on these rows of the texts, and answer all of them: shape (n_texts, n_labels).

        `targets`: shape (n_rows,), columns without a gap.
        """
        config, n_labels = self._config, int(targets.max()) + 1
        weights = _kept(self._counts, rows, config.max_features).document_weights(rows)
        used = np.flatnonzero(weights)
        everything = np.arange(next(iter(self._counts.blocks.values())).shape[0])
        features = self._counts.weighted(everything, weights, config.block_weights())[:, used]
        model = fit_logistic(
            features[rows],
            targets,
            class_weights(targets, n_labels, config.label_balance),
            n_labels,
            strength=config.strengths[len(config.strengths) // 2],
            tolerance=config.tolerance,
        )
        return softmax(model.logits(features))


def head_probabilities(
    embeddings: NDArray[np.float32], rows: IntArray, targets: IntArray, settings: HeadSettings | None = None
) -> FloatArray:
    """Train the linear head of the recipe `head` on these rows, and answer all: shape (n_texts, n_labels).

    Without the labels' names and without the hidden layer, which the recipe chooses out of fold.

    Args:
        embeddings: shape (n_texts, dimension).
        targets: shape (n_rows,), columns without a gap.
    """
    settings = settings or HeadSettings()
    n_labels = int(targets.max()) + 1
    trained = embeddings[rows]
    length = float(np.sqrt(trained.astype(np.float64).var(axis=0).sum())) or 1.0
    (head,) = fit_linear(
        trained / np.float32(length),
        targets,
        class_weights(targets, n_labels, settings.label_balance),
        n_labels,
        strengths=(settings.strengths[len(settings.strengths) // 2],),
        tolerance=settings.tolerance,
    )
    return softmax(head.logits(embeddings / np.float32(length)))


def _kept(counts: TermCounts, rows: IntArray, max_features: int) -> TermCounts:
    """As `count_terms` over `rows` alone would have it: while features are too many, those of the fewest texts go."""
    spread = np.concatenate(
        [np.bincount(block[rows].indices, minlength=block.shape[1]) for block in counts.blocks.values()]
    )
    least = 1
    while int((spread >= least).sum()) > max_features:
        least += 1
    return replace(counts, min_texts=least)
