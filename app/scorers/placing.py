"""Tell of many texts what a version answers and where they lie, with one run of an encoder for both."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray
from app.intent.clusters import unit_rows
from app.scorers.artifact import EmbeddingScorer, EncoderScorer, Scorer


def answers_and_places(scorer: Scorer | None, texts: Sequence[str]) -> tuple[FloatArray, NDArray[np.float32]]:
    """Probabilities, shape (n_texts, n_labels), and embeddings of length 1, shape (n_texts, dimension).

    Without a scorer there are no labels, and texts lie by their characters alone; so they do for one that gives no
    embeddings.
    """
    if scorer is None:
        return np.zeros((len(texts), 0)), places(None, texts)
    if hasattr(scorer, "judge"):
        embeddings = cast(EncoderScorer, scorer).embed(texts)
        return cast(EncoderScorer, scorer).judge(embeddings), unit_rows(embeddings)
    return scorer.probabilities(texts), places(scorer, texts)


def places(scorer: Scorer | None, texts: Sequence[str]) -> NDArray[np.float32]:
    """The embeddings alone."""
    # It brings scipy, which a service does without.
    from app.intent.text_embedding import embed_texts

    if scorer is None or not hasattr(scorer, "embed"):
        return embed_texts(texts)
    return unit_rows(cast(EmbeddingScorer, scorer).embed(texts))
