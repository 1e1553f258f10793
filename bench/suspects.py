"""How many of the labels that look most wrong are wrong, beside a ranking by self-confidence.

Anchor: the given label's out-of-fold probability, lowest first, what people look at first and what confident learning
itself ranks by. It is fair because ours reads the very same probabilities, in the same run, of the same five folds;
beside them it reads the texts' embeddings, which a service has too. cleanlab's rankings, of the same probabilities, are
printed where it is installed.

Data: the training texts of smp2017-ecdt (recipe `ngram`: its features and its fit) and clinc150 (a linear head on
MiniLM's embeddings), of the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data). Of each, 10 % of the labels are
replaced by any other label, and 10 % by the one that the label is confused with most (out of fold, with the labels as
they were): both in one set, and each kind alone. The figure is the share of replaced labels among the n most suspect,
where n labels were replaced, ours over the anchor's; mean over five seeds, which decide what is replaced, by what, and
the folds.

No share is above 1, and `most` is what a perfect ranking would reach: of labels that were replaced by any other, alone,
the anchor finds nine of ten and more, and no ranking is 1.1 times as good. That bar is missed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.ngram_features import FeatureSettings, Featuriser, has_han
from app.intent.suspects import Labelled, Suspects, find_suspects
from app.intent.text_embedding import embed_texts
from bench.accuracy import FORMS, Task, read_task
from bench.result import Bar, Result
from trainer.heads.dense_logistic import fit_linear
from trainer.logistic import class_weights, fit_temperature, softmax
from trainer.ngram import NgramConfig, choose_strength
from trainer.term_matrix import assign_folds, count_terms

SEEDS = (0, 1, 2, 3, 4)
FOLDS = 5
SHARE = 0.1
STRENGTH = 20.0
LEAST_LEAD = 1.1
SETS = ("smp2017-ecdt", "clinc150")

# Labels and a seed -> calibrated out-of-fold probabilities, shape (n_texts, n_labels).
OutOfFold = Callable[[IntArray, int], FloatArray]


@dataclass(frozen=True, slots=True)
class Material:
    """A data set: its true labels, how to answer it out of fold, and its embeddings as a service has them."""

    truth: IntArray
    out_of_fold: OutOfFold
    embeddings: Any


def run(*, quick: bool) -> Result:
    """Replace labels, answer out of fold, rank, count."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for name in SETS[:1] if quick else SETS:
        material = _material(name)
        confused = most_confused(material.out_of_fold(material.truth, 0), material.truth)
        for noise in NOISES:
            found = [_compare(material, noise, confused, seed) for seed in (SEEDS[:2] if quick else SEEDS)]
            mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
            leads = [one["ours"] / one["anchor"] for one in found]
            mean |= {"lead": float(np.mean(leads)), "most": 1.0 / mean["anchor"]}
            figures |= {f"{name}.{noise}.{key}": round(value, 4) for key, value in mean.items()}
            bars[f"{name}.{noise}.lead"] = Bar(round(mean["lead"], 4), at_least=LEAST_LEAD)
            shown = ", ".join(f"{key} {value:.4f}" for key, value in mean.items())
            print(f"{name:>13}, {noise:>8}: {shown}", flush=True)
    return Result(figures, bars)


def _compare(material: Material, noise: str, confused: IntArray, seed: int) -> dict[str, float]:
    given = NOISES[noise](material.truth, confused, np.random.default_rng([seed, len(noise)]))
    probabilities = material.out_of_fold(given, seed)
    wrong = given != material.truth
    own = probabilities[np.arange(len(given)), given]
    suspects = find_suspects(Labelled(probabilities, given, material.embeddings))
    alone = find_suspects(Labelled(probabilities, given))
    return {
        "anchor": precision(-own, wrong),
        "ours": precision(suspects.suspicion, wrong),
        "ours_without_embeddings": precision(alone.suspicion, wrong),
        **_shown(suspects, wrong),
        **{name: precision(scores, wrong) for name, scores in _by_cleanlab(probabilities, given).items()},
    }


def precision(scores: FloatArray, wrong: Any) -> float:
    """The share of wrong ones among the highest scores, of as many as there are wrong ones; the first of equals."""
    highest = np.argsort(-scores, kind="stable")[: int(wrong.sum())]
    return float(wrong[highest].mean())


def _shown(suspects: Suspects, wrong: Any) -> dict[str, float]:
    """Of the labels that look wrong: how many they are for each wrong one, and the share of wrong ones among them."""
    shown = suspects.looks_wrong
    return {
        "look_wrong": float(shown.sum() / wrong.sum()),
        "look_wrong_rightly": float(wrong[shown].mean()) if shown.any() else 0.0,
    }


