"""Take a sequence classifier apart: its last linear layer is the head, and all before it a backbone to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app.artifacts.base_models import BaseModelUnusable
from trainer.encoders.backbone import Backbone, asked_of, is_decoder, padded, tokenizer_of
from trainer.encoders.pooling import CLASSIFIER, Pooling
from trainer.heads.linear_head import LinearHead
from trainer.pretrained import load_pretrained
from trainer.spec import SpecInvalid

# Of a logit, as a share of the largest one: between the classifier whole and in two parts.
MOST_DIFFERENCE = 1e-4


def load_classifier(folder: Path, *, max_length: int) -> tuple[Backbone, LinearHead]:
    """What AutoModelForSequenceClassification loads from a folder: embeddings, and the head that its labels stand in.

    Raises:
        SpecInvalid: the folder holds no such classifier, or one that does not end in a linear layer.
    """
    model, missing = _load(folder)
    if missing:
        raise SpecInvalid(
            f"the folder {folder.name[:100]!r} is no classifier: {missing[0][:100]} is not in its weights"
        )
    name, last = _last_linear(model, folder)
    bias = torch.zeros(last.out_features) if last.bias is None else last.bias
    head = LinearHead(last.weight.detach().numpy().T.copy(), bias.detach().numpy().copy())
    ids, mask = _sample(model)
    with torch.no_grad():
        whole = _logits(model, ids, mask).numpy()
        backbone = _without(name, last, model, tokenizer_of(folder), max_length)
        parts = head.logits(backbone(ids, mask).numpy())
    if np.abs(whole - parts).max() > MOST_DIFFERENCE * max(1.0, float(np.abs(whole).max())):
        raise _without_a_last_layer(folder)
    return backbone, head


def load_trunk(folder: Path, tokenizer: bytes, *, max_length: int) -> Backbone:
    """The backbone alone, from where `save_pretrained` left it without its head.

    Raises:
        SpecInvalid: something else lies there.
    """
    model, missing = _load(folder)
    name, last = _last_linear(model, folder)
    if surplus := [weight for weight in missing if not weight.startswith(f"{name}.")]:
        raise SpecInvalid(f"{surplus[0][:100]} is not in the weights of {folder.name[:100]!r}")
    return _without(name, last, model, tokenizer, max_length)


def _load(folder: Path) -> tuple[nn.Module, list[str]]:
    """The model, and the names of the weights that its files lack."""
    from transformers import AutoModelForSequenceClassification

    try:
        return load_pretrained(
            AutoModelForSequenceClassification,
            folder,
            "the classifier",
            dtype=torch.float32,
            attn_implementation="eager",
        )
    except BaseModelUnusable as error:
        raise SpecInvalid(str(error)) from error


def _last_linear(model: nn.Module, folder: Path) -> tuple[str, nn.Linear]:
    """The linear layer that is run last, with its name; every kind of classifier calls it otherwise."""
    called: list[str] = []
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    hooks = [module.register_forward_hook(lambda *_, name=name: called.append(name)) for name, module in linear.items()]
    try:
        with torch.no_grad():
            _logits(model, *_sample(model))
    finally:
        for hook in hooks:
            hook.remove()
    if not called or linear[called[-1]].out_features != int(model.config.num_labels):
        raise _without_a_last_layer(folder)
    return called[-1], linear[called[-1]]


def _without(name: str, last: nn.Linear, model: nn.Module, tokenizer: bytes, max_length: int) -> Backbone:
    """What comes before the last layer. The model is changed."""
    if is_decoder(model.config):
        # It asks for its last token by a token for padding, which serving does not know; the mask says the same.
        inner: nn.Module = getattr(model, str(model.base_model_prefix))
        return Backbone(inner, tokenizer, Pooling("last", normalise=False), max_length=max_length)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    width = int(last.in_features)
    return Backbone(model, tokenizer, Pooling(CLASSIFIER, normalise=False), max_length=max_length, dimension=width)


def _logits(model: nn.Module, ids: Tensor, mask: Tensor) -> Any:
    return model(input_ids=ids, attention_mask=mask, **asked_of(model)).logits


def _sample(model: nn.Module) -> tuple[Tensor, Tensor]:
    size = int(model.config.vocab_size)
    return padded([[number % size for number in range(3, 9)]])


def _without_a_last_layer(folder: Path) -> SpecInvalid:
    return SpecInvalid(
        f"the classifier {folder.name[:100]!r} does not end in a linear layer with a column for each label"
    )
