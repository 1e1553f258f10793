"""The `lora` recipe: an adapter on a causal language model that answers a prompt with a label."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.artifacts.base_models import BaseModel, BaseModelUnusable
from app.intent.arrays import FloatArray, IntArray
from app.intent.evaluation import macro_f1
from app.scorers.artifact import LINEAGE, ArtifactUnusable, canonical_json, seal, write_references
from trainer.generative.files import DTYPES
from trainer.generative.lessons import carve, choose_replay, prompts_for
from trainer.logistic import fit_temperature, softmax
from trainer.material import Material, facts_of, material_of, write_evidence
from trainer.spec import Progress, Spec, SpecInvalid

if TYPE_CHECKING:
    from trainer.generative.judging import GenerativeJudge
    from trainer.generative.student import Parent, Student

_LIBRARIES = ("numpy", "torch", "transformers", "peft", "tokenizers", "safetensors")
# torch has no error of its own for it on the processor.
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What can be changed about the recipe.

    Args:
        rank, alpha, dropout: of the adapter (Hu et al. 2021, LoRA).
        targets: which linear modules it changes: `all`, or `attention` alone, which is faster and learns less.
        learning_rate: 5e-5 to 1e-4 for a pretrained base; a small random one needs more.
        batch_size: texts in one run, 1 to 64; accumulation: runs that make one step.
        warm_up: share of the steps in which the learning rate rises.
        max_text_tokens: tokens of a text that are read; the rest is cut off.
        max_prompt_tokens: what a prompt with all labels may take.
        candidates: labels in a prompt while it is trained, own one included, 2 to 64; each prompt has 2 to so many.
        all_labels: share of the training prompts that list every label, as when it is called alone.
        label_tokens: answer each label with one token of its own, which is learnt, in place of its words.
        replay_ratio: with a parent, replayed / (new + replayed) texts.
        replay_weight: what a replayed text's loss counts beside a new one's.
        held_out: share of the texts that is not trained on, for the temperature and the thresholds.
        most_held_out: texts that are held out at most: each is a run of the model.
        references: reference texts that are kept at most: each is a run of the model at every load.
        dtype: of the base's weights, in training and while it answers. bfloat16 halves the memory, and is faster where
            the processor knows it; answers then agree only between processors of one kind.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    targets: str = "all"
    learning_rate: float = 8e-5
    weight_decay: float = 0.0
    epochs: int = 3
    batch_size: int = 4
    accumulation: int = 4
    warm_up: float = 0.1
    max_text_tokens: int = 128
    max_prompt_tokens: int = 4096
    candidates: int = 8
    all_labels: float = 0.1
    label_tokens: bool = False
    replay_ratio: float = 0.5
    replay_weight: float = 0.5
    held_out: float = 0.1
    most_held_out: int = 200
    references: int = 4
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        bounds: dict[str, tuple[float, float]] = {
            "rank": (1, 256),
            "alpha": (1, 1024),
            "dropout": (0.0, 0.9),
            "learning_rate": (1e-7, 1.0),
            "weight_decay": (0.0, 1.0),
            "epochs": (1, 100),
            "batch_size": (1, 64),
            "accumulation": (1, 256),
            "warm_up": (0.0, 0.9),
            "max_text_tokens": (4, 512),
            "max_prompt_tokens": (32, 131_072),
            "candidates": (2, 64),
            "all_labels": (0.0, 1.0),
            "replay_ratio": (0.0, 0.95),
            "replay_weight": (0.0, 1.0),
            "held_out": (0.01, 0.5),
            "most_held_out": (1, 10_000),
            "references": (1, 32),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie between {low} and {high}")
        if self.targets not in ("all", "attention"):
            raise ValueError("targets must be 'all' or 'attention'")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}")


def train_lora(spec: Spec, config: LoraConfig, out: Path, report: Progress) -> str:
    """Train on the spec's examples, write the artifact into the empty folder `out`, and return its digest.

    With a parent that is a generative artifact on the same base and of the same shape, its adapter goes on; else a
    new one begins.

    Raises:
        SpecInvalid: there is no usable base, fewer than two labels have two texts, a prompt is too long, the loss
            came apart, or memory ran out. The message says what to do.
    """
    from trainer.pretrained import quiet

    try:
        with quiet():
            return _train(spec, config, out, report)
    except (ArtifactUnusable, BaseModelUnusable) as error:
        raise SpecInvalid(str(error)) from error
    except FloatingPointError as error:
        raise SpecInvalid(f"training came apart: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise SpecInvalid(
            "the trainer ran out of memory: choose a smaller base model or batch_size, or the dtype bfloat16"
        ) from error


def _train(spec: Spec, config: LoraConfig, out: Path, report: Progress) -> str:
    # Late: torch takes a second and 200 MB, which no other recipe should pay for.
    from trainer.generative import causal_model
    from trainer.generative.files import write_files
    from trainer.generative.judging import load_judge

    material = material_of(spec)
    base = _base(spec)
    report(0.0, "loading the base model")
    student, parent, rng = _student(spec, config, material, base)
    text_ids = [example.text_id for example in material.examples]
    held_out = carve(
        text_ids,
        material.targets,
        share=config.held_out,
        most=config.most_held_out,
        seen=parent.seen if parent is not None else frozenset(),
    )
    if not len(held_out):
        raise SpecInvalid("no text is left to hold out: the artifact to go on from has learnt from all of them")
    training = _teach(student, material, held_out, config, rng, parent is not None, _part(report, 0.05, 0.8))
    report(0.8, "writing the adapter")
    causal_model.write_adapter(out, student.model, student.settings)
    write_files(out, student.settings, student.answers, student.tokenizer)
    # The base is loaded once more, from the files and as it will answer: the first one must be gone by then.
    del student
    gc.collect()
    judge = load_judge(out, base.folder)
    logits = _ask(judge, [material.texts[row] for row in held_out], _part(report, 0.8, 0.95))
    truth, said = material.targets[held_out], logits.argmax(axis=1)
    judge.temperature = fit_temperature(logits, truth)
    write_evidence(out, material, softmax(logits, judge.temperature), held_out)
    if parent is not None:
        lineage = sorted(parent.lineage | set(text_ids))
        (out / LINEAGE).write_bytes(canonical_json({"text_ids": lineage}))
    score = macro_f1(truth, said)
    report(0.95, f"held-out macro-F1 {score:.3f}, recording reference answers")
    write_references(out, judge, spec.references[: config.references])
    facts = facts_of(spec, material, asdict(config), judge.temperature, _LIBRARIES)
    facts["scorer"] = "generative"
    facts["base"] = {"name": base.name, "digest": base.digest, "kind": base.kind}
    training |= {"held_out": len(held_out), "held_out_macro_f1": round(score, 6)}
    facts["training"] = training | {"parent": parent.digest if parent is not None else None}
    return seal(out, facts)


def _base(spec: Spec) -> BaseModel:
    from trainer.generative.judging import described

    if spec.base is None:
        raise SpecInvalid(
            f"the recipe {spec.recipe!r} starts from a base model and the domain names none: set its base_model"
        )
    return described(spec.base.name, spec.base.folder)


def _student(
    spec: Spec, config: LoraConfig, material: Material, base: BaseModel
) -> tuple[Student, Parent | None, np.random.Generator]:
    from trainer.generative import causal_model
    from trainer.generative.label_trie import require_tree
    from trainer.generative.student import prepare, read_parent, settings_for, settle_torch

    rng = settle_torch(spec.seed)
    settings, tokenizer = settings_for(
        base,
        dtype=config.dtype,
        max_text_tokens=config.max_text_tokens,
        label_tokens=config.label_tokens,
        rank=config.rank,
        alpha=config.alpha,
    )
    model = causal_model.load_causal(base.folder, config.dtype)
    require_tree(model)
    settings = replace(settings, targets=causal_model.adapter_targets(model, config.targets))
    parent = read_parent(spec.parent, settings)
    paths = {label.id: label.path for label in spec.labels}
    labels = [(label, paths[label]) for label in material.label_ids]
    student = prepare(model, settings, tokenizer, labels, parent, dropout=config.dropout)
    _check_lengths(student, config)
    return student, parent, rng


def _check_lengths(student: Student, config: LoraConfig) -> None:
    """The longest prompt is the one with all labels: it must fit before hours are spent on training."""
    head = len(student.prompts.head([answer.path for answer in student.answers]))
    longest = head + student.prompts.longest_body + max(len(answer.tokens) for answer in student.answers)
    told = student.model.config
    positions = getattr(told, "max_position_embeddings", None) or longest
    # Behind a window a plain run forgets what a tree of labels still sees.
    window = getattr(told, "sliding_window", None) or longest
    room = min(config.max_prompt_tokens, positions, window)
    if longest > room:
        raise SpecInvalid(
            f"a prompt with all {len(student.answers)} labels takes up to {longest} tokens and may take {room}: "
            "raise max_prompt_tokens, lower max_text_tokens, shorten the labels, or choose a base that reads more"
        )


def _teach(
    student: Student,
    material: Material,
    held_out: IntArray,
    config: LoraConfig,
    rng: np.random.Generator,
    goes_on: bool,
    report: Progress,
) -> dict[str, Any]:
    from trainer.generative.adapter_training import Pace, train_adapter

    rows = np.setdiff1d(np.arange(len(material.examples)), held_out)
    new = np.array([not goes_on or material.examples[row].new for row in rows], dtype=bool)
    replayed = choose_replay(rows[~new], material.targets, int(new.sum()), config.replay_ratio, rng)
    weights = dict.fromkeys(rows[new].tolist(), 1.0) | dict.fromkeys(replayed.tolist(), config.replay_weight)
    texts = [
        (material.examples[row].text, int(material.targets[row]), weight) for row, weight in sorted(weights.items())
    ]
    draw = prompts_for(
        student.prompts,
        [answer.path for answer in student.answers],
        [answer.tokens for answer in student.answers],
        texts,
        most_candidates=config.candidates,
        all_labels=config.all_labels,
        rng=rng,
    )
    pace = Pace(
        config.learning_rate,
        config.epochs,
        config.batch_size,
        config.accumulation,
        config.warm_up,
        config.weight_decay,
    )
    means = train_adapter(student.model, draw, pace, pad=student.settings.end, rng=rng, report=report)
    return {"new": int(new.sum()), "replayed": len(replayed), "losses": [round(mean, 6) for mean in means]}


def _ask(judge: GenerativeJudge, texts: Sequence[str], report: Progress) -> FloatArray:
    rows = []
    for done, text in enumerate(texts, 1):
        rows.append(judge.scores(text, None)[1])
        report(done / len(texts), f"answering held-out text {done} of {len(texts)}")
    return np.array(rows)


def _part(report: Progress, low: float, high: float) -> Progress:
    return lambda progress, stage: report(low + (high - low) * progress, stage)
