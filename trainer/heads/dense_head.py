"""Fit the head that a frozen encoder's embeddings are judged by, with answers to texts that it had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from trainer.heads.dense_logistic import fit_linear
from trainer.heads.hidden_layer import HiddenFit, HiddenHead, fit_hidden
from trainer.heads.linear_head import LinearHead
from trainer.logistic import Float32Array, class_weights, fit_temperature, log_loss
from trainer.spec import Progress
from trainer.term_matrix import assign_folds

KINDS = ("linear", "hidden", "mixed")
_ALIKE = 0.02  # of the best loss: less than folds drawn otherwise would change
_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the hidden layer in a mixture


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How a head is fitted.

    Args:
        kind: `linear` (logistic regression), `hidden` (one hidden layer with ReLU), or `mixed`: both, their logits
            added in the proportion that is likeliest out of fold, which may leave the hidden layer out.
        strengths: of the logistic regression, values of scikit-learn's C for embeddings whose mean squared distance
            from their centre is 1, ascending. The likeliest out of fold is taken, averaged with all that are as likely
            within `_ALIKE`: the loss is convex in the logits, so their mean is never worse than they are on average.
        name_weight: a label's own name counts as so many texts of it, 0 to 10; 0 leaves names out.
        label_balance: each text weighs count(its label) ** -label_balance: 0 as they come, 1 every label alike.
        folds: 2 to 20.
        tolerance: when the logistic regression has converged, relative to its first gradient.
        hidden: width of the hidden layer, 8 to 4096.
        learning_rate: of the hidden layer's fit, falling to 0 over the epochs; 1e-5 to 0.1.
        epochs: at most so many, 1 to 1000.
        batch: texts a step, 8 to 1024.
        patience: epochs without a better macro-F1 on what was held out that end the fit, 1 to 100.
        dropout: share of the hidden layer that a step leaves out, 0 to 0.9.
        weight_decay: 0 to 1, times the learning rate, at each step.
    """

    kind: str = "mixed"
    strengths: tuple[float, ...] = (10.0, 20.0, 40.0)
    name_weight: float = 1.0
    label_balance: float = 1.0
    folds: int = 4
    tolerance: float = 3e-3
    hidden: int = 256
    learning_rate: float = 2e-3
    epochs: int = 20
    batch: int = 64
    patience: int = 3
    dropout: float = 0.3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted with."""
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}")
        bounds: dict[str, tuple[float, float]] = {
            "name_weight": (0.0, 10.0),
            "label_balance": (0.0, 1.0),
            "folds": (2, 20),
            "tolerance": (1e-6, 0.1),
            "hidden": (8, 4096),
            "learning_rate": (1e-5, 0.1),
            "epochs": (1, 1000),
            "batch": (8, 1024),
            "patience": (1, 100),
            "dropout": (0.0, 0.9),
            "weight_decay": (0.0, 1.0),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie between {low} and {high}")
        if not self.strengths or list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError("strengths must be at least one number, ascending")
        if not all(1e-4 <= strength <= 1e6 for strength in self.strengths):
            raise ValueError("strengths must lie between 0.0001 and 1000000")


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head as the `onnx` scorer reads it.

    Args:
        kind: `linear` or `hidden`, a key of `app.scorers.onnx.HEADS`.
        arrays: what that key lists, float32.
        out_of_fold_logits: shape (n_texts, n_labels), float64: each row by models that had not seen its text.
        temperature: fitted on those logits; probabilities are softmax(logits / temperature).
        facts: what was chosen and what it scored out of fold, for the manifest.
    """

    kind: str
    arrays: Mapping[str, Float32Array]
    out_of_fold_logits: FloatArray
    temperature: float
    facts: Mapping[str, Any]

    def logits(self, embeddings: Float32Array) -> FloatArray:
        """What the scorer computes before the temperature, shape (n_texts, n_labels)."""
        values: FloatArray = embeddings.astype(np.float64)
        if self.kind == "hidden":
            values = np.maximum(values @ self.arrays["hidden_weights"] + self.arrays["hidden_bias"], 0.0)
        scores: FloatArray = values @ self.arrays["weights"] + self.arrays["bias"]
        return scores