def _by_cleanlab(probabilities: FloatArray, given: IntArray) -> Mapping[str, FloatArray]:
    """cleanlab's scores of the same probabilities, turned to ours: higher is more likely wrong."""
    with contextlib.suppress(ImportError):
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        rows = probabilities / probabilities.sum(axis=1, keepdims=True)
        adjusted, margin = (
            -get_label_quality_scores(given, rows, method=method, adjust_pred_probs=adjust)
            for method, adjust in (("self_confidence", True), ("normalized_margin", False))
        )
        issues = find_label_issues(given, rows, filter_by="prune_by_noise_rate", n_jobs=1)
        own = rows[np.arange(len(given)), given]
        return {
            "cleanlab_margin": margin,
            "cleanlab_adjusted": adjusted,
            # What it takes for issues first, by noise rate, then the rest; each by self-confidence.
            "cleanlab_issues": issues.astype(np.float64) + 1.0 - own,
        }
    return {}


def most_confused(probabilities: FloatArray, truth: IntArray) -> IntArray:
    """For each label the other one that most of its texts are answered with; of equals the likelier by probability."""
    n_labels = probabilities.shape[1]
    times = np.zeros((n_labels, n_labels))
    np.add.at(times, (truth, probabilities.argmax(axis=1)), 1.0)
    likely = np.zeros((n_labels, n_labels))
    np.add.at(likely, truth, probabilities)
    # Below 1 for all of a label: it decides between equals alone.
    times += likely / (likely.sum(axis=1, keepdims=True) + 1.0)
    np.fill_diagonal(times, -1.0)
    found: IntArray = times.argmax(axis=1).astype(np.int64)
    return found


def replace_by_any(truth: IntArray, confused: IntArray, rng: np.random.Generator) -> IntArray:
    """10 % of the labels replaced by another, each other alike."""
    given, rows = truth.copy(), _drawn(truth, rng)
    given[rows] = (truth[rows] + rng.integers(1, len(confused), len(rows))) % len(confused)
    return given


def replace_by_confused(truth: IntArray, confused: IntArray, rng: np.random.Generator) -> IntArray:
    """10 % of the labels replaced by the one that they are confused with most."""
    given, rows = truth.copy(), _drawn(truth, rng)
    given[rows] = confused[truth[rows]]
    return given


def replace_by_both(truth: IntArray, confused: IntArray, rng: np.random.Generator) -> IntArray:
    """10 % of the labels replaced by any other, and 10 % by the one that they are confused with most."""
    given, rows = truth.copy(), rng.permutation(len(truth))
    share = round(SHARE * len(truth))
    by_any, by_confused = rows[:share], rows[share : 2 * share]
    given[by_any] = (truth[by_any] + rng.integers(1, len(confused), share)) % len(confused)
    given[by_confused] = confused[truth[by_confused]]
    return given


def _drawn(truth: IntArray, rng: np.random.Generator) -> IntArray:
    return rng.choice(len(truth), round(SHARE * len(truth)), replace=False)


NOISES: Mapping[str, Callable[[IntArray, IntArray, np.random.Generator], IntArray]] = {
    "both": replace_by_both,
    "random": replace_by_any,
    "confused": replace_by_confused,
}


def _material(name: str) -> Material:
    (form,) = (form for form in FORMS if form.name == name)
    task = read_task(form)
    if name == "clinc150":
        return Material(task.targets, _by_head(task), task.embeddings)
    return Material(task.targets, _by_ngram(task), embed_texts(task.texts))


def _by_ngram(task: Task) -> OutOfFold:
    config = NgramConfig(folds=FOLDS)
    settings = FeatureSettings(dictionary=any(map(has_han, task.texts)))
    counts = count_terms(task.texts, Featuriser(settings), max_features=config.max_features)

    def answer(given: IntArray, seed: int) -> FloatArray:
        _, logits = choose_strength(counts, given, config, seed, lambda *_: None)
        return softmax(logits, fit_temperature(logits, given))

    return answer


def _by_head(task: Task) -> OutOfFold:
    n_labels = len(task.labels)

    def answer(given: IntArray, seed: int) -> FloatArray:
        folds = assign_folds(given, FOLDS, np.random.default_rng(seed))
        logits = np.empty((len(given), n_labels))
        for fold in range(FOLDS):
            inside = folds != fold
            (head,) = fit_linear(
                task.embeddings[inside],
                given[inside],
                class_weights(given[inside], n_labels, 1.0),
                n_labels,
                strengths=(STRENGTH,),
                tolerance=1e-2,
            )
            logits[~inside] = head.logits(task.embeddings[~inside])
        return softmax(logits, fit_temperature(logits, given))

    return answer
