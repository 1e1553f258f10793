"""A linear head on embeddings: begun at class centroids, grown when labels are new, or fitted as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from trainer.logistic import Float32Array, class_weights, fit_temperature, minimise, softmax

# scikit-learn's C of the fit that a first version starts from.
STRENGTH = 20.0


@dataclass(frozen=True, slots=True)
class LinearHead:
    """Logits are `embeddings @ weights + bias`. `weights`: (dimension, n_labels); `bias`: (n_labels,)."""

    weights: Float32Array
    bias: Float32Array

    def logits(self, embeddings: NDArray[np.float32]) -> FloatArray:
        """Shape (n_texts, n_labels)."""
        scores: FloatArray = embeddings.astype(np.float64) @ self.weights + self.bias
        return scores


def centroid_head(embeddings: NDArray[np.float32], targets: IntArray, n_labels: int) -> LinearHead:
    """Each label's centroid as its weights: the likeliest label under one round spread for all (nearest centroid).

    w = s (mu - mean of all), b = -s (|mu|^2 - |mean of all|^2) / 2, where s makes the targets most likely. A label
    without a text gets the mean of all, and so a logit of 0.
    """
    middle = embeddings.mean(axis=0, dtype=np.float64)
    centres = np.tile(middle, (n_labels, 1))
    for label in np.unique(targets):
        centres[label] = embeddings[targets == label].mean(axis=0, dtype=np.float64)
    weights = (centres - middle).T
    bias = ((middle**2).sum() - (centres**2).sum(axis=1)) / 2.0
    logits = embeddings @ weights + bias
    # First to a spread of 1, for embeddings may be of any length and the fit's range is bounded.
    scale = 1.0 / max(float(logits.std()), 1e-30)
    scale /= fit_temperature(logits * scale, targets)
    return LinearHead((weights * scale).astype(np.float32), (bias * scale).astype(np.float32))


def grown_head(
    old: LinearHead, columns: Sequence[int | None], embeddings: NDArray[np.float32], targets: IntArray
) -> LinearHead:
    """A head for today's labels: known rows kept, new ones begun at their class centroid.

    Args:
        columns: for each of today's labels its column of `old`, or None where it is new.
        embeddings, targets: of texts that hold at least one of each new label.
    """
    fresh = centroid_head(embeddings, targets, len(columns))
    weights, bias = fresh.weights.copy(), fresh.bias.copy()
    kept = [label for label, column in enumerate(columns) if column is not None]
    known = [column for column in columns if column is not None]
    weights[:, kept], bias[kept] = old.weights[:, known], old.bias[known]
    new = [label for label, column in enumerate(columns) if column is None]
    if new and kept:
        # Old rows say how long a row is. What new ones add to every logit is then what makes the targets most likely:
        # labels that speak louder than the others would take all, quieter ones nothing.
        lengths = np.linalg.norm(weights, axis=0)
        stretch = np.float32(lengths[kept].mean() / max(float(lengths[new].mean()), 1e-12))
        weights[:, new] *= stretch
        bias[new] *= stretch
        bias[new] += np.float32(_likeliest_offset(LinearHead(weights, bias).logits(embeddings), targets, new))
    return LinearHead(weights, bias)


def _likeliest_offset(logits: FloatArray, targets: IntArray, columns: Sequence[int]) -> float:
    """What is to be added to these columns so that the targets are most likely: where the gradient crosses 0."""
    reach = float(np.abs(logits).max()) * 2.0 + 1.0
    low, high = -reach, reach
    aimed = np.isin(targets, columns).sum()
    for _ in range(50):
        middle = (low + high) / 2.0
        moved = logits.copy()
        moved[:, columns] += middle
        expected = softmax(moved)[:, columns].sum()
        low, high = (middle, high) if expected < aimed else (low, middle)
    return (low + high) / 2.0


def fitted_head(
    embeddings: NDArray[np.float32],
    targets: IntArray,
    n_labels: int,
    *,
    label_balance: float,
    strength: float = STRENGTH,
) -> LinearHead:
    """Multinomial logistic regression, as `trainer.logistic.fit_logistic`, on dense features.

    A body that is trained on from a fitted head keeps more of what it knew (Kumar et al. 2022).
    """
    count, dimension = embeddings.shape
    weighing = class_weights(targets, n_labels, label_balance)
    share = (weighing / weighing.sum()).astype(np.float32)[:, None]
    decay = np.float32(1.0 / (strength * count))
    hit = (np.arange(count), targets)

    def objective(point: Float32Array) -> tuple[float, Float32Array]:
        scores = embeddings @ point[:-1] + point[-1]
        scores -= scores.max(axis=1, keepdims=True)
        aimed = scores[hit]
        odds = np.exp(scores)
        total = odds.sum(axis=1, keepdims=True)
        loss = float(np.dot(share[:, 0], np.log(total[:, 0]) - aimed))
        residual = odds / total
        residual[hit] -= 1.0
        residual *= share
        gradient = np.vstack([embeddings.T @ residual + decay * point[:-1], residual.sum(axis=0, keepdims=True)])
        return loss + 0.5 * float(decay) * float(np.vdot(point[:-1], point[:-1])), gradient

    origin = np.zeros((dimension + 1, n_labels), dtype=np.float32)
    steepest = float(np.abs(objective(origin)[1]).max())
    found = minimise(objective, origin, stop_below=1e-3 * steepest, max_steps=200)
    return LinearHead(found[:-1], found[-1])