def fit_head(
    embeddings: Float32Array,
    targets: IntArray,
    n_labels: int,
    settings: HeadSettings,
    seed: int,
    report: Progress,
    names: Float32Array | None = None,
) -> FittedHead:
    """Fit the head on all texts, and its calibration on answers by models of the other folds.

    Names are no texts: they help every fold's model, and are never answered. Same arguments, same bytes.

    Args:
        embeddings: shape (n_texts, dimension), float32.
        targets: shape (n_texts,), column numbers below `n_labels`, each with at least two texts.
        names: the embeddings of the labels' own names, shape (n_labels, dimension).

    Raises:
        ValueError: the arrays do not fit each other, hold something that is not a number, or a label has no two texts.
    """
    _check(embeddings, targets, n_labels, names)
    # About their centre: encoders that were not trained on pairs send all texts into one narrow cone.
    length = float(np.sqrt(embeddings.astype(np.float64).var(axis=0).sum())) or 1.0
    shorten = np.float32(1.0 / length)
    texts = _Texts(embeddings * shorten, targets, n_labels, None if names is None else names * shorten)
    folds = assign_folds(targets, min(settings.folds, len(targets)), np.random.default_rng(seed))
    if settings.kind == "linear":
        linear = _cross_fit_linear(texts, folds, settings, report)
        arrays = _linear_arrays(_linear_head(texts, settings, linear.scales))
        return _finished(arrays, linear.logits, texts, length, linear.facts())
    if settings.kind == "hidden":
        hidden = _cross_fit_hidden(texts, folds, settings, seed, report)
        net = _fit_net(texts, np.arange(len(targets)), settings, np.random.default_rng([seed, 0]))
        return _finished(_net_arrays(net), hidden.logits, texts, length, hidden.facts())
    linear = _cross_fit_linear(texts, folds, settings, report)
    return _mixed(texts, settings, length, linear, _cross_fit_hidden(texts, folds, settings, seed, report))


@dataclass(frozen=True, slots=True)
class _Texts:
    """What is fitted on, brought to a mean squared distance of 1 from their centre."""

    embeddings: Float32Array
    targets: IntArray
    n_labels: int
    names: Float32Array | None


@dataclass(frozen=True, slots=True)
class _Linear:
    """`scales`: what the logits of each strength count in the head; 0 where it is left out."""

    scales: dict[float, float]
    logits: FloatArray
    losses: tuple[float, ...]

    def facts(self) -> dict[str, Any]:
        taken = [strength for strength, scale in self.scales.items() if scale]
        return {"strengths": taken, "strength_losses": list(self.losses)}


@dataclass(frozen=True, slots=True)
class _Hidden:
    """`nets`: the network of each fold, which has not seen it."""

    nets: tuple[HiddenHead, ...]
    logits: FloatArray

    def facts(self) -> dict[str, Any]:
        return {"epochs": [len(net.losses) for net in self.nets], "best_epochs": [net.best_epoch for net in self.nets]}


def _check(embeddings: Float32Array, targets: IntArray, n_labels: int, names: Float32Array | None) -> None:
    if embeddings.ndim != 2 or embeddings.dtype != np.float32 or targets.shape != embeddings.shape[:1]:
        raise ValueError("embeddings must be float32 of shape (n_texts, dimension), with one target each")
    if names is not None and (names.shape != (n_labels, embeddings.shape[1]) or names.dtype != np.float32):
        raise ValueError("names must be float32 of shape (n_labels, dimension)")
    if not all(np.isfinite(array).all() for array in (embeddings, names) if array is not None):
        raise ValueError("the embeddings hold something that is not a number")
    if n_labels < 2 or targets.min() < 0 or targets.max() >= n_labels:
        raise ValueError("there must be two labels or more, and targets below their number")
    if np.bincount(targets, minlength=n_labels).min() < 2:
        raise ValueError("every label needs two texts or more")


def _fit_path(texts: _Texts, rows: IntArray, settings: HeadSettings, strengths: Sequence[float]) -> list[LinearHead]:
    """A logistic regression on `rows` and the names, for each strength."""
    embeddings, targets = texts.embeddings[rows], texts.targets[rows]
    weights = class_weights(targets, texts.n_labels, settings.label_balance)
    if texts.names is not None and settings.name_weight > 0.0:
        # A name weighs as a text of its label does.
        heavy = np.ones(texts.n_labels)
        heavy[targets] = weights
        embeddings = np.concatenate([embeddings, texts.names])
        targets = np.concatenate([targets, np.arange(texts.n_labels)])
        weights = np.concatenate([weights, settings.name_weight * heavy])
    return fit_linear(
        embeddings, targets, weights, texts.n_labels, strengths=tuple(strengths), tolerance=settings.tolerance
    )


def _cross_fit_linear(texts: _Texts, folds: IntArray, settings: HeadSettings, report: Progress) -> _Linear:
    logits = np.empty((len(settings.strengths), len(folds), texts.n_labels))
    n_folds = int(folds.max()) + 1
    for fold in range(n_folds):
        outside = np.flatnonzero(folds == fold)
        heads = _fit_path(texts, np.flatnonzero(folds != fold), settings, settings.strengths)
        for path, head in zip(logits, heads, strict=True):
            path[outside] = head.logits(texts.embeddings[outside])
        report(0.35 * (fold + 1) / n_folds, f"linear head, fold {fold + 1} of {n_folds}")
    temperatures = [fit_temperature(path, texts.targets) for path in logits]
    losses = [log_loss(path, texts.targets, warmth) for path, warmth in zip(logits, temperatures, strict=True)]
    alike = np.array(losses) <= min(losses) * (1.0 + _ALIKE)
    scales = alike / (np.array(temperatures) * alike.sum())
    mean: FloatArray = np.tensordot(scales, logits, axes=1)
    return _Linear(dict(zip(settings.strengths, scales.tolist(), strict=True)), mean, tuple(losses))


