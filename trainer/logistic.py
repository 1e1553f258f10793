"""Fit a multinomial logistic regression on sparse features, fast enough to be done again at every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from app.intent.arrays import FloatArray, IntArray

Float32Array = NDArray[np.float32]
Objective = Callable[[Float32Array], tuple[float, Float32Array]]

_MEMORY = 6  # pairs that L-BFGS remembers; more costs memory and did not lower the number of steps here


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """`weights`: shape (n_features, n_labels); `bias`: shape (n_labels,). Logits are `x @ weights + bias`."""

    weights: Float32Array
    bias: Float32Array

    def logits(self, features: csr_matrix) -> FloatArray:
        """Shape (n_texts, n_labels), not calibrated."""
        scores: FloatArray = (features @ self.weights + self.bias).astype(np.float64)
        return scores


def class_weights(targets: IntArray, n_labels: int, power: float) -> FloatArray:
    """The weight of each text: count(its label) ** -power, scaled to a mean of 1.

    A power of 1 gives every label the same say, a power of 0 every text.
    """
    counts = np.maximum(np.bincount(targets, minlength=n_labels), 1).astype(np.float64)
    weights = counts[targets] ** -power
    scaled: FloatArray = weights / weights.mean()
    return scaled


def fit_logistic(
    features: csr_matrix,
    targets: IntArray,
    text_weights: FloatArray,
    n_labels: int,
    *,
    strength: float,
    start: LogisticModel | None = None,
    tolerance: float = 1e-2,
    max_steps: int = 200,
) -> LogisticModel:
    """Minimise  Σᵢ wᵢ·(-log p(targetᵢ)) / Σᵢ wᵢ  +  ‖weights‖² / (2·strength·n_texts); the bias is free.

    Args:
        features: shape (n_texts, n_features), float32.
        targets: shape (n_texts,), column numbers below `n_labels`.
        text_weights: shape (n_texts,), positive.
        strength: scikit-learn's C: larger means less regularisation.
        start: where to begin; a fit at a near strength saves half of the steps.
        tolerance: stop when the largest gradient entry has fallen to this share of the one at zero weights.
    """
    n_texts, n_features = features.shape
    transposed = features.T.tocsr()
    share = (text_weights / text_weights.sum()).astype(np.float32)[:, None]
    decay = np.float32(1.0 / (strength * n_texts))
    hit = (np.arange(n_texts), targets)

    def objective(point: Float32Array) -> tuple[float, Float32Array]:
        weights = point[:-1]
        scores = features @ weights
        scores += point[-1]
        scores -= scores.max(axis=1, keepdims=True)
        aimed = scores[hit]
        odds = np.exp(scores, out=scores)
        total = odds.sum(axis=1, keepdims=True)
        loss = float(np.dot(share[:, 0].astype(np.float64), np.log(total[:, 0]) - aimed))
        residual = np.divide(odds, total, out=odds)
        residual[hit] -= 1.0
        residual *= share
        gradient = np.empty_like(point)
        np.add(transposed @ residual, decay * weights, out=gradient[:-1])
        gradient[-1] = residual.sum(axis=0)
        return loss + 0.5 * float(decay) * float(np.vdot(weights, weights)), gradient

    origin = np.zeros((n_features + 1, n_labels), dtype=np.float32)
    steepest = float(np.abs(objective(origin)[1]).max())
    if start is not None:
        origin[:-1], origin[-1] = start.weights, start.bias
    found = minimise(objective, origin, stop_below=tolerance * steepest, max_steps=max_steps)
    return LogisticModel(found[:-1], found[-1])


def minimise(objective: Objective, start: Float32Array, *, stop_below: float, max_steps: int) -> Float32Array:
    """L-BFGS with backtracking (Nocedal & Wright 2006, algorithm 7.4), in float32: half the memory, twice the speed.

    Args:
        objective: point -> (value, gradient of the same shape).
        stop_below: largest absolute gradient entry at which the point counts as the minimum.
    """
    point = start
    value, gradient = objective(point)
    pairs: list[tuple[Float32Array, Float32Array, float]] = []
    for _ in range(max_steps):
        if float(np.abs(gradient).max()) <= stop_below:
            break
        direction = _descent(gradient, pairs)
        slope = float(np.vdot(gradient, direction))
        length = 1.0
        while True:
            trial = point + np.float32(length) * direction
            trial_value, trial_gradient = objective(trial)
            # 1e-7 of the value is what float32 cannot tell from rounding.
            if trial_value <= value + 1e-4 * length * slope + 1e-7 * abs(value) or length < 1e-4:
                break
            length *= 0.5
        step, change = trial - point, trial_gradient - gradient
        curvature = float(np.vdot(step, change))
        if curvature > 0.0:
            pairs = [*pairs, (step, change, 1.0 / curvature)][-_MEMORY:]
        stuck = length < 1e-4 and trial_value >= value
        point, value, gradient = trial, trial_value, trial_gradient
        if stuck:
            break
    return point


def fit_temperature(logits: FloatArray, targets: IntArray) -> float:
    """The divisor of the logits that makes their softmax most likely (Guo et al. 2017), within [0.05, 20].

    One observation that says "about 1" beforehand keeps a handful of right answers from promising certainty.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    hit = (np.arange(len(targets)), targets)

    def cost(log_temperature: float) -> float:
        scaled = shifted * np.exp(-log_temperature)
        loss = np.log(np.exp(scaled).sum(axis=1)) - scaled[hit]
        return float(loss.sum()) + 0.5 * log_temperature**2

    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cost(left) <= cost(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2.0))


def log_loss(logits: FloatArray, targets: IntArray, temperature: float) -> float:
    """Mean of -log p(target) after division by `temperature`."""
    scaled = logits / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    loss = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(targets)), targets]
    return float(loss.mean())


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Rows of probabilities, shape as `logits`."""
    scaled = logits / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: FloatArray = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def _descent(gradient: Float32Array, pairs: list[tuple[Float32Array, Float32Array, float]]) -> Float32Array:
    """Minus the inverse Hessian, as the remembered steps show it, times the gradient (the two-loop recursion)."""
    direction = -gradient
    if not pairs:
        return direction / np.float32(np.sqrt(np.vdot(gradient, gradient)))
    shares = []
    for step, change, inverse_curvature in reversed(pairs):
        shares.append(inverse_curvature * float(np.vdot(step, direction)))
        direction -= np.float32(shares[-1]) * change
    step, change, inverse_curvature = pairs[-1]
    direction *= np.float32(1.0 / (inverse_curvature * float(np.vdot(change, change))))
    for (step, change, inverse_curvature), share in zip(pairs, reversed(shares), strict=True):
        direction += np.float32(share - inverse_curvature * float(np.vdot(change, direction))) * step
    return direction
