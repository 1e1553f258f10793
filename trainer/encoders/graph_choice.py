"""Choose the graph that is served: the fastest form that is as good as fp32 and answers a text alike in any company."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.evaluation import macro_f1
from app.scorers.artifact import ArtifactCorrupt
from app.scorers.onnx_encoder import EncoderSettings, OnnxEncoder
from trainer.encoders.quantisation import PRECISIONS, CannotQuantise, Served, fused, quantise

# In shares of 1: three tenths of a point.
MOST_LOSS: Final = 0.003
MOST_DIFFERENCE: Final = 1e-4
# More texts hardly move the figures, and each is run by every form that is tried.
MOST_CHECKED: Final = 1_000
MOST_PAIRED: Final = 256
TOGETHER: Final = 32
FOLDS: Final = 3
_ROUNDS: Final = 5
_TIMED: Final = 8
_ROUNDING: Final = 6

# From embeddings, shape (n_texts, dimension), to probabilities, shape (n_texts, n_labels).
Judge = Callable[[NDArray[np.float32]], FloatArray]
# From embeddings, their targets, and the number of labels to a judge. It must always give the same one.
Fit = Callable[[NDArray[np.float32], IntArray, int], Judge]


@dataclass(frozen=True, slots=True)
class Encoding:
    """What turns texts into a graph's input: a `tokenizer.json`, tokens read of a text, numbers in an embedding."""

    tokenizer: bytes
    max_length: int
    dimension: int

    def encoder(self, served: Served) -> OnnxEncoder:
        """This graph as it will serve.

        Raises:
            ArtifactCorrupt: it cannot be served.
        """
        return OnnxEncoder(self.settings(served), served.graph, self.tokenizer)

    def settings(self, served: Served) -> EncoderSettings:
        """How this graph is to be asked."""
        return EncoderSettings(self.max_length, self.dimension, served.alone, served.precision)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one form was found to be worth on the texts of the check. Shares are of 1.

    Args:
        macro_f1: of heads that were fitted on this form's own embeddings and had not seen the text; as `accuracy`.
        agreement: texts that get the same label as from fp32.
        most_difference: of a probability, between a text alone and in a batch of `TOGETHER`.
        flips: texts whose label differs between the two.
        bytes: size of the graph.
    """

    precision: str
    passes: bool
    macro_f1: float
    accuracy: float
    agreement: float
    most_difference: float
    flips: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The graph to serve and why.

    Args:
        facts: for the manifest: the same texts and graph give the same facts.
        speed: by precision, how many times as fast as fp32 as exported, alone (`batch_1`) and in batches of `TOGETHER`
            (`batch_32`), on one thread. It differs from run to run: in a manifest it would change the artifact's name.
    """

    served: Served
    facts: Mapping[str, Any]
    speed: Mapping[str, Mapping[str, float]]


def choose(
    graph: bytes,
    encoding: Encoding,
    texts: Sequence[str],
    targets: IntArray,
    fit: Fit,
    *,
    precisions: Sequence[str] = PRECISIONS,
    report: Callable[[float, str], None] = lambda _progress, _stage: None,
) -> Choice:
    """Take the first of `precisions` whose macro-F1 is at most `MOST_LOSS` below fp32's and whose answers stay alike.

    Where none passes, or none can be made, fp32 as it was exported serves.

    Args:
        graph: fp32, as `trainer.encoders.onnx_export` writes it.
        texts: labelled ones of the domain; of more than `MOST_CHECKED` a share of every label is looked at.
        targets: shape (n_texts,), columns from 0 on.
        fit: the head that the artifact will have, or one like it.

    Raises:
        ValueError: fewer than two labels.
    """
    check = _Check.of(texts, targets, fit)
    exact = Served(graph, alone=False, precision="fp32")
    anchor = encoding.encoder(exact)
    report(0.0, "checking fp32")
    expected = check.answers(anchor)
    joined = fused(graph, max_length=encoding.max_length)
    figures: list[Figures] = []
    speed: dict[str, Mapping[str, float]] = {}
    chosen = exact
    for number, precision in enumerate(precisions, 1):
        report(number / (len(precisions) + 1), f"checking {precision}")
        try:
            served = quantise(joined, precision)
            encoder = encoding.encoder(served)
        except (CannotQuantise, ArtifactCorrupt):
            continue
        found = check.figures(encoder, served, expected)
        speed[precision] = check.speed(anchor, encoder)
        figures.append(found)
        if found.passes:
            chosen = served
            break
    facts = {
        "precision": chosen.precision,
        "fused_attention": chosen.graph is not graph and joined is not graph,
        "checked_texts": len(check.texts),
        "fp32_macro_f1": round(macro_f1(check.targets, expected), _ROUNDING),
        "fp32_accuracy": round(float((expected == check.targets).mean()), _ROUNDING),
        "forms": [asdict(found) for found in figures],
    }
    return Choice(chosen, facts, speed)


