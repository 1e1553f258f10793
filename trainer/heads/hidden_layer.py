"""Fit a network with one hidden layer on embeddings: Adam on small batches, stopped by what it was not shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from trainer.logistic import Float32Array

_AVERAGED = 0.98  # share of the running average of the weights that a step keeps
_LEAST_HELD_OUT = 20  # texts; fewer say nothing about macro-F1
_HELD_OUT_SHARE = 0.1
_ADAM = (0.9, 0.999, 1e-8)

Arrays = dict[str, Float32Array]


@dataclass(frozen=True, slots=True)
class HiddenFit:
    """How a network is fitted; `HeadSettings` says what each number means and checks it."""

    width: int
    learning_rate: float
    epochs: int
    batch: int
    patience: int
    dropout: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class HiddenHead:
    """Logits are `relu(x @ hidden_weights + hidden_bias) @ weights + bias`.

    `hidden_weights`: shape (dimension, width); `weights`: shape (width, n_labels). `losses`: the mean training loss
    of each epoch. `best_epoch`: the one whose weights were kept, from 1.
    """

    hidden_weights: Float32Array
    hidden_bias: Float32Array
    weights: Float32Array
    bias: Float32Array
    losses: tuple[float, ...]
    best_epoch: int

    def logits(self, embeddings: Float32Array) -> FloatArray:
        """Shape (n_texts, n_labels), not calibrated."""
        hidden = np.maximum(embeddings @ self.hidden_weights + self.hidden_bias, np.float32(0.0))
        scores: FloatArray = (hidden @ self.weights + self.bias).astype(np.float64)
        return scores


def fit_hidden(
    embeddings: Float32Array,
    targets: IntArray,
    text_weights: FloatArray,
    n_labels: int,
    settings: HiddenFit,
    rng: np.random.Generator,
) -> HiddenHead:
    """Minimise the weighted cross-entropy with AdamW (Loshchilov & Hutter 2019) under dropout.

    A tenth of the texts of each label, rounded down, is held out; the weights kept are the running average at the epoch
    of its best macro-F1, and `patience` epochs without a better one end the fit. With too few to hold out, all epochs
    run. The learning rate falls to zero over the epochs that were planned.
    """
    held = _held_out(targets, rng)
    shown = np.setdiff1d(np.arange(len(targets)), held)
    # Centred, with a variance of 1 on average: learning rate and start then fit every encoder.
    centre = embeddings[shown].mean(axis=0)
    scale = np.float32(1.0 / max(float(np.sqrt(np.square(embeddings[shown] - centre).mean())), 1e-12))
    scaled = (embeddings - centre) * scale
    steps = settings.epochs * -(-len(shown) // settings.batch)
    state = _State.start(embeddings.shape[1], settings.width, n_labels, steps, rng)
    best, best_score, best_epoch, losses = state.averaged(), -1.0, 0, []
    for epoch in range(1, settings.epochs + 1):
        order = rng.permutation(shown)
        losses.append(_epoch(state, scaled, targets, text_weights, order, settings, rng))
        if len(held) == 0:
            best, best_epoch = state.averaged(), epoch
            continue
        score = macro_f1(targets[held], _forward(state.averaged(), scaled[held])[1].argmax(axis=1))
        if score > best_score:
            best, best_score, best_epoch = state.averaged(), score, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    weights = best["hidden_weights"] * scale
    bias = best["hidden_bias"] - centre @ weights
    return HiddenHead(weights, bias, best["weights"], best["bias"], tuple(losses), best_epoch)


def macro_f1(truth: IntArray, predicted: IntArray) -> float:
    """Mean F1 of the labels that occur in `truth`; both of shape (n,)."""
    scores = []
    for label in np.unique(truth):
        hits = int(((truth == label) & (predicted == label)).sum())
        scores.append(2.0 * hits / (int((truth == label).sum()) + int((predicted == label).sum())))
    return float(np.mean(scores))


@dataclass(slots=True)
class _State:
    """Weights, their running average, and Adam's two moments."""

    weights: Arrays
    average: Arrays
    first: Arrays
    second: Arrays
    planned: int
    step: int = 0

    @classmethod
    def start(cls, dimension: int, width: int, n_labels: int, planned: int, rng: np.random.Generator) -> _State:
        weights = {
            "hidden_weights": _uniform(rng, dimension, width),
            "hidden_bias": np.zeros(width, np.float32),
            "weights": _uniform(rng, width, n_labels),
            "bias": np.zeros(n_labels, np.float32),
        }
        average, first, second = ({name: np.zeros_like(array) for name, array in weights.items()} for _ in range(3))
        return cls(weights, average, first, second, planned)

    def averaged(self) -> Arrays:
        """The running average, corrected for its start at zero."""
        correction = np.float32(1.0 / (1.0 - _AVERAGED**self.step)) if self.step else np.float32(1.0)
        return {name: array * correction for name, array in self.average.items()}

    def update(self, gradients: Arrays, settings: HiddenFit) -> None:
        """One step of AdamW; biases do not decay."""
        self.step += 1
        keep_first, keep_second, least = _ADAM
        left = max(1.0 - self.step / self.planned, 0.0)
        pace = settings.learning_rate * left
        rate = pace * np.sqrt(1.0 - keep_second**self.step) / (1.0 - keep_first**self.step)
        for name, gradient in gradients.items():
            first, second, weights, average = (
                self.first[name],
                self.second[name],
                self.weights[name],
                self.average[name],
            )
            first += np.float32(1.0 - keep_first) * (gradient - first)
            second += np.float32(1.0 - keep_second) * (gradient * gradient - second)
            if name.endswith("weights"):
                weights *= np.float32(1.0 - pace * settings.weight_decay)
            weights -= np.float32(rate) * first / (np.sqrt(second) + np.float32(least))
            average += np.float32(1.0 - _AVERAGED) * (weights - average)


