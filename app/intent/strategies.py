"""Score a pool of waiting texts by each strategy that a selection may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.intent import selection
from app.intent.arrays import FloatArray, IntArray
from app.intent.clusters import cluster, nearest, nearest_few, typicality, unit_rows

NEIGHBOURS: Final = 5
"""Labelled texts that judge a confident answer."""

BREADTH: Final = 10
"""`cluster_margin` looks at so many times the texts that are wanted."""

MOST_CLUSTERS: Final = 500
"""More than so many are not looked for, however many texts are labelled (Hacohen et al. 2022)."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Pool:
    """Texts that wait, and what is known. Rows of embeddings have length 1.

    Args:
        probabilities: shape (n_texts, n_labels), calibrated; n_labels is 0 where there is no model yet.
        embeddings: shape (n_texts, dimension).
        counts: shape (n_texts,), how often each was asked.
        known: shape (n_known, dimension), the embeddings of labelled texts.
        known_labels: shape (n_known,), columns of `probabilities`, -1 where the model does not have the label.
        confusions: pairs of columns that gold, or a person, says are confused.
        disagreeing: shape (n_texts,), where rules or a second recipe contradict a confident answer.
    """

    probabilities: FloatArray
    embeddings: NDArray[np.floating]
    counts: IntArray
    known: NDArray[np.floating]
    known_labels: IntArray
    confusions: Sequence[tuple[int, int]] = ()
    disagreeing: NDArray[np.bool_] | None = None

    @property
    def size(self) -> int:
        """How many texts wait."""
        return len(self.counts)

    @property
    def n_labels(self) -> int:
        """How many labels the model has; 0 without a model."""
        return int(self.probabilities.shape[1])


@dataclass(frozen=True, slots=True)
class Scored:
    """What a strategy says of a pool.

    Args:
        scores: shape (n_texts,), in [0, 1], higher is worth more; of those with 0 the strategy asks for none.
        facts: row -> what the reason in words is made of.
    """

    scores: FloatArray
    facts: Callable[[int], Mapping[str, Any]] = field(default=lambda _: _NOTHING)


Strategy = Callable[[Pool, int, np.random.Generator], Scored]
"""(pool, how many texts are wanted, rng) -> scores. Same arguments and state of `rng`, same scores."""


def _by_uncertainty(measure: Callable[[FloatArray], FloatArray]) -> Strategy:
    def score(pool: Pool, _wanted: int, _rng: np.random.Generator) -> Scored:
        return Scored(selection.tempered(measure(pool.probabilities), pool.counts), _two_best(pool))

    return score


def _two_best(pool: Pool) -> Callable[[int], Mapping[str, Any]]:
    def facts(row: int) -> Mapping[str, Any]:
        order = np.argsort(-pool.probabilities[row], kind="stable")[:2]
        return {
            "labels": [int(column) for column in order],
            "probabilities": [float(pool.probabilities[row, column]) for column in order],
        }

    return facts


def cluster_margin(pool: Pool, wanted: int, rng: np.random.Generator) -> Scored:
    """Unsure, and not of one thing only: the least margin of each cluster of doubtful texts, then the second of each.

    Only the `BREADTH` times as many least sure texts as are wanted are clustered, into as many clusters as are wanted:
    with the whole pool in clusters, those that the model knows well would take their turns too (Zhdanov 2019).
    """
    doubt = selection.tempered(selection.margin(pool.probabilities), pool.counts)
    least_sure = np.argsort(-doubt, kind="stable")[: BREADTH * wanted]
    clusters = cluster(pool.embeddings[least_sure], min(wanted, MOST_CLUSTERS), rng)
    numbers = dict(zip(least_sure.tolist(), clusters.tolist(), strict=True))
    scores = doubt / 2.0
    scores[least_sure] = np.where(
        doubt[least_sure] > 0.0, 0.5 + selection.in_turns(doubt[least_sure], clusters) / 2.0, 0.0
    )
    best = _two_best(pool)
    return Scored(scores, lambda row: {**best(row), "cluster": numbers.get(row)})


def representative(pool: Pool, wanted: int, rng: np.random.Generator) -> Scored:
    """The middle of each cluster, then the next to it: as many clusters as texts are wanted (Zhu et al. 2008)."""
    clusters = cluster(pool.embeddings, min(wanted, MOST_CLUSTERS), rng)
    vectors = unit_rows(pool.embeddings)
    middles = np.zeros((int(clusters.max(initial=0)) + 1, vectors.shape[1]), dtype=np.float32)
    np.add.at(middles, clusters, vectors)
    closeness = (vectors * unit_rows(middles)[clusters]).sum(axis=1).astype(np.float64).clip(0.0, 1.0)
    scores = selection.in_turns(selection.tempered(closeness, pool.counts), clusters)
    return Scored(scores, lambda row: {"cluster": int(clusters[row])})


