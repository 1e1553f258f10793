"""Say how far a text lies outside of what a model has labels for: by its embedding, and by how torn the model is.

A softmax shares 1 among the labels that there are: it is sure of a text that resembles none of them, as long as it
resembles one more than the others. How near that one is, it does not say; a distance does (Lee et al. 2018). A distance
alone is blind to texts between two labels that it knows; the entropy of the answer sees those.

    score(x) = z(minₖ (x - μₖ)ᵀ S⁻¹ (x - μₖ)) + z(-Σₖ qₖ log qₖ)
    S = (1 - a) · Σ + a · tr(Σ)/d · I,   qₖ ∝ pₖ^(1/t)

μₖ are the labels' mean embeddings, Σ is the covariance within labels, one for all of them; pₖ are the calibrated
probabilities, softened because a temperature that makes them true also makes them blind to what is unlike all labels
(Liang et al. 2018); a is `SHRINKAGE`, t is `SOFTNESS`; z(v) = (v - mean) / deviation of v over held-out texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray

Embeddings = NDArray[np.float32]

SHRINKAGE: Final = 0.7
SOFTNESS: Final = 2.0
"""Both, and the equal parts of the score, were chosen on clinc150 without its out-of-scope test texts: by leaving whole
domains of it out, and on its 200 out-of-scope texts for training and validation. Shrinkage from 0.5 to 0.9 does as well
there; less is better with encoders that nobody trained to compare sentences. Softness of 1 or 3 is worse."""
FLAGGED: Final = 0.05
FOLDS: Final = 5


@dataclass(frozen=True, slots=True)
class Scope:
    """What is known of the texts that a model has labels for.

    Args:
        factor: shape (dimension, dimension); the distance is the Euclidean one after multiplying by it.
        means: shape (n_labels, dimension), the labels' mean embeddings, multiplied by `factor`.
        centre, spread: shape (2,); mean and deviation over held-out texts of the distance and of the entropy.
        threshold: a text that scores above it is out of scope.
        flagged: the share of held-out texts of the labels that scored above it, at most.
    """

    factor: Embeddings
    means: Embeddings
    centre: FloatArray
    spread: FloatArray
    threshold: float
    flagged: float = FLAGGED

    def score(self, embeddings: Embeddings, probabilities: FloatArray) -> FloatArray:
        """How far out of scope each text is, shape (n,); higher is further, and 0 is usual for a text in scope.

        `embeddings`: shape (n, dimension); `probabilities`: the model's for the same texts, shape (n, n_labels).
        """
        parts = np.stack([_distances(embeddings @ self.factor, self.means), _entropy(probabilities)], axis=1)
        scores: FloatArray = ((parts - self.centre) / self.spread).sum(axis=1)
        return scores


def fit_scope(
    embeddings: Embeddings,
    targets: IntArray,
    probabilities: FloatArray,
    *,
    rows: IntArray | None = None,
    flagged: float = FLAGGED,
) -> Scope:
    """Learn where the texts of the labels lie, and from which score on a text is out of scope.

    The threshold comes from held-out texts alone: at most the share `flagged` of texts of the labels scores above it,
    in expectation over new ones like them (the conformal quantile: Vovk et al. 2005). Of fewer than 1/flagged - 1
    texts nothing can be promised, and none is ever flagged.

    Args:
        embeddings: shape (n, dimension), of the texts that the model was trained on.
        targets: shape (n,), the column of each one's label.
        probabilities: calibrated, by models that had not seen the text; shape (n_rows, n_labels).
        rows: the texts that the encoder itself was not trained on, to which `probabilities` belong; all of them,
            which then leave each other out by folds, without it.

    Raises:
        ValueError: the shapes do not belong together, or `flagged` is not in (0, 1).
    """
    _check(embeddings, targets, probabilities, rows, flagged)
    n_labels = probabilities.shape[1]
    held_out = _folds(targets) if rows is None else np.isin(np.arange(len(targets)), rows).astype(np.int64) - 1
    folds = [np.flatnonzero(held_out == fold) for fold in np.unique(held_out[held_out >= 0])]
    whole = _moments(embeddings, targets, n_labels)
    distances = np.full(len(targets), np.nan)
    for fold in folds:
        factor, means = _geometry(whole - _moments(embeddings[fold], targets[fold], n_labels))
        distances[fold] = _distances(embeddings[fold] @ factor, means)
    if rows is not None:
        distances = distances[rows]
    parts = np.stack([distances, _entropy(probabilities)], axis=1)
    centre, spread = parts.mean(axis=0), np.maximum(parts.std(axis=0), 1e-9)
    threshold = _quantile(((parts - centre) / spread).sum(axis=1), flagged)
    factor, means = _geometry(whole)
    return Scope(factor, means, centre, spread, threshold, flagged)


def arrays_of(scope: Scope) -> dict[str, NDArray[np.floating]]:
    """The arrays to keep, all float32 but for the numbers of the score, which are float64."""
    return {
        "factor": scope.factor,
        "means": scope.means,
        "centre": scope.centre,
        "spread": scope.spread,
        "limits": np.array([scope.threshold, scope.flagged]),
    }


ARRAYS: Final = ("factor", "means", "centre", "spread", "limits")


def scope_of(arrays: Mapping[str, NDArray[np.floating]], *, n_labels: int, dimension: int) -> Scope:
    """What `arrays_of` gave.

    Raises:
        ValueError: they are not such arrays, or belong to another model.
    """
    shapes = {
        "factor": (dimension, dimension),
        "means": (n_labels, dimension),
        "centre": (2,),
        "spread": (2,),
        "limits": (2,),
    }
    for name, shape in shapes.items():
        array, kind = arrays[name], np.float32 if name in ("factor", "means") else np.float64
        if array.dtype != kind or array.shape != shape:
            raise ValueError(f"{name} has another form than the model's embeddings and labels ask for")
    threshold, flagged = (float(limit) for limit in arrays["limits"])
    finite = all(np.isfinite(arrays[name]).all() for name in ("factor", "means", "centre", "spread"))
    # An infinite threshold flags nothing: there were too few texts to fit one.
    if not finite or not (arrays["spread"] > 0.0).all() or np.isnan(threshold) or not 0.0 < flagged < 1.0:
        raise ValueError("a number is out of range")
    centre, spread = arrays["centre"].astype(np.float64), arrays["spread"].astype(np.float64)
    return Scope(
        arrays["factor"].astype(np.float32), arrays["means"].astype(np.float32), centre, spread, threshold, flagged
    )


def _check(
    embeddings: Embeddings, targets: IntArray, probabilities: FloatArray, rows: IntArray | None, flagged: float
) -> None:
    held_out = len(targets) if rows is None else len(rows)
    if embeddings.ndim != 2 or len(embeddings) != len(targets) or probabilities.shape[0] != held_out:
        raise ValueError("embeddings, targets and probabilities are not of the same texts")
    if held_out == 0 or (rows is not None and held_out >= len(targets)):
        raise ValueError("a scope needs texts to learn from and texts that are held out")
    if set(range(probabilities.shape[1])) - set(targets.tolist()):
        raise ValueError("a label has no text to learn from")
    if not 0.0 < flagged < 1.0:
        raise ValueError("the share that is flagged must lie between 0 and 1")


def _folds(targets: IntArray) -> IntArray:
    """The texts of each label dealt out in turn, so that all of a label are never in one fold; shape (n,)."""
    folds = np.empty(len(targets), dtype=np.int64)
    dealt: dict[int, int] = {}
    for place, target in enumerate(targets.tolist()):
        folds[place] = dealt.get(target, target) % FOLDS
        dealt[target] = dealt.get(target, target) + 1
    return folds


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over texts, from which those of a fold can be taken away: counts and sums by label, and Σ x xᵀ."""

    counts: FloatArray
    sums: FloatArray
    second: FloatArray

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.counts - other.counts, self.sums - other.sums, self.second - other.second)


