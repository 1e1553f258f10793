"""The `ngram` recipe: TF-IDF over characters, words and word classes, and a logistic regression."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.ngram_features import FeatureSettings, Featuriser, has_han
from app.scorers.artifact import seal, write_references
from app.scorers.ngram import NgramModel, NgramScorer, read_model, write_model
from trainer.logistic import LogisticModel, class_weights, fit_logistic, fit_temperature, log_loss, softmax
from trainer.material import facts_of, material_of, write_evidence
from trainer.spec import Progress, Spec
from trainer.term_matrix import TermCounts, assign_folds, count_terms

_LIBRARIES = ("numpy", "scipy", "jieba")


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """What can be changed about the recipe; the defaults did well on Chinese and English intents alike.

    Args:
        sequence_length: longest sequence of characters over the whole text, 2 to 4.
        word_part_length: longest sequence of characters inside the words of other languages, 0 to 6.
        word_pairs: whether pairs of words are counted in other languages.
        characters_weight, sequences_weight, words_weight, classes_weight: what each block of features counts
            beside the others; above 0.
        max_features: beyond it the features of the fewest texts go; bounds time, memory and the artifact's size.
        label_balance: each text weighs count(its label) ** -label_balance: 0 as they come, 1 every label alike.
        strengths: values of scikit-learn's C, ascending; the one with the likeliest out-of-fold answers is taken.
        folds: 2 to 20.
        tolerance: when a fit has converged, relative to its first gradient.
    """

    sequence_length: int = 2
    word_part_length: int = 4
    word_pairs: bool = True
    characters_weight: float = 1.0
    sequences_weight: float = 1.0
    words_weight: float = 0.7
    classes_weight: float = 0.5
    max_features: int = 30_000
    label_balance: float = 1.0
    strengths: tuple[float, ...] = (5.0, 20.0, 80.0)
    folds: int = 4
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        bounds: dict[str, tuple[float, float]] = {
            "sequence_length": (2, 4),
            "word_part_length": (0, 6),
            "characters_weight": (0.01, 100.0),
            "sequences_weight": (0.01, 100.0),
            "words_weight": (0.01, 100.0),
            "classes_weight": (0.01, 100.0),
            "max_features": (1, 1_000_000),
            "label_balance": (0.0, 1.0),
            "folds": (2, 20),
            "tolerance": (1e-6, 0.1),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie between {low} and {high}")
        if not self.strengths or list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError("strengths must be at least one number, ascending")
        if not all(1e-4 <= strength <= 1e6 for strength in self.strengths):
            raise ValueError("strengths must lie between 0.0001 and 1000000")

    def block_weights(self) -> dict[str, float]:
        """What each block of features counts beside the others."""
        return {
            "characters": self.characters_weight,
            "sequences": self.sequences_weight,
            "words": self.words_weight,
            "classes": self.classes_weight,
        }


def train_ngram(spec: Spec, config: NgramConfig, out: Path, report: Progress) -> str:
    """Train on the spec's examples, write the artifact into the empty folder `out`, and return its digest.

    Raises:
        SpecInvalid: fewer than two labels have two texts.
    """
    material = material_of(spec)
    examples, targets = material.examples, material.targets
    report(0.0, "counting features")
    settings = FeatureSettings(
        sequence_length=config.sequence_length,
        word_part_length=config.word_part_length,
        word_pairs=config.word_pairs,
        # A language without Chinese characters has no use for a second and 90 MB of dictionary.
        dictionary=any(has_han(example.text) for example in examples),
    )
    counts = count_terms(
        [example.text for example in examples],
        Featuriser(settings),
        max_features=config.max_features,
    )
    strength, logits = choose_strength(counts, targets, config, spec.seed, report)
    temperature = fit_temperature(logits, targets)
    report(0.85, "fitting on all texts")
    everything = np.arange(len(examples))
    (fitted,), document_weights = _fit(counts, everything, targets, config, (strength,))
    model = NgramModel(
        settings, counts.vocabulary, config.block_weights(), document_weights, fitted.weights, fitted.bias
    )
    report(0.95, "writing the artifact")
    write_model(out, model)
    write_evidence(out, material, softmax(logits, temperature))
    facts = facts_of(spec, material, asdict(config), temperature, _LIBRARIES)
    facts["training"] = {"strength": strength, "features": len(document_weights)}
    # The recorded answers come from the files as they lie there, through the scorer that will serve them.
    write_references(out, NgramScorer(read_model(out), material.label_ids, temperature), spec.references)
    return seal(out, facts)


def choose_strength(
    counts: TermCounts, targets: IntArray, config: NgramConfig, seed: int, report: Progress
) -> tuple[float, FloatArray]:
    """The strength whose out-of-fold answers are the likeliest once calibrated, and the logits of those answers.

    Every part of a fold's model is made without the fold: document weights, lengths and weights. Logits have the shape
    (n_texts, n_labels).
    """
    n_folds = min(config.folds, len(targets))
    folds = assign_folds(targets, n_folds, np.random.default_rng(seed))
    logits = np.empty((len(config.strengths), len(targets), int(targets.max()) + 1))

    def answer(fold: int) -> None:
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        models, document_weights = _fit(counts, inside, targets, config, config.strengths)
        unseen = counts.weighted(outside, document_weights, config.block_weights())
        for path, model in zip(logits, models, strict=True):
            path[outside] = model.logits(unseen)

    # Threads are enough: the time goes into numpy and scipy, which leave the interpreter to others meanwhile.
    with ThreadPoolExecutor(max_workers=min(n_folds, os.cpu_count() or 1)) as threads:
        for done, _ in enumerate(threads.map(answer, range(n_folds)), 1):
            report(0.05 + 0.75 * done / n_folds, f"fold {done} of {n_folds}")
    losses = [log_loss(path, targets, fit_temperature(path, targets)) for path in logits]
    best = int(np.argmin(losses))
    return config.strengths[best], logits[best]


def _fit(
    counts: TermCounts, rows: IntArray, targets: IntArray, config: NgramConfig, strengths: tuple[float, ...]
) -> tuple[list[LogisticModel], NDArray[np.float32]]:
    """A model for each strength, each started from the one before, and the document weights of `rows`."""
    document_weights = counts.document_weights(rows)
    features = counts.weighted(rows, document_weights, config.block_weights())
    n_labels = int(targets.max()) + 1
    text_weights = class_weights(targets[rows], n_labels, config.label_balance)
    models: list[LogisticModel] = []
    for strength in strengths:
        models.append(
            fit_logistic(
                features,
                targets[rows],
                text_weights,
                n_labels,
                strength=strength,
                start=models[-1] if models else None,
                tolerance=config.tolerance,
            )
        )
    return models, document_weights
