"""Prepare a causal model to be taught: its adapter, new or an earlier artifact's, and what each label's answer is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.artifacts.base_models import BaseModel
from app.scorers.artifact import (
    ArtifactUnusable,
    digest,
    read_content,
    read_lineage,
    read_out_of_fold,
    verify,
)
from trainer.generative import causal_model
from trainer.generative.files import (
    MAX_TOKENIZER_BYTES,
    TOKENIZER,
    Answer,
    GenerativeSettings,
    read_answers,
    read_settings,
)
from trainer.generative.prompt import PromptTokens, open_tokenizer
from trainer.spec import SpecInvalid


@dataclass(frozen=True, slots=True)
class Parent:
    """An earlier artifact from which the adapter goes on.

    Args:
        lineage: ids of all texts that it comes from; `seen`: those of them that its adapter learnt from.
    """

    digest: str
    answers: Mapping[int, Answer]
    tokenizer: bytes
    tensors: Mapping[str, Tensor]
    lineage: frozenset[int]
    seen: frozenset[int]


@dataclass(frozen=True, slots=True)
class Student:
    """A model whose adapter can be trained, and what it is taught to say."""

    model: Any
    settings: GenerativeSettings
    tokenizer: bytes
    prompts: PromptTokens
    answers: tuple[Answer, ...]


def settle_torch(seed: int) -> np.random.Generator:
    """Make torch give the same numbers for the same seed on this machine, and return numpy's generator for it."""
    # Read when CUDA starts; without it its matrix products are not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    return np.random.default_rng(seed)


def read_parent(folder: Path | None, wanted: GenerativeSettings) -> Parent | None:
    """The artifact to go on from; None where there is none, or one that another base or another adapter made.

    Raises:
        SpecInvalid: it is damaged.
    """
    if folder is None:
        return None
    try:
        name = digest(folder)
        if verify(folder, name).scorer != "generative":
            return None
        found = read_settings(folder)
        if _shape(found) != _shape(wanted):
            return None
        lineage = frozenset(read_lineage(folder))
        return Parent(
            name,
            {answer.label_id: answer for answer in read_answers(folder)},
            read_content(folder / TOKENIZER, MAX_TOKENIZER_BYTES),
            causal_model.read_adapter(folder),
            lineage,
            lineage - frozenset(read_out_of_fold(folder).text_ids.tolist()),
        )
    except (ArtifactUnusable, OSError) as error:
        said = error if isinstance(error, ArtifactUnusable) else "it cannot be read"
        raise SpecInvalid(f"the artifact to go on from is not usable: {said}") from error


def settings_for(base: BaseModel, **choices: Any) -> tuple[GenerativeSettings, bytes]:
    """The settings of an artifact on this base, and the base's tokenizer.

    Raises:
        BaseModelUnusable: it has no tokenizer that can be served.
    """
    tokenizer, start, end = causal_model.read_tokenizer(base.folder)
    settings = GenerativeSettings(
        base_name=base.name, base_digest=base.digest, start=start, end=end, targets=(), **choices
    )
    return settings, tokenizer


def prepare(
    model: Any,
    settings: GenerativeSettings,
    tokenizer: bytes,
    labels: Sequence[tuple[int, str]],
    parent: Parent | None,
    *,
    dropout: float,
) -> Student:
    """The model with an adapter, the parent's where there is one.

    Args:
        labels: id and path of each, in the artifact's order.

    Raises:
        SpecInvalid: two labels would be answered alike.
        ArtifactCorrupt: the parent's adapter does not fit the base.
    """
    content = parent.tokenizer if parent is not None else tokenizer
    own: list[int] = []
    if settings.label_tokens:
        content, own = _with_label_tokens(content, [label for label, _ in labels])
    prompts = PromptTokens(content, start=settings.start, end=settings.end, max_text_tokens=settings.max_text_tokens)
    said = [prompts.answer(path) for _, path in labels]
    tokens = [[token] for token in own] if own else [[*words, settings.end] for words in said]
    if len({tuple(answer) for answer in tokens}) != len(tokens):
        raise SpecInvalid("two labels have the same tokens in the base's vocabulary: set label_tokens, or another base")
    answers = tuple(Answer(label, path, tuple(answer)) for (label, path), answer in zip(labels, tokens, strict=True))
    if own:
        causal_model.grow_vocabulary(model, max(own) + 1)
        _start_at_their_words(model, own, said)
    adapted = causal_model.with_adapter(model, settings, own, dropout=dropout)
    if parent is not None:
        causal_model.set_adapter(adapted, _rows_by_label(adapted, parent, answers) if own else dict(parent.tensors))
    return Student(adapted.to(causal_model.device()), settings, content, prompts, answers)


def _with_label_tokens(tokenizer: bytes, labels: Sequence[int]) -> tuple[bytes, list[int]]:
    """The tokenizer with a token for each label. A label that had one keeps it: it is named by the label's id."""
    from tokenizers import AddedToken

    opened = open_tokenizer(tokenizer)
    names = [f"<|label_{label}|>" for label in labels]
    opened.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    # What is stored is how the base has it; how it is asked is decided where it is opened.
    opened.encode_special_tokens = False
    return str(opened.to_str()).encode("utf-8"), [int(opened.token_to_id(name)) for name in names]


def _start_at_their_words(model: Any, tokens: Sequence[int], words: Sequence[Sequence[int]]) -> None:
    """A label's token starts as the mean of the words of its path: near what the model would have said."""
    with torch.no_grad():
        for weight in {id(w): w for w in (_rows(model, "input"), _rows(model, "output"))}.values():
            for token, path in zip(tokens, words, strict=True):
                if path:
                    weight[token] = weight[list(path)].mean(dim=0)


def _rows(model: Any, side: str) -> Tensor:
    embeddings = model.get_input_embeddings() if side == "input" else model.get_output_embeddings()
    weight: Tensor = embeddings.weight
    return weight


def _rows_by_label(adapted: Any, parent: Parent, answers: Sequence[Answer]) -> dict[str, Tensor]:
    """The parent's adapter, its labels' rows laid where this artifact has these labels; new labels keep theirs."""
    from peft import get_peft_model_state_dict

    # peft keeps the rows in the order of their token ids.
    before = {a.label_id: row for row, a in enumerate(sorted(parent.answers.values(), key=lambda a: a.tokens))}
    now = {a.label_id: row for row, a in enumerate(sorted(answers, key=lambda a: a.tokens))}
    tensors = dict(parent.tensors)
    for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items():
        if "trainable_tokens" in name and name in tensors:
            rows = tensor.detach().clone()
            for label in now.keys() & before.keys():
                rows[now[label]] = tensors[name][before[label]]
            tensors[name] = rows
    return tensors


def _shape(settings: GenerativeSettings) -> tuple[object, ...]:
    """What two artifacts must share for one to go on from the other."""
    return settings.base_digest, settings.rank, settings.alpha, settings.targets, settings.label_tokens, settings.end
