"""Fit a multinomial logistic regression on dense embeddings, at several strengths, in a second on one core."""

from __future__ import annotations

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from trainer.heads.linear_head import LinearHead
from trainer.logistic import Float32Array, minimise

_MAX_STEPS = 200


def fit_linear(
    embeddings: Float32Array,
    targets: IntArray,
    text_weights: FloatArray,
    n_labels: int,
    *,
    strengths: tuple[float, ...],
    tolerance: float,
) -> list[LinearHead]:
    """For each strength the minimum of  Σᵢ wᵢ·(-log p(targetᵢ)) / Σᵢ wᵢ  +  ‖weights‖² / (2·strength·n_texts).

    The bias is free. Embeddings are turned onto their principal axes and stretched there by what the loss's curvature
    at zero weights says, (λ / n_labels + decay) ** -1/2: the minimum is the same and lies a few steps away, where
    embeddings of real encoders, long in a few directions, would take hundreds.

    Args:
        embeddings: shape (n_texts, dimension), float32.
        targets: shape (n_texts,), column numbers below `n_labels`.
        text_weights: shape (n_texts,), positive.
        strengths: scikit-learn's C, one or more: larger means less regularisation. Each fit starts from the last one.
        tolerance: stop when the largest gradient entry has fallen to this share of the one at zero weights.
    """
    centre = np.average(embeddings, axis=0, weights=text_weights).astype(np.float32)
    centred = embeddings - centre
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(centred))
    widest = float(np.sqrt(strengths[0] * strengths[-1]))
    stretch = (np.maximum(variances, 0.0) / n_labels + 1.0 / (widest * len(centred))) ** -0.5
    turn = (axes * stretch).astype(np.float32)
    turned = centred @ turn
    point = np.zeros((embeddings.shape[1] + 1, n_labels), dtype=np.float32)
    heads = []
    for strength in strengths:
        decay = (stretch**2 / (strength * len(centred))).astype(np.float32)[:, None]
        point = _descend(turned, targets, text_weights, decay, point, tolerance)
        weights = turn @ point[:-1]
        heads.append(LinearHead(weights, point[-1] - centre @ weights))
    return heads


def _descend(
    features: Float32Array,
    targets: IntArray,
    text_weights: FloatArray,
    decay: Float32Array,
    start: Float32Array,
    tolerance: float,
) -> Float32Array:
    """The minimum for one strength; the last row of the point is the bias. `decay`: shape (n_features, 1)."""
    share = (text_weights / text_weights.sum()).astype(np.float32)[:, None]
    hit = (np.arange(len(targets)), targets)

    def objective(point: Float32Array) -> tuple[float, Float32Array]:
        weights = point[:-1]
        scores = features @ weights
        scores += point[-1]
        scores -= scores.max(axis=1, keepdims=True)
        aimed = scores[hit]
        odds = np.exp(scores, out=scores)
        total = odds.sum(axis=1, keepdims=True)
        loss = float(np.dot(share[:, 0].astype(np.float64), np.log(total[:, 0]) - aimed))
        residual = np.multiply(odds, share / total, out=odds)
        residual[hit] -= share[:, 0]
        gradient = np.empty_like(point)
        shrunk = decay * weights
        np.add(features.T @ residual, shrunk, out=gradient[:-1])
        gradient[-1] = residual.sum(axis=0)
        return loss + 0.5 * float(np.vdot(shrunk, weights)), gradient

    steepest = float(np.abs(objective(np.zeros_like(start))[1]).max())
    return minimise(objective, start, stop_below=tolerance * steepest, max_steps=_MAX_STEPS)
