"""What a question costs the model alone: the served artifact beside the same encoder in torch, on one thread.

Anchor: torch in fp32: MiniLM through transformers (with torch's own fused attention), `inference_mode`, one thread,
padded to the longest text of the batch, and the same head. It is fair because it is what one would write to serve this
model from torch: the same tokenizer called in the same way, and nothing computed that is not needed.

Ours is the artifact as it is served (`bench/minilm.py`): one ONNX file, chosen by
`trainer/encoders/graph_choice.py`, through `OnnxScorer.probabilities`, tokenizer and head included. Its answers are
checked before any clock starts: alone and in
batches of 8 and 32 they must be the same, and its accuracy is taken beside that of the fp32 graph, each with logistic
regression (C = 20) on its own embeddings.

Data: the questions of banking77, as they come, shuffled; accuracy on banking77 and clinc150 in their 10-shot forms.

Batches of 1, 8 and 32; five interleaved rounds; which side begins changes from round to round. The clock is the CPU
time of the thread, so that other programs on the machine add little; latency is also given by the wall clock. A ratio
is the median of the ratios of a round. For batches of 32 there is a second ratio, over texts sorted by length before
they are cut into batches, which is the best case of the anchor: nothing is padded there.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray
from app.scorers.onnx import OnnxScorer, read_model
from bench import minilm
from bench.result import Bar, Result
from trainer.encoders.graph_choice import fit_regression
from trainer.encoders.quantisation import Served

ROUNDS: Final = 5
# Batch size, and batches in a round.
BATCHES: Final = {1: 48, 8: 8, 32: 3}
LEAST_SPEEDUP: Final = {1: 6.0, 32: 3.0}
MOST_DIFFERENCE: Final = 1e-4
MOST_POINTS_LOST: Final = 0.3
COMPARED: Final = 1_024
ACCURACY_ON: Final = ("banking77", "clinc150")
SORTED: Final = "32_sorted"

Ask = Callable[[Sequence[str]], FloatArray]


@dataclass(frozen=True, slots=True)
class _Round:
    """Of one side: CPU seconds a text, and wall-clock milliseconds a batch."""

    seconds: float
    milliseconds: float


def run(*, quick: bool) -> Result:
    """Make the artifact, compare answers, time both."""
    import torch

    encoder = minilm.backbone()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / minilm.artifact(Path(folder))
        scorer, served = OnnxScorer.load(artifact), read_model(artifact)
    questions = minilm.questions()
    order = np.random.default_rng(0).permutation(len(questions))
    texts = [questions[row] for row in order]
    most, flips = _company(scorer, texts[: COMPARED // 4 if quick else COMPARED])
    lost = _points_lost(Served(served.graph, served.settings.alone, served.settings.precision), encoder, quick=quick)
    anchor = _Anchor(encoder, served.head)
    difference = float(np.abs(anchor(texts[:64]) - scorer.probabilities(texts[:64])).mean())
    rounds = _time_both(scorer.probabilities, anchor, texts)
    figures: dict[str, float] = {"labels": len(scorer.label_ids), "mean_difference_of_a_probability": difference}
    speedups = {}
    for name, (ours, theirs) in rounds.items():
        speedups[name] = round(statistics.median(t.seconds / o.seconds for o, t in zip(ours, theirs, strict=True)), 2)
        figures |= _shown(name, ours, theirs, speedups[name])
    return Result(
        figures=figures | {f"speedup_{SORTED}": speedups[SORTED], "speedup_8": speedups["8"]},
        bars={
            **{f"speedup_{size}": Bar(speedups[str(size)], at_least=least) for size, least in LEAST_SPEEDUP.items()},
            "largest_difference_alone_and_in_a_batch": Bar(most, at_most=MOST_DIFFERENCE),
            "labels_that_flip_in_a_batch": Bar(float(flips), at_most=0.0),
            **{f"points_lost_{data}": Bar(points, at_most=MOST_POINTS_LOST) for data, points in lost.items()},
        },
    )


class _Anchor:
    """The same encoder in torch with the same head, as one would write it."""

    def __init__(self, encoder: Any, head: Mapping[str, NDArray[np.float32]]) -> None:
        from tokenizers import Tokenizer

        encoder.encoder.set_attn_implementation("sdpa")
        self._encoder = encoder
        self._weights, self._bias = head["weights"], head["bias"]
        self._tokenizer = Tokenizer.from_str(encoder.tokenizer.decode("utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(encoder.max_length)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Probabilities, shape (n_texts, n_labels), not calibrated."""
        import torch

        from trainer.encoders.backbone import padded

        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        with torch.inference_mode():
            logits = self._encoder(*padded(tokens)).numpy() @ self._weights + self._bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers: FloatArray = odds / odds.sum(axis=1, keepdims=True)
        return answers


