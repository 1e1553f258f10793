"""The query strategies of small-text on given probabilities and embeddings, for benchmarks; not a benchmark itself.

Only those that need neither a neural classifier nor its gradients. They are called as the library documents it, with a
classifier that answers what the replay's own classifier answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.selection_mix import Pool
from app.simulation.strategy_replay import Chooser
from bench.result import CannotRun

BREAKING_TIES = "breaking_ties"


class _Answers:
    """A classifier of small-text that knows its answers. Its data sets are arrays of row numbers."""

    def __init__(self, probabilities: FloatArray, embeddings: NDArray[np.floating]) -> None:
        self._probabilities = probabilities
        self._embeddings = embeddings

    def predict_proba(self, rows: IntArray) -> FloatArray:
        return self._probabilities[rows]

    def embed(self, rows: IntArray, *, return_proba: bool, **_: object) -> tuple[NDArray[np.floating], FloatArray]:
        assert return_proba
        return self._embeddings[rows], self._probabilities[rows]


def choosers() -> dict[str, Chooser]:
    """A chooser for each strategy, `BREAKING_TIES` first.

    Raises:
        CannotRun: small-text is not installed.
    """
    try:
        import small_text
    except ImportError as error:
        raise CannotRun("small-text is not installed: pip install 'intentloop[bench]'") from error
    makers: Mapping[str, Callable[[], Any]] = {
        BREAKING_TIES: small_text.BreakingTies,
        "least_confidence": small_text.LeastConfidence,
        "prediction_entropy": small_text.PredictionEntropy,
        "contrastive": lambda: small_text.ContrastiveActiveLearning(pbar=None),
        "embedding_kmeans": small_text.EmbeddingKMeans,
        "lightweight_coreset": small_text.LightweightCoreset,
        "greedy_coreset": lambda: small_text.GreedyCoreset(distance_metric="euclidean"),
    }
    return {name: _chooser(maker()) for name, maker in makers.items()}


def _chooser(strategy: Any) -> Chooser:
    def choose(pool: Pool, wanted: int, rng: np.random.Generator) -> Sequence[int]:
        waiting, known = np.arange(pool.size), pool.size + np.arange(len(pool.known))
        # Of labelled texts no strategy asks for probabilities; small-text wants rows of them.
        probabilities = np.concatenate([pool.probabilities, np.zeros((len(known), pool.n_labels))])
        answers = _Answers(probabilities, np.concatenate([pool.embeddings, pool.known]))
        everything = np.arange(len(probabilities))
        # small-text draws from the global generator.
        np.random.seed(int(rng.integers(2**32)))
        return [int(row) for row in strategy.query(answers, everything, waiting, known, pool.known_labels, n=wanted)]

    return choose