def _epoch(
    state: _State,
    features: Float32Array,
    targets: IntArray,
    text_weights: FloatArray,
    order: IntArray,
    settings: HiddenFit,
    rng: np.random.Generator,
) -> float:
    """One walk over the texts in `order`; returns their mean loss before each step."""
    total = 0.0
    kept = 1.0 - settings.dropout
    for first in range(0, len(order), settings.batch):
        rows = order[first : first + settings.batch]
        shares = text_weights[rows].astype(np.float32)[:, None] / np.float32(len(rows))
        drawn = rng.random((len(rows), settings.width), dtype=np.float32)
        mask = (drawn < kept).astype(np.float32) / np.float32(kept)
        hidden, scores = _forward(state.weights, features[rows], mask)
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        sums = odds.sum(axis=1, keepdims=True)
        hit = (np.arange(len(rows)), targets[rows])
        total += float((shares[:, 0] * (np.log(sums[:, 0]) - scores[hit])).sum()) * len(rows)
        residual = odds / sums
        residual[hit] -= 1.0
        residual *= shares
        below = (residual @ state.weights["weights"].T) * mask * (hidden > 0.0)
        gradients = {
            "hidden_weights": features[rows].T @ below,
            "hidden_bias": below.sum(axis=0),
            "weights": hidden.T @ residual,
            "bias": residual.sum(axis=0),
        }
        state.update(gradients, settings)
    return total / len(order)


def _forward(
    weights: Arrays, features: Float32Array, mask: Float32Array | None = None
) -> tuple[Float32Array, Float32Array]:
    hidden = np.maximum(features @ weights["hidden_weights"] + weights["hidden_bias"], np.float32(0.0))
    if mask is not None:
        hidden *= mask
    return hidden, hidden @ weights["weights"] + weights["bias"]


def _held_out(targets: IntArray, rng: np.random.Generator) -> IntArray:
    """A tenth of the texts of each label, rounded down; none where they are too few in all."""
    taken = [
        rng.permutation(rows)[: int(len(rows) * _HELD_OUT_SHARE)]
        for rows in (np.flatnonzero(targets == label) for label in np.unique(targets))
    ]
    held = np.sort(np.concatenate(taken))
    return held if len(held) >= _LEAST_HELD_OUT else np.zeros(0, np.int64)


def _uniform(rng: np.random.Generator, inputs: int, outputs: int) -> Float32Array:
    """He et al. 2015: uniform, so that a layer keeps the variance of what it is given."""
    bound = float(np.sqrt(3.0 / inputs))
    return rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32)
