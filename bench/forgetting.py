"""Ten steps of 15 new labels each, on clinc150: what is still known at the end, and what each step loses.

MiniLM learns the 150 labels in ten batches, in an order drawn by the seed. Ours: `encoder`, which replays and
freezes, and the recipe `head`, which keeps the encoder as it is and fits the head anew. Anchors: plain sequential
fine-tuning (all layers, two epochs on each batch's texts alone, the head grown by new rows), which is what happens
without replay, for negative flips; and joint training (plain fine-tuning on all texts of all labels at once, four
epochs, from MiniLM), which never has to remember anything, for the final accuracy. A negative flip is a test question
of a label known before the step that was answered rightly before it and is not after it; counted as a share of such
questions, and averaged over the nine steps that have a step before them.

Figures are means over five seeds, ratios those of the means. `--quick`: one seed, five steps, few texts of each label.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import IntArray
from bench import pretrained
from bench.plain_fine_tuning import answers, fine_tune_plainly
from bench.pretrained import LabelledTexts
from bench.result import Bar, CannotRun, Result
from trainer.heads.linear_head import LinearHead
from trainer.tuning.encoder_config import EncoderConfig

if TYPE_CHECKING:
    from trainer.tuning.incremental_step import Previous

LEAST_FINAL = 0.97
MOST_FLIPS = 0.4
EPOCHS, JOINT_EPOCHS = 2, 4
PER_STEP = 15


@dataclass(frozen=True, slots=True)
class _Size:
    seeds: int
    steps: int
    per_label: int
    tested_per_label: int


FULL = _Size(seeds=5, steps=10, per_label=30, tested_per_label=30)
QUICK = _Size(seeds=1, steps=5, per_label=10, tested_per_label=6)


@dataclass(frozen=True, slots=True)
class _Course:
    """What is learned, label by label: columns are numbered in the order in which they are learned."""

    train: LabelledTexts
    test: LabelledTexts
    steps: int

    def batch(self, step: int) -> IntArray:
        """Rows of the texts whose labels come in this step."""
        found: IntArray = np.flatnonzero(self.train.targets // PER_STEP == step)
        return found

    def known(self, step: int) -> int:
        """How many labels are known behind this step."""
        return (step + 1) * PER_STEP


@dataclass(frozen=True, slots=True)
class _Learned:
    """Accuracy at the end, and the mean share of negative flips of a step."""

    accuracy: float
    flips: float


def run(*, quick: bool) -> Result:
    """Learn in all ways."""
    try:
        import torch
    except ImportError as error:
        raise CannotRun("torch is not installed: pip install torch==2.13.0 'intentloop[bench]'") from error
    torch.set_num_threads(1)
    size = QUICK if quick else FULL
    train, test = pretrained.read("clinc150", "train", "test")
    found: dict[str, list[_Learned]] = {}
    for seed in range(size.seeds):
        course = _course(train, test, size, seed)
        ways = {"encoder": _encoder, "head": _head, "plain": _plain}
        for name, way in ways.items():
            learned = _follow(course, way(course, seed))
            found.setdefault(name, []).append(learned)
            print(f"seed {seed}, {name}: accuracy {learned.accuracy:.4f}, flips a step {learned.flips:.4f}", flush=True)
        joint = _Learned(_joint(course, seed), 0.0)
        found.setdefault("joint", []).append(joint)
        print(f"seed {seed}, joint: accuracy {joint.accuracy:.4f}", flush=True)
    figures = {f"accuracy_{name}": statistics.mean(one.accuracy for one in all_) for name, all_ in found.items()}
    figures |= {
        f"flips_{name}": statistics.mean(one.flips for one in all_) for name, all_ in found.items() if name != "joint"
    }
    bars = {}
    for name in ("encoder", "head"):
        final = figures[f"accuracy_{name}"] / figures["accuracy_joint"]
        flips = figures[f"flips_{name}"] / max(figures["flips_plain"], 1e-9)
        bars[f"final_{name}"] = Bar(round(final, 4), at_least=LEAST_FINAL)
        bars[f"flips_{name}"] = Bar(round(flips, 4), at_most=MOST_FLIPS)
    return Result({name: round(value, 4) for name, value in figures.items()}, bars)


def _course(train: LabelledTexts, test: LabelledTexts, size: _Size, seed: int) -> _Course:
    rng = np.random.default_rng(seed)
    count = size.steps * PER_STEP
    order = rng.permutation(int(train.targets.max()) + 1)[:count]

    def part(data: LabelledTexts, per_label: int) -> LabelledTexts:
        rows = [rng.permutation(np.flatnonzero(data.targets == label))[:per_label] for label in order]
        numbers = np.repeat(np.arange(count), [len(some) for some in rows])
        return LabelledTexts(data.taken(np.concatenate(rows)).texts, numbers)

    return _Course(part(train, size.per_label), part(test, size.tested_per_label), size.steps)


def _follow(course: _Course, said: Iterator[IntArray]) -> _Learned:
    """`said`: behind each step, the answers to all test questions."""
    truth, before, flips = course.test.targets, None, []
    after = np.full(len(truth), -1, dtype=np.int64)
    for step, after in enumerate(said):
        if before is not None:
            asked = truth < course.known(step - 1)
            flips.append(float(((before == truth) & (after != truth))[asked].mean()))
        before = after
    return _Learned(float((after == truth).mean()), statistics.mean(flips))


def _encoder(course: _Course, seed: int) -> Iterator[IntArray]:
    from trainer.tuning.embedding import Embedder, multiplies_in_bf16
    from trainer.tuning.frozen_layers import frozen_count
    from trainer.tuning.incremental_step import Examples, train_first, train_step

    backbone, config, bf16 = pretrained.minilm(), EncoderConfig(), multiplies_in_bf16()
    whole = Examples([tuple(ids) for ids in backbone.tokens(course.train.texts)], course.train.targets)
    rows = course.batch(0)
    first = train_first(Embedder(backbone, 0, bf16=bf16), whole.taken(rows), PER_STEP, config, seed=seed)
    history = _History(rows, np.full(len(rows), -1), np.isin(np.arange(len(rows)), first.held_new))
    head = first.head
    yield answers(backbone, head, course.test.texts)
    for step in range(1, course.steps):
        embedder = Embedder(backbone, frozen_count(backbone.encoder, config.freeze_layers), bf16=bf16)
        rows = course.batch(step)
        outcome = train_step(
            embedder,
            whole.taken(rows),
            whole.taken(history.rows),
            history.previous(head, course.known(step)),
            config,
            seed=seed + step,
        )
        head = outcome.head
        history = history.extended(rows, outcome.held_new, outcome.right)
        yield answers(backbone, head, course.test.texts)


@dataclass(frozen=True, slots=True)
class _History:
    """The texts of earlier steps: their rows, whether a version had them right, and which were held out."""

    rows: IntArray
    was_right: IntArray
    held_out: NDArray[np.bool_]

    def previous(self, head: LinearHead, known: int) -> Previous:
        from trainer.tuning.incremental_step import Previous

        columns = [column if column < len(head.bias) else None for column in range(known)]
        return Previous(head, columns, self.was_right, self.held_out)

    def extended(self, rows: IntArray, held: IntArray, right: IntArray) -> _History:
        return _History(
            np.concatenate([self.rows, rows]),
            np.concatenate([np.where(right >= 0, right, self.was_right), np.full(len(rows), -1)]),
            np.concatenate([self.held_out, np.isin(np.arange(len(rows)), held)]),
        )


def _head(course: _Course, seed: int) -> Iterator[IntArray]:
    from trainer.heads.dense_head import HeadSettings, fit_head

    backbone = pretrained.minilm()
    train, test = backbone.embed(course.train.texts), backbone.embed(course.test.texts)
    for step in range(course.steps):
        rows = course.train.targets < course.known(step)
        fitted = fit_head(
            train[rows], course.train.targets[rows], course.known(step), HeadSettings(), seed, lambda _, __: None
        )
        values = test
        if fitted.kind == "hidden":
            values = np.maximum(test @ fitted.arrays["hidden_weights"] + fitted.arrays["hidden_bias"], 0.0)
        found: IntArray = (values @ fitted.arrays["weights"] + fitted.arrays["bias"]).argmax(axis=1)
        yield found


def _plain(course: _Course, seed: int) -> Iterator[IntArray]:
    backbone, head = pretrained.minilm(), None
    tokens = backbone.tokens(course.train.texts)
    for step in range(course.steps):
        rows = course.batch(step)
        head = fine_tune_plainly(
            backbone,
            [tokens[row] for row in rows],
            course.train.targets[rows],
            course.known(step),
            epochs=EPOCHS,
            seed=seed + step,
            head=head,
        )
        yield answers(backbone, head, course.test.texts)


def _joint(course: _Course, seed: int) -> float:
    backbone = pretrained.minilm()
    tokens, targets = backbone.tokens(course.train.texts), course.train.targets
    head = fine_tune_plainly(backbone, tokens, targets, course.known(course.steps - 1), epochs=JOINT_EPOCHS, seed=seed)
    return float((answers(backbone, head, course.test.texts) == course.test.targets).mean())
