"""The `lora` recipe: an adapter on a causal language model that answers a prompt with a label."""

from __future__ import annotations

import gc
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from app.artifacts.base_models import BaseModelUnusable
from app.intent.text import NORMALISER_VERSION
from app.scorers.artifact import (
    LINEAGE,
    ArtifactUnusable,
    OutOfFold,
    canonical_json,
    digest,
    read_lineage,
    read_manifest,
    read_out_of_fold,
    seal,
    verify,
    write_out_of_fold,
    write_references,
)
from trainer.generative import files
from trainer.generative.files import Answer, GenerativeSettings
from trainer.generative.prompt import PromptTokens
from trainer.logistic import fit_temperature, softmax
from trainer.ngram import trainable_labels
from trainer.spec import Example, Spec, SpecInvalid

Progress = Callable[[float, str], None]

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")


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
        if self.dtype not in files.DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(files.DTYPES)}")
