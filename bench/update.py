"""Taking in 100 new labels on top of 2,000: how long the recipes `head` and `encoder` take, and how good they are.

Times are of a random encoder of BERT-base's size that reads the questions of banking77. Anchors: for `head`, plain
fine-tuning on all labels so far, all layers and two epochs, which is what taking in labels costs without a frozen
encoder; for `encoder`, plain fine-tuning on the very number of texts that it trains on, 100 new and 100 replayed. What
`encoder` does besides counts as its time: choosing what is replayed, judging held-out texts, distillation, mixing
weights, reading and writing what it keeps. The old texts' activations are kept from the batch before, as they are in
use; the new texts' are computed. Without them the ratio is printed too. Plain fine-tuning on all labels is taken as the
time on 200 texts times the number of texts: its cost is steps, and all steps are alike. Writing the artifact (export
and choice of a graph) is left out on both sides; `head` has done it once for all batches.

Measured is the processor's time of this process on one thread, ours and the anchor in turn; figures are medians of the
ratios of a round.

Quality is of MiniLM on banking77, judged on the test questions: 2,000 texts make a first version, 100 more make a step.
The anchor is a full fine-tune on all 2,100 from MiniLM, the better of two: plain fine-tuning for two epochs, which ends
before it is done with so few texts, and the recipe's own first version, which is not told when to end. Five seeds draw
the texts. From the same first version the step is taken in bfloat16 and in fp32: whether the fast way is as good.

`--quick`: one round with 32 new labels; quality of one seed on 600 texts and a part of the test questions.
INTENTLOOP_BENCH_ONLY=times or quality runs one of the two.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import pretrained
from bench.choice import chosen
from bench.plain_fine_tuning import answers, fine_tune_plainly
from bench.pretrained import LabelledTexts
from bench.result import Bar, CannotRun, Result
from trainer.heads.linear_head import LinearHead
from trainer.tuning.encoder_config import EncoderConfig

if TYPE_CHECKING:
    from trainer.encoders.backbone import Backbone

LEAST = {"head_ratio": 100.0, "fp32_ratio": 2.3, "bf16_ratio": 5.0, "accuracy_ratio": 0.99}
EPOCHS = 2
FROZEN = 8
_clock = time.process_time


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    new: int
    old: int
    seeds: int
    quality_old: int
    tested: int


FULL = _Size(rounds=5, new=100, old=2_000, seeds=5, quality_old=2_000, tested=3_080)
QUICK = _Size(rounds=1, new=32, old=640, seeds=1, quality_old=600, tested=500)


def run(*, quick: bool) -> Result:
    """Measure both."""
    try:
        import torch
    except ImportError as error:
        raise CannotRun("torch is not installed: pip install torch==2.13.0 'intentloop[bench]'") from error
    torch.set_num_threads(1)
    size = QUICK if quick else FULL
    train, test = pretrained.read("banking77", "train", "test")
    parts = {"times": lambda: _times(size, train), "quality": lambda: _quality(size, train, test)}
    figures: dict[str, float] = {}
    (wanted,) = chosen(list(parts))
    for part in wanted:
        figures |= parts[part]()
    bars = {name: Bar(figures[name], at_least=least) for name, least in LEAST.items() if name in figures}
    missing = tuple(name for name in LEAST if name not in figures)
    return Result(figures, bars, missing)


def _times(size: _Size, train: LabelledTexts) -> dict[str, float]:
    from trainer.tuning.embedding import multiplies_in_bf16

    rng = np.random.default_rng(0)
    rows = rng.permutation(len(train))
    old, new = train.taken(rows[: size.old]), train.taken(rows[size.old : size.old + size.new])
    kinds = ["fp32"]
    if multiplies_in_bf16():
        kinds.append("bf16")
    else:
        print("this processor does not multiply in bfloat16: that bar is not measured here")
    rounds: dict[str, list[float]] = {}
    for number in range(size.rounds):
        plain = _plain(train.taken(rng.permutation(len(train))[: 2 * size.new]), number)
        measured = {"plain_seconds": plain}
        on_all = plain * (size.old + size.new) / (2 * size.new)
        measured["head_ratio"] = on_all / _head(old, new)
        for kind in kinds:
            for kept in (True, False):
                took = _encoder(old, new, bf16=kind == "bf16", kept=kept)
                measured[f"{kind}_ratio" if kept else f"{kind}_ratio_nothing_kept"] = plain / took
        print(", ".join(f"{name} {value:.2f}" for name, value in measured.items()), flush=True)
        for name, value in measured.items():
            rounds.setdefault(name, []).append(value)
    return {name: round(statistics.median(values), 2) for name, values in rounds.items()}


def _plain(data: LabelledTexts, seed: int) -> float:
    backbone = pretrained.random_bert_base()
    tokens = backbone.tokens(data.texts)
    start = _clock()
    fine_tune_plainly(backbone, tokens, data.targets, _labels(), epochs=EPOCHS, seed=seed)
    return _clock() - start


def _head(old: LabelledTexts, new: LabelledTexts) -> float:
    """From the new texts to a head on all: embeddings of the new ones, and a fit."""
    from trainer.encoders.graph_choice import Encoding
    from trainer.encoders.onnx_export import export_graph
    from trainer.encoders.quantisation import fused, quantise
    from trainer.heads.dense_head import HeadSettings, fit_head

    backbone = pretrained.random_bert_base()
    graph = quantise(fused(export_graph(backbone), max_length=backbone.max_length))
    encoder = Encoding(backbone.tokenizer, backbone.max_length, backbone.dimension).encoder(graph)
    known = np.random.default_rng(0).normal(size=(len(old), 768)).astype(np.float32)
    # Every label alike, which a fit needs and a small draw need not have; what is right does not matter here.
    targets = np.arange(len(old) + len(new), dtype=np.int64) % _labels()
    start = _clock()
    embeddings = np.vstack([known, encoder.embed(new.texts)])
    fit_head(embeddings, targets, _labels(), HeadSettings(), 0, lambda _, __: None)
    return _clock() - start


def _encoder(old: LabelledTexts, new: LabelledTexts, *, bf16: bool, kept: bool) -> float:
    """One step of the recipe, from tokens to weights."""
    from trainer.tuning.activation_cache import ActivationCache
    from trainer.tuning.embedding import Embedder
    from trainer.tuning.incremental_step import Examples, Previous, train_step

    backbone = pretrained.random_bert_base()
    olds, news = (Examples([tuple(ids) for ids in backbone.tokens(part.texts)], part.targets) for part in (old, new))
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(768, _labels())).astype(np.float32), np.zeros(_labels(), np.float32))
    held = rng.random(len(old)) < 0.15
    previous = Previous(head, list(range(_labels())), np.full(len(old), -1), held)
    with tempfile.TemporaryDirectory() as folder:
        if kept:
            cache = ActivationCache(Path(folder), olds.tokens)
            Embedder(backbone, FROZEN, bf16=bf16).prepared(olds.tokens, cache)
            cache.save()
        start = _clock()
        cache = ActivationCache(Path(folder), [*olds.tokens, *news.tokens])
        embedder = Embedder(backbone, FROZEN, bf16=bf16)
        # As many are trained on as by the anchor: what is held out besides is an extra.
        config = EncoderConfig(freeze_layers=FROZEN, held_out=0.0)
        train_step(embedder, news, olds, previous, config, seed=0, kept=cache)
        cache.save()
        return _clock() - start


# Quality


def _quality(size: _Size, train: LabelledTexts, test: LabelledTexts) -> dict[str, float]:
    tested = test.taken(np.random.default_rng(0).permutation(len(test))[: size.tested])
    found: dict[str, list[float]] = {}
    for seed in range(size.seeds):
        rows = np.random.default_rng(seed).permutation(len(train))
        old = train.taken(rows[: size.quality_old])
        new = train.taken(rows[size.quality_old : size.quality_old + size.new])
        measured = {kind: _accuracy(*stepped, tested) for kind, stepped in _stepped(old, new, seed)}
        measured["plain"] = _accuracy(*_whole(old, new, seed), tested)
        measured["first_on_all"] = _accuracy(*_first_on_all(old, new, seed), tested)
        print(
            f"seed {seed}, accuracy:", ", ".join(f"{kind} {value:.4f}" for kind, value in measured.items()), flush=True
        )
        for kind, value in measured.items():
            found.setdefault(kind, []).append(value)
    # What the recipe takes by itself: bfloat16 where the processor multiplies in it.
    ours = found.get("bf16", found["fp32"])
    figures = {f"accuracy_{kind}": round(statistics.mean(values), 4) for kind, values in found.items()}
    anchors = [max(both) for both in zip(found["plain"], found["first_on_all"], strict=True)]
    ratios = [a / b for a, b in zip(ours, anchors, strict=True)]
    return figures | {"accuracy_ratio": round(statistics.median(ratios), 4)}


def _stepped(old: LabelledTexts, new: LabelledTexts, seed: int) -> Iterator[tuple[str, tuple[Backbone, LinearHead]]]:
    """A first version on the old texts, and from it a step with the new ones, in each kind of numbers."""
    from trainer.tuning.embedding import Embedder, multiplies_in_bf16
    from trainer.tuning.frozen_layers import frozen_count
    from trainer.tuning.incremental_step import Examples, Previous, train_first, train_step

    config, fast = EncoderConfig(), multiplies_in_bf16()
    begun = pretrained.minilm()
    olds, news = (Examples([tuple(ids) for ids in begun.tokens(part.texts)], part.targets) for part in (old, new))
    first = train_first(Embedder(begun, 0, bf16=fast), olds, _labels(), config, seed=seed)
    held = np.isin(np.arange(len(olds)), first.held_new)
    previous = Previous(first.head, list(range(_labels())), np.full(len(olds), -1), held)
    for kind in ("bf16", "fp32") if fast else ("fp32",):
        backbone = copy.deepcopy(begun)
        embedder = Embedder(backbone, frozen_count(backbone.encoder, config.freeze_layers), bf16=kind == "bf16")
        yield kind, (backbone, train_step(embedder, news, olds, previous, config, seed=seed).head)


def _whole(old: LabelledTexts, new: LabelledTexts, seed: int) -> tuple[Backbone, LinearHead]:
    backbone = pretrained.minilm()
    tokens = backbone.tokens([*old.texts, *new.texts])
    targets = np.concatenate([old.targets, new.targets])
    return backbone, fine_tune_plainly(backbone, tokens, targets, _labels(), epochs=EPOCHS, seed=seed)


def _first_on_all(old: LabelledTexts, new: LabelledTexts, seed: int) -> tuple[Backbone, LinearHead]:
    """The recipe's full fine-tune: a first version on the old and the new texts."""
    from trainer.tuning.embedding import Embedder, multiplies_in_bf16
    from trainer.tuning.incremental_step import Examples, train_first

    backbone = pretrained.minilm()
    tokens = [tuple(ids) for ids in backbone.tokens([*old.texts, *new.texts])]
    examples = Examples(tokens, np.concatenate([old.targets, new.targets]))
    embedder = Embedder(backbone, 0, bf16=multiplies_in_bf16())
    return backbone, train_first(embedder, examples, _labels(), EncoderConfig(), seed=seed).head


def _accuracy(backbone: Backbone, head: LinearHead, tested: LabelledTexts) -> float:
    return float((answers(backbone, head, tested.texts) == tested.targets).mean())


def _labels() -> int:
    """Of banking77."""
    return 77