def _moments(embeddings: Embeddings, targets: IntArray, n_labels: int) -> _Moments:
    values = embeddings.astype(np.float64)
    sums = np.zeros((n_labels, values.shape[1]))
    np.add.at(sums, targets, values)
    return _Moments(np.bincount(targets, minlength=n_labels).astype(np.float64), sums, values.T @ values)


def _geometry(texts: _Moments) -> tuple[Embeddings, Embeddings]:
    """The factor of S⁻¹ and the means after it; a label without texts lies infinitely far away."""
    n, dimension = float(texts.counts.sum()), len(texts.second)
    means = texts.sums / np.maximum(texts.counts, 1.0)[:, None]
    covariance = (texts.second - texts.sums.T @ means) / max(n - float((texts.counts > 0).sum()), 1.0)
    unit = float(np.trace(covariance)) / dimension
    # One text a label has no spread within labels: that of all texts is then the unit.
    overall = (float(np.trace(texts.second)) / n - float(((texts.sums.sum(axis=0) / n) ** 2).sum())) / dimension
    if unit <= 1e-9 * overall or unit <= 0.0:
        covariance, unit = np.zeros_like(covariance), overall if overall > 0.0 else 1.0
    shrunk = (1.0 - SHRINKAGE) * covariance + SHRINKAGE * unit * np.eye(dimension)
    factor = np.linalg.inv(np.linalg.cholesky(shrunk)).T.astype(np.float32)
    placed = means.astype(np.float32) @ factor
    placed[texts.counts == 0] = np.inf
    return factor, placed


def _distances(placed: Embeddings, means: Embeddings) -> FloatArray:
    """The squared distance to the nearest mean, shape (n,)."""
    known = means[np.isfinite(means).all(axis=1)].astype(np.float64)
    values = placed.astype(np.float64)
    squares = (values**2).sum(axis=1)[:, None] - 2.0 * values @ known.T + (known**2).sum(axis=1)
    nearest: FloatArray = np.maximum(squares.min(axis=1), 0.0)
    return nearest


def _entropy(probabilities: FloatArray) -> FloatArray:
    """The entropy of the softened answers, in nats, shape (n,)."""
    softened = np.maximum(probabilities, 1e-30) ** (1.0 / SOFTNESS)
    softened /= softened.sum(axis=1, keepdims=True)
    entropies: FloatArray = -(softened * np.log(softened)).sum(axis=1)
    return entropies


def _quantile(scores: FloatArray, flagged: float) -> float:
    rank = int(np.ceil((len(scores) + 1) * (1.0 - flagged) - 1e-9))
    return float("inf") if rank > len(scores) else float(np.sort(scores)[rank - 1])