def typical(pool: Pool, wanted: int, rng: np.random.Generator) -> Scored:
    """One typical text of each cluster that has no label yet (TypiClust, Hacohen et al. 2022).

    Waiting and labelled texts are clustered together, into as many clusters as labelled and wanted texts; a cluster
    comes the later, the more of it is labelled. Right while labels are few: it needs no model.
    """
    vectors = unit_rows(np.concatenate([unit_rows(pool.embeddings), unit_rows(pool.known)]))
    clusters = cluster(vectors, min(wanted + len(pool.known), MOST_CLUSTERS), rng)
    waiting = clusters[: pool.size]
    n_clusters = int(clusters.max(initial=0)) + 1
    covered = np.bincount(clusters[pool.size :], minlength=n_clusters)
    sizes = np.bincount(waiting, minlength=n_clusters)
    crowd = selection.tempered(typicality(vectors, clusters)[: pool.size], pool.counts)
    scores = selection.in_turns(crowd, waiting, covered)
    return Scored(scores, lambda row: {"cluster": int(waiting[row]), "cluster_size": int(sizes[waiting[row]])})


def confusion(pool: Pool, _wanted: int, _rng: np.random.Generator) -> Scored:
    """Texts between two labels that are known to be confused."""
    pairs = list(pool.confusions) if pool.n_labels else []
    scores = selection.tempered(selection.confusion(pool.probabilities, pairs), pool.counts)

    def facts(row: int) -> Mapping[str, Any]:
        pair = max(pairs, key=lambda pair: min(pool.probabilities[row, pair[0]], pool.probabilities[row, pair[1]]))
        return {"labels": list(pair), "probabilities": [float(pool.probabilities[row, column]) for column in pair]}

    return Scored(scores, facts)


def rare(pool: Pool, _wanted: int, _rng: np.random.Generator) -> Scored:
    """Texts that may belong to labels with few texts."""
    label_counts = np.bincount(pool.known_labels[pool.known_labels >= 0], minlength=pool.n_labels)
    scores = selection.tempered(selection.rare(pool.probabilities, label_counts), pool.counts)
    largest = int(label_counts.max(initial=0))

    def facts(row: int) -> Mapping[str, Any]:
        column = int((pool.probabilities[row] * (largest - label_counts)).argmax())
        return {"label": column, "label_count": int(label_counts[column])}

    return Scored(scores, facts)


def suspect(pool: Pool, _wanted: int, _rng: np.random.Generator) -> Scored:
    """Confident answers that the nearest labelled texts, the rules or a second recipe deny."""
    few = np.zeros((pool.size, 0), dtype=np.int64), np.zeros((pool.size, 0))
    if len(pool.known):
        few = nearest_few(unit_rows(pool.embeddings), unit_rows(pool.known), NEIGHBOURS)
    labels = pool.known_labels[few[0]]
    scores = selection.suspect(pool.probabilities, labels, few[1])
    if pool.disagreeing is not None and pool.n_labels:
        scores = np.where(pool.disagreeing, pool.probabilities.max(axis=1), scores)

    def facts(row: int) -> Mapping[str, Any]:
        return {
            "label": int(pool.probabilities[row].argmax()),
            "probability": float(pool.probabilities[row].max()),
            "neighbour_labels": labels[row].tolist(),
            "disagreeing": bool(pool.disagreeing is not None and pool.disagreeing[row]),
        }

    return Scored(selection.tempered(scores, pool.counts), facts)


def far(pool: Pool, _wanted: int, _rng: np.random.Generator) -> Scored:
    """Texts unlike every labelled one."""
    if not len(pool.known):
        return Scored(np.ones(pool.size), lambda _: {"cosine": None, "nearest_label": None})
    places, cosines = nearest(unit_rows(pool.embeddings), unit_rows(pool.known))
    scores = selection.tempered(selection.far(cosines), pool.counts)
    return Scored(
        scores, lambda row: {"cosine": float(cosines[row]), "nearest_label": int(pool.known_labels[places[row]])}
    )


def drawn(pool: Pool, _wanted: int, rng: np.random.Generator) -> Scored:
    """Any text as likely as any other."""
    return Scored(1.0 - rng.random(pool.size))


STRATEGIES: Final[Mapping[str, Strategy]] = {
    **{name: _by_uncertainty(measure) for name, measure in selection.UNCERTAINTIES.items()},
    "cluster_margin": cluster_margin,
    "representative": representative,
    "typical": typical,
    "confusion": confusion,
    "rare": rare,
    "suspect": suspect,
    "far": far,
    "random": drawn,
}

WITHOUT_MODEL: Final = ("typical", "representative", "random")
"""Strategies that need no model; while there is none, `typical` takes the shares of the others."""
