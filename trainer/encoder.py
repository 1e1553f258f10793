"""The `encoder` recipe: fine-tune a pretrained encoder with a linear head, going on from the version that serves.

The first version starts from the domain's base model and is trained on every text. A later one continues from its
parent: new texts, some old ones replayed beside them, the lowest layers kept as they are. Without anything new it is
trained anew from the base.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.artifacts.measured import write_measured
from app.intent.arrays import IntArray
from trainer.encoders.backbone import Backbone, load_backbone
from trainer.encoders.onnx_artifact import FittedHead, encoder_alone, write_onnx_artifact
from trainer.encoders.served_encoder import ServedEncoder
from trainer.encoders.serving_form import serve
from trainer.head import names_of
from trainer.heads.linear_head import LinearHead
from trainer.logistic import fit_temperature, softmax
from trainer.material import Material, base_of, material_of
from trainer.spec import Progress, Spec, SpecInvalid
from trainer.tuning.activation_cache import ActivationCache
from trainer.tuning.embedding import Embedder, best_device, multiplies_in_bf16
from trainer.tuning.encoder_config import EncoderConfig
from trainer.tuning.encoder_folder import Start, read_parent, write_for_next_step
from trainer.tuning.frozen_layers import Tokens, TooFewLayers, frozen_count
from trainer.tuning.held_out_scope import fit_held_out_scope, rows_for_scope
from trainer.tuning.incremental_step import Examples, Outcome, Previous, train_first, train_step

# Memory, not sums, bounds how many threads help: and the service runs on the same cores.
MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class _Trained:
    """A trained encoder: the one that is served, and the texts that judge it.

    Args:
        held: rows of the material that `judge` was not trained on.
        judge: what answers for the held-out texts: the backbone, or its twin that had not seen them.
        right: for each text of the material whether a version of this step had it right: 1, 0, or -1.
    """

    backbone: Backbone
    head: LinearHead
    held: IntArray
    judge: Backbone
    judge_head: LinearHead
    right: IntArray
    facts: Mapping[str, Any]
    base: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """An artifact by its digest, and how fast its graph was found to be beside others."""

    digest: str
    speed: Mapping[str, Any]


def train_encoder(spec: Spec, config: EncoderConfig, out: Path, report: Progress) -> str:
    """Train on the spec's examples, write the artifact into the empty folder `out`, and return its digest.

    Raises:
        SpecInvalid: fewer than two labels have two texts, the base or the parent cannot be used, or training diverged.
    """
    prepare_torch()
    written = train_from(_parent(spec), spec, config, out, report)
    write_measured(out, {"speed": written.speed})
    return written.digest


def train_from(start: Start | None, spec: Spec, config: EncoderConfig, out: Path, report: Progress) -> Written:
    """As `train_encoder`, from a given start; None is the spec's base."""
    material = material_of(spec, from_elsewhere=start.from_elsewhere if start is not None else ())
    try:
        new = _new_rows(material, start) if start is not None else np.empty(0, dtype=np.int64)
        if start is None or not len(new):
            material = material_of(spec)
            trained = _first(spec, config, material, report)
        else:
            trained = _step(spec, config, material, start, new, report)
    except TooFewLayers as error:
        raise SpecInvalid(f"the config cannot be used: {error}") from error
    except FloatingPointError as error:
        raise SpecInvalid(f"training came apart: {error}") from error
    return _write(spec, config, out, material, trained, _between(0.9, 1.0, report))


def prepare_torch() -> None:
    """The same sums in the same order, every time on this machine."""
    # Read by CUDA when it starts; without it, its matrix products differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(min(torch.get_num_threads(), MOST_THREADS))
    # Accelerators have no deterministic form of some sums; there they may differ in the last bits.
    torch.use_deterministic_algorithms(True, warn_only=best_device().type != "cpu")


def _first(spec: Spec, config: EncoderConfig, material: Material, report: Progress) -> _Trained:
    base = base_of(spec)
    told = {"base": {"name": base.name, "digest": base.digest, "kind": base.kind}}
    backbone = load_backbone(base.folder, max_length=config.max_length)
    examples = _examples(backbone, material)
    names = [tuple(ids) for ids in backbone.tokens(names_of(spec, material))]

    def fit(begin: float, end: float, config: EncoderConfig, held: IntArray | None) -> tuple[Backbone, Outcome]:
        fresh = load_backbone(base.folder, max_length=config.max_length) if held is not None else backbone
        embedder = _embedder(fresh, config, config.first_freeze_layers)
        outcome = train_first(
            embedder,
            examples,
            len(material.label_ids),
            config,
            seed=spec.seed,
            names=names,
            held=held,
            report=_between(begin, end, report),
        )
        return fresh, outcome

    end = 0.45 if config.first_refit else 0.9
    judge, outcome = fit(0.0, end, config, None)
    right = np.full(len(examples), -1, dtype=np.int64)
    if not config.first_refit or not len(outcome.held_new):
        return _Trained(judge, outcome.head, outcome.held_new, judge, outcome.head, right, outcome.facts, told)
    # Once more with the held-out texts, for as long as was best without them; these still judge, through the twin.
    again = replace(config, first_epochs=outcome.tuned.best_epoch)
    backbone, whole = fit(end, 0.9, again, np.empty(0, dtype=np.int64))
    facts = {**outcome.facts, "refitted": True}
    return _Trained(backbone, whole.head, outcome.held_new, judge, outcome.head, right, facts, told)


