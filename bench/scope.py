"""How well unknown intents are told from known ones, beside the maximum softmax of the same head.

Anchor: one minus the largest probability of a logistic regression on MiniLM's embeddings (Hendrycks & Gimpel 2017),
what services compare with a threshold. It is fair because ours reads the same embeddings and the same head, on the
same texts in the same run, and because the anchor is given the temperature that suits it better: 1, or the one that
calibrates, which makes probabilities true and a worse sign of unknown intents. Ours is `app.intent.scope`, as an
artifact carries it, fitted on training texts alone.

Data: clinc150 of the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data): 15,000 training texts of 150 labels,
its 4,500 test texts in scope, and its 1,000 test texts that are out of scope of all labels. No choice and no number of
ours was made on the latter: shrinkage, softness and weights come from leaving whole domains of the training labels out,
and from the 200 out-of-scope texts for training and validation. The same with ten texts a label is printed beside it.

The figure is 1 - AUROC, ours over the anchor's. Nothing in it is random; its 95 % interval is a paired bootstrap over
the test texts.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.calibration import Held, fit_thresholds
from app.intent.scope import Scope, fit_scope
from app.intent.text import normalise
from app.scorers.onnx_encoder import OnnxEncoder
from bench import minilm
from bench.result import Bar, CannotRun, Result
from trainer.logistic import fit_temperature, softmax

MOST_OF_THE_ANCHOR = 0.7
STRENGTH = 20.0
FOLDS = 5
RESAMPLES = 200
_ROOT = Path(__file__).parent.parent
_DATA = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data")) / "clinc150"

Embeddings = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asked:
    """Test texts: those of known labels, and those out of scope."""

    known: Embeddings
    unknown: Embeddings

    @property
    def all(self) -> Embeddings:
        """Both, the known ones first."""
        return np.vstack([self.known, self.unknown])


def run(*, quick: bool) -> Result:
    """Embed, fit with all texts and with ten a label, compare."""
    encoder = minilm.encoder()
    every = 3 if quick else 1
    known, _ = _embedded(encoder, "test", every)
    unknown, _ = _embedded(encoder, "test_oos", every)
    asked = Asked(known, unknown)
    full = _compare("a third of the texts" if quick else "all texts", *_embedded(encoder, "train", every), asked)
    figures = dict(full)
    if not quick:
        few = _compare("ten texts a label", *_embedded(encoder, "train_10shot"), asked)
        figures |= {f"ten_{name}": value for name, value in few.items()}
    return Result(figures, {"remaining_error": Bar(full["remaining_error"], at_most=MOST_OF_THE_ANCHOR)})


def _compare(name: str, embeddings: Embeddings, labels: list[str], asked: Asked) -> dict[str, float]:
    names = sorted(set(labels))
    targets = np.searchsorted(names, labels).astype(np.int64)
    logits, unseen = _head(embeddings, targets, asked.all)
    temperature = fit_temperature(logits, targets)
    scope = fit_scope(embeddings, targets, softmax(logits, temperature))
    answers = softmax(unseen, temperature)
    scores = scope.score(asked.all, answers)
    anchors = {"1": 1.0 - softmax(unseen).max(axis=1), "calibrated": 1.0 - answers.max(axis=1)}
    is_unknown = np.arange(len(scores)) >= len(asked.known)
    errors = {of: 1.0 - auroc(anchor, is_unknown) for of, anchor in anchors.items()}
    best = min(errors, key=lambda of: errors[of])
    ours = 1.0 - auroc(scores, is_unknown)
    low, high = _interval(scores, anchors[best], is_unknown)
    threshold = _threshold(logits, targets, temperature)
    figures = {
        "remaining_error": round(ours / errors[best], 4),
        "remaining_error_low": round(low, 4),
        "remaining_error_high": round(high, 4),
        "auroc": round(1.0 - ours, 5),
        "anchor_auroc": round(1.0 - errors[best], 5),
        "calibrated_anchor_auroc": round(1.0 - errors["calibrated"], 5),
        **_checks(scope, scores, answers, is_unknown, threshold),
    }
    print(
        f"{name}: AUROC {figures['auroc']:.4f}, maximum softmax {figures['anchor_auroc']:.4f} "
        f"(calibrated {figures['calibrated_anchor_auroc']:.4f}); "
        f"what is left of its error: {figures['remaining_error']:.3f} ({low:.3f} … {high:.3f})"
    )
    for kind in ("unknown", "known"):
        print(
            f"  of {kind} intents a person sees {figures[f'{kind}_checked']:.3f}, "
            f"by τ = {threshold:.2f} alone {figures[f'{kind}_checked_by_threshold']:.3f}"
        )
    return figures


def _checks(
    scope: Scope, scores: FloatArray, answers: FloatArray, is_unknown: NDArray[np.bool_], threshold: float
) -> dict[str, float]:
    """What a person is asked to look at, with the scope beside τ and by τ alone."""
    flagged, unsure = scores > scope.threshold, answers.max(axis=1) < threshold
    shares = {}
    for name, rows in (("unknown", is_unknown), ("known", ~is_unknown)):
        shares[f"{name}_flagged"] = round(float(flagged[rows].mean()), 4)
        shares[f"{name}_checked"] = round(float((flagged | unsure)[rows].mean()), 4)
        shares[f"{name}_checked_by_threshold"] = round(float(unsure[rows].mean()), 4)
    return shares


def _threshold(logits: FloatArray, targets: IntArray, temperature: float) -> float:
    answers = softmax(logits, temperature)
    return fit_thresholds(targets, Held(answers.argmax(axis=1), answers.max(axis=1))).threshold


def _head(embeddings: Embeddings, targets: IntArray, asked: Embeddings) -> tuple[FloatArray, FloatArray]:
    """Logits of the training texts out of fold, and of the asked ones; shape (n, n_labels)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    def fit(rows: IntArray) -> Any:
        return LogisticRegression(C=STRENGTH, max_iter=500).fit(embeddings[rows], targets[rows])

    logits = np.empty((len(targets), int(targets.max()) + 1))
    for inside, outside in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(embeddings, targets):
        logits[outside] = fit(inside).decision_function(embeddings[outside])
    unseen: FloatArray = fit(np.arange(len(targets))).decision_function(asked)
    return logits, unseen


def auroc(scores: FloatArray, positive: NDArray[np.bool_]) -> float:
    """The share of pairs in which the positive one scores higher, ties counting half (Mann & Whitney 1947)."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[places]
    n_positive = int(positive.sum())
    pairs = n_positive * (len(scores) - n_positive)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2.0) / pairs)


def _interval(scores: FloatArray, anchor: FloatArray, is_unknown: NDArray[np.bool_]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(scores), size=len(scores))
        ours, theirs = (1.0 - auroc(values[drawn], is_unknown[drawn]) for values in (scores, anchor))
        ratios.append(ours / theirs)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def _embedded(encoder: OnnxEncoder, part: str, every: int = 1) -> tuple[Embeddings, list[str]]:
    path = _DATA / f"{part}.jsonl.gz"
    if not path.is_file():
        raise CannotRun("clinc150 is not here: INTENTLOOP_BENCH_DATA names the folder that holds it")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()][::every]
    return encoder.embed([normalise(row["text"]) for row in rows]), [row["label"] for row in rows]