def _cross_fit_hidden(texts: _Texts, folds: IntArray, settings: HeadSettings, seed: int, report: Progress) -> _Hidden:
    logits = np.empty((len(folds), texts.n_labels))
    nets = []
    n_folds = int(folds.max()) + 1
    for fold in range(n_folds):
        outside = np.flatnonzero(folds == fold)
        rng = np.random.default_rng([seed, fold + 1])
        nets.append(_fit_net(texts, np.flatnonzero(folds != fold), settings, rng))
        logits[outside] = nets[-1].logits(texts.embeddings[outside])
        report(0.35 + 0.5 * (fold + 1) / n_folds, f"hidden layer, fold {fold + 1} of {n_folds}")
    return _Hidden(tuple(nets), logits)


def _fit_net(texts: _Texts, rows: IntArray, settings: HeadSettings, rng: np.random.Generator) -> HiddenHead:
    how = HiddenFit(
        width=settings.hidden,
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        batch=settings.batch,
        patience=settings.patience,
        dropout=settings.dropout,
        weight_decay=settings.weight_decay,
    )
    targets = texts.targets[rows]
    weights = class_weights(targets, texts.n_labels, settings.label_balance)
    return fit_hidden(texts.embeddings[rows], targets, weights, texts.n_labels, how, rng)


def _linear_head(texts: _Texts, settings: HeadSettings, scales: Mapping[float, float]) -> LinearHead:
    # The whole path, as in the folds: a fit from another start stops elsewhere within the tolerance.
    heads = _fit_path(texts, np.arange(len(texts.targets)), settings, settings.strengths)
    shares = [np.float32(scales[strength]) for strength in settings.strengths]
    weights = np.sum([head.weights * share for head, share in zip(heads, shares, strict=True)], axis=0)
    bias = np.sum([head.bias * share for head, share in zip(heads, shares, strict=True)], axis=0)
    return LinearHead(weights.astype(np.float32), bias.astype(np.float32))


def _linear_arrays(head: LinearHead) -> dict[str, Float32Array]:
    return {"weights": head.weights, "bias": head.bias}


def _net_arrays(net: HiddenHead) -> dict[str, Float32Array]:
    return {
        "hidden_weights": net.hidden_weights,
        "hidden_bias": net.hidden_bias,
        "weights": net.weights,
        "bias": net.bias,
    }


def _mixed(texts: _Texts, settings: HeadSettings, length: float, linear: _Linear, hidden: _Hidden) -> FittedHead:
    """Each fold's network answers for its fold, and all of them together, beside the linear head, for new texts."""
    # The linear logits are calibrated already.
    scale = 1.0 / fit_temperature(hidden.logits, texts.targets)
    mixtures = [(1.0 - share) * linear.logits + share * scale * hidden.logits for share in _SHARES]
    losses = [log_loss(logits, texts.targets, fit_temperature(logits, texts.targets)) for logits in mixtures]
    best = int(np.argmin(losses))
    share = _SHARES[best]
    facts = {**linear.facts(), **hidden.facts(), "hidden_share": share, "mixture_losses": losses}
    head = _linear_head(texts, settings, linear.scales)
    if share == 0.0:
        return _finished(_linear_arrays(head), linear.logits, texts, length, facts)
    joined = join(head, hidden.nets, 1.0 - share, share * scale / len(hidden.nets))
    return _finished(joined, mixtures[best], texts, length, facts)


def join(
    linear: LinearHead, nets: Sequence[HiddenHead], linear_share: float, net_share: float
) -> dict[str, Float32Array]:
    """One hidden layer that gives `linear_share`·linear + `net_share`·Σ nets: x = relu(x) - relu(-x) passes a line."""
    n_labels = linear.weights.shape[1]
    through = np.eye(n_labels, dtype=np.float32) * np.float32(linear_share)
    small = np.float32(net_share)
    return {
        "hidden_weights": np.concatenate(
            [linear.weights, -linear.weights, *(net.hidden_weights for net in nets)], axis=1
        ),
        "hidden_bias": np.concatenate([linear.bias, -linear.bias, *(net.hidden_bias for net in nets)]),
        "weights": np.concatenate([through, -through, *(net.weights * small for net in nets)]),
        "bias": np.sum([net.bias * small for net in nets], axis=0, dtype=np.float32),
    }


def _finished(
    arrays: dict[str, Float32Array], logits: FloatArray, texts: _Texts, length: float, facts: Mapping[str, Any]
) -> FittedHead:
    """The head for embeddings as they came, and its calibration."""
    kind = "hidden" if "hidden_weights" in arrays else "linear"
    first = "hidden_weights" if kind == "hidden" else "weights"
    served = {**arrays, first: (arrays[first] / np.float32(length)).astype(np.float32)}
    temperature = fit_temperature(logits, texts.targets)
    quality = {
        "out_of_fold_loss": log_loss(logits, texts.targets, temperature),
        "out_of_fold_accuracy": float((logits.argmax(axis=1) == texts.targets).mean()),
    }
    return FittedHead(kind, served, logits, temperature, {**facts, **quality})