def _company(scorer: OnnxScorer, texts: Sequence[str]) -> tuple[float, int]:
    """Between each text alone and in batches of 8 and 32: the largest difference, and how many labels differ."""
    alone = np.vstack([scorer.probabilities([text]) for text in texts])
    most, flips = 0.0, 0
    for size in (8, 32):
        order = np.random.default_rng(size).permutation(len(texts))
        together = np.empty_like(alone)
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            together[rows] = scorer.probabilities([texts[row] for row in rows])
        most = max(most, float(np.abs(alone - together).max()))
        flips += int((alone.argmax(axis=1) != together.argmax(axis=1)).sum())
    print(f"alone beside in batches of 8 and 32: {len(texts)} texts, differ by at most {most:.1e}, {flips} labels flip")
    return most, flips


def _points_lost(served: Served, encoder: Any, *, quick: bool) -> dict[str, float]:
    """By data set: how much lower the accuracy is than with the fp32 graph as exported, in points."""
    encoding = minilm.encoding_of(encoder)
    exact = Served(minilm.exported(encoder), alone=False, precision="fp32")
    lost = {}
    for data in ACCURACY_ON[: 1 if quick else None]:
        train, test = minilm.rows("train_10shot", data), minilm.rows("test", data)
        names = sorted({label for _, label in train})
        targets, truth = (np.array([names.index(label) for _, label in part], dtype=np.int64) for part in (train, test))
        reached = {}
        for form in (exact, served):
            asked = encoding.encoder(form)
            judge = fit_regression(asked.embed([text for text, _ in train]), targets, len(names))
            answers = judge(asked.embed([text for text, _ in test])).argmax(axis=1)
            reached[form.precision] = float((answers == truth).mean())
        lost[data] = round(100.0 * (reached[exact.precision] - reached[served.precision]), 3)
        shown = ", ".join(f"{precision} {accuracy:.4f}" for precision, accuracy in reached.items())
        print(f"accuracy on {data}, ten texts a label: {shown}")
    return lost


def _time_both(ours: Ask, anchor: Ask, texts: Sequence[str]) -> dict[str, tuple[list[_Round], list[_Round]]]:
    """By batch size: the rounds of both sides."""
    found = {}
    for name, size in (("1", 1), ("8", 8), ("32", 32), (SORTED, 32)):
        asked = sorted(texts, key=len) if name == SORTED else list(texts)
        batches = [asked[first : first + size] for first in range(0, len(asked) - size + 1, size)]
        sides: tuple[list[_Round], list[_Round]] = ([], [])
        for number in range(ROUNDS):
            # Sorted, each round needs its share of short and long texts.
            drawn = batches[number :: max(ROUNDS, len(batches) // BATCHES[size])][: BATCHES[size]]
            for side in (0, 1) if number % 2 else (1, 0):
                sides[side].append(_time((ours, anchor)[side], drawn))
        found[name] = sides
    return found


def _time(ask: Ask, batches: Sequence[Sequence[str]]) -> _Round:
    ask(batches[0])
    waits = []
    before = time.thread_time()
    for batch in batches:
        began = time.perf_counter()
        ask(batch)
        waits.append(time.perf_counter() - began)
    seconds = time.thread_time() - before
    return _Round(seconds / sum(map(len, batches)), 1_000.0 * statistics.median(waits))


def _shown(name: str, ours: Sequence[_Round], theirs: Sequence[_Round], speedup: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for side, rounds in (("served", ours), ("torch", theirs)):
        per_second = 1.0 / statistics.median(one.seconds for one in rounds)
        wait = statistics.median(one.milliseconds for one in rounds)
        print(f"batch {name:>9} {side:>6}: {per_second:7.0f} texts/s of one core, {wait:8.2f} ms a batch by the clock")
        figures |= {f"{side}_texts_per_second_{name}": round(per_second, 1), f"{side}_ms_{name}": round(wait, 3)}
    print(f"batch {name:>9}: {speedup:.2f} x torch")
    return figures