def _step(
    spec: Spec, config: EncoderConfig, material: Material, start: Start, new: IntArray, report: Progress
) -> _Trained:
    backbone = start.backbone(config.max_length)
    embedder = _embedder(backbone, config, config.freeze_layers)
    examples = _examples(backbone, material)
    old = np.setdiff1d(np.arange(len(examples)), new)
    text_ids = [example.text_id for example in material.examples]
    columns = {label_id: column for column, label_id in enumerate(start.label_ids)}
    previous = Previous(
        start.head,
        [columns.get(label_id) for label_id in material.label_ids],
        np.array([int(start.was_right.get(text_ids[row], -1)) for row in old], dtype=np.int64),
        np.array([text_ids[row] in start.held_out for row in old], dtype=bool),
    )
    kept = ActivationCache(spec.cache, examples.tokens) if spec.cache is not None else None
    outcome = train_step(
        embedder,
        examples.taken(new),
        examples.taken(old),
        previous,
        config,
        seed=spec.seed,
        kept=kept,
        report=_between(0.0, 0.9, report),
    )
    if kept is not None:
        kept.save()
    right = np.array([int(start.was_right.get(text_id, -1)) for text_id in text_ids], dtype=np.int64)
    right[old] = np.where(outcome.right >= 0, outcome.right, right[old])
    held = np.sort(np.concatenate([new[outcome.held_new], old[outcome.held_old]]))
    told = {"base": dict(start.base)}
    facts = {**outcome.facts, "new": len(new) - len(outcome.held_new), "replayed": len(outcome.replayed)}
    return _Trained(backbone, outcome.head, held, backbone, outcome.head, right, facts, told)


def _write(
    spec: Spec, config: EncoderConfig, out: Path, material: Material, trained: _Trained, report: Progress
) -> Written:
    def served(backbone: Backbone) -> tuple[ServedEncoder, Mapping[str, Any]]:
        return serve(
            backbone,
            material.texts,
            material.targets,
            precision=config.precision,
            facts=trained.base,
            report=lambda share, stage: report(0.4 * share, stage),
        )

    encoder, speed = served(trained.judge)
    known = rows_for_scope(material.targets, trained.held, spec.seed)
    rows = np.concatenate([known, trained.held])
    texts, targets = [material.texts[row] for row in rows], material.targets[rows]
    embeddings = judged = encoder_alone(encoder).embed(texts)
    logits = trained.judge_head.logits(judged[len(known) :])
    if trained.judge is not trained.backbone:
        encoder, speed = served(trained.backbone)
        embeddings = encoder_alone(encoder).embed(texts)
    temperature = fit_temperature(logits, targets[len(known) :])
    report(0.9, "writing the artifact")
    head = FittedHead(
        "linear",
        {"weights": trained.head.weights, "bias": trained.head.bias},
        logits,
        trained.held,
        temperature,
    )
    # Where a label's texts lie is not known without one, and all of them would be taken for unknown.
    all_have_texts = len(np.unique(material.targets)) == len(material.label_ids)
    write_for_next_step(out, trained.backbone, [example.text_id for example in material.examples], trained.right)
    digest = write_onnx_artifact(
        out,
        spec,
        material,
        encoder,
        head,
        config=asdict(config),
        training=trained.facts,
        scope=fit_held_out_scope(judged, embeddings, targets, softmax(logits, temperature)) if all_have_texts else None,
    )
    return Written(digest, speed)


def _parent(spec: Spec) -> Start | None:
    """What to go on from; None where the active version is another recipe's or began from another base."""
    parent = read_parent(spec.parent) if spec.parent is not None else None
    if parent is not None and spec.base is not None and parent.base.get("digest") != base_of(spec).digest:
        return None
    return parent


def _new_rows(material: Material, start: Start) -> IntArray:
    """The texts that neither the start nor a version before it was trained on or judged by.

    None of a batch that brings nothing new, also where the start knows nothing of what was trained on before.
    """
    if not any(example.new for example in material.examples):
        return np.empty(0, dtype=np.int64)
    return np.array(
        [row for row, example in enumerate(material.examples) if example.text_id not in start.seen], dtype=np.int64
    )


def _examples(backbone: Backbone, material: Material) -> Examples:
    tokens: list[Tokens] = [tuple(ids) for ids in backbone.tokens(material.texts)]
    return Examples(tokens, material.targets)


def _embedder(backbone: Backbone, config: EncoderConfig, freeze_layers: int) -> Embedder:
    bf16 = config.bf16 == "on" or (config.bf16 == "auto" and multiplies_in_bf16())
    return Embedder(backbone, frozen_count(backbone.encoder, freeze_layers), bf16=bf16)


def _between(begin: float, end: float, report: Progress) -> Callable[[float, str], None]:
    return lambda share, stage: report(begin + (end - begin) * share, stage)