def fit_regression(embeddings: NDArray[np.float32], targets: IntArray, n_labels: int) -> Judge:
    """Logistic regression with C = 20: close to what any head makes of these embeddings, and fast."""
    from sklearn.linear_model import LogisticRegression

    known = np.unique(targets)
    if len(known) == 1:
        return lambda asked: np.eye(n_labels)[np.full(len(asked), known[0])]
    fitted = LogisticRegression(C=20.0, max_iter=500).fit(embeddings, targets)

    def judge(asked: NDArray[np.float32]) -> FloatArray:
        answers = np.zeros((len(asked), n_labels))
        answers[:, fitted.classes_] = fitted.predict_proba(asked)
        return answers

    return judge


@dataclass(frozen=True, slots=True)
class _Check:
    """Labelled texts, and for each the fold whose head does not see it."""

    texts: list[str]
    targets: IntArray
    folds: IntArray
    fit: Fit

    @classmethod
    def of(cls, texts: Sequence[str], targets: IntArray, fit: Fit) -> _Check:
        if len(np.unique(targets)) < 2:
            raise ValueError("a graph can be checked only on texts of two labels or more")
        # By label, so that every share of the rows has its share of every label.
        order = np.argsort(targets, kind="stable")
        rows = order[np.linspace(0, len(order) - 1, min(len(order), MOST_CHECKED)).astype(np.int64)]
        return cls([texts[row] for row in rows], targets[rows], np.arange(len(rows)) % FOLDS, fit)

    def answers(self, encoder: OnnxEncoder) -> IntArray:
        """The label that heads fitted on the other folds give each text."""
        return self._answers(encoder.embed(self.texts))

    def figures(self, encoder: OnnxEncoder, served: Served, expected: IntArray) -> Figures:
        embeddings = encoder.embed(self.texts)
        answers = self._answers(embeddings)
        difference, flips = self._company(encoder, self.fit(embeddings, self.targets, self._n_labels))
        reached, needed = macro_f1(self.targets, answers), macro_f1(self.targets, expected) - MOST_LOSS
        return Figures(
            precision=served.precision,
            passes=reached >= needed and difference <= MOST_DIFFERENCE and not flips,
            macro_f1=round(reached, _ROUNDING),
            accuracy=round(float((answers == self.targets).mean()), _ROUNDING),
            agreement=round(float((answers == expected).mean()), _ROUNDING),
            most_difference=round(difference, _ROUNDING),
            flips=flips,
            bytes=len(served.graph),
        )

    def speed(self, anchor: OnnxEncoder, encoder: OnnxEncoder) -> Mapping[str, float]:
        """How many times as fast as the anchor: the median over rounds in which both are asked the same."""
        few = self._mixed()[: _TIMED * TOGETHER]
        found = {}
        for size, batches in ((1, [[text] for text in few[:_TIMED]]), (TOGETHER, [few[:TOGETHER]])):
            ratios = [_seconds(anchor, batches) / _seconds(encoder, batches) for _ in range(_ROUNDS)]
            found[f"batch_{size}"] = round(statistics.median(ratios), 2)
        return found

    @property
    def _n_labels(self) -> int:
        return int(self.targets.max()) + 1

    def _answers(self, embeddings: NDArray[np.float32]) -> IntArray:
        answers = np.empty(len(self.targets), dtype=np.int64)
        for fold in np.unique(self.folds):
            inside = self.folds != fold
            judge = self.fit(embeddings[inside], self.targets[inside], self._n_labels)
            answers[~inside] = judge(embeddings[~inside]).argmax(axis=1)
        return answers

    def _company(self, encoder: OnnxEncoder, judge: Judge) -> tuple[float, int]:
        """Between each text alone and in a batch: the largest difference of a probability, and labels that differ."""
        asked = self._mixed()[:MOST_PAIRED]
        alone = judge(np.vstack([encoder.embed([text]) for text in asked]))
        batches = [asked[first : first + TOGETHER] for first in range(0, len(asked), TOGETHER)]
        together = judge(np.vstack([encoder.embed(batch) for batch in batches]))
        flips = int((alone.argmax(axis=1) != together.argmax(axis=1)).sum())
        return float(np.abs(alone - together).max()), flips

    def _mixed(self) -> list[str]:
        """The texts in an order in which neighbours have different labels and lengths."""
        return [self.texts[row] for row in np.random.default_rng(0).permutation(len(self.texts))]


def _seconds(encoder: OnnxEncoder, batches: Sequence[Sequence[str]]) -> float:
    """Of this thread's own time, which other processes on the machine do not add to."""
    started = time.thread_time()
    for batch in batches:
        encoder.embed(batch)
    return max(time.thread_time() - started, 1e-9)
