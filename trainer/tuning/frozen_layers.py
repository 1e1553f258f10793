"""Run the lowest layers of an encoder once for each text, and train what lies above them on what they gave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Tokens = tuple[int, ...]

# Texts run together in one shape: so many rows, padded to a multiple of so many tokens. What a text gets then does not
# depend on its neighbours, to the last bit, and a kept result equals a fresh one.
ROWS = 16
LENGTHS = 8


class TooFewLayers(ValueError):
    """The encoder has not so many layers, or none that can be told apart."""


class Kept(Protocol):
    """Where activations of earlier runs lie."""

    def read(self, key: str, tokens: Sequence[Tokens]) -> Mapping[Tokens, Tensor]:
        """What is known of these texts under the key."""

    def write(self, key: str, found: Mapping[Tokens, Tensor]) -> None:
        """Keep what was computed."""


def layers_of(encoder: nn.Module) -> nn.ModuleList:
    """The layers of an AutoModel, lowest first.

    Raises:
        TooFewLayers: the architecture does not hold them as one list.
    """
    count = int(getattr(encoder.config, "num_hidden_layers", 0))
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise TooFewLayers("the layers of this architecture cannot be told apart: set freeze_layers to 0")


def frozen_count(encoder: nn.Module, wanted: int) -> int:
    """How many layers stay as they are: `wanted`, or two thirds of them for -1.

    Raises:
        TooFewLayers: nothing would be left to train.
    """
    if wanted == 0:
        return 0
    count = len(layers_of(encoder))
    frozen = count * 2 // 3 if wanted < 0 else wanted
    if frozen >= count:
        raise TooFewLayers(f"freeze_layers is {frozen}, and the encoder has {count} layers: one at least must be left")
    return frozen


class FrozenLayers:
    """The embeddings and the lowest layers of a backbone. They no longer change, and take no gradient."""

    def __init__(self, backbone: nn.Module, count: int) -> None:
        """`count`: of layers, as `frozen_count` gives it; 0 freezes nothing."""
        self.count = count
        self._backbone = backbone
        self._layers = layers_of(backbone.encoder) if count else nn.ModuleList()
        self._given: Tensor | None = None
        backbone.requires_grad_(True)
        if count:
            above = {id(weight) for layer in self._layers[count:] for weight in layer.parameters()}
            outside = {id(weight) for weight in _above_layers(backbone.encoder, self._layers)}
            for weight in backbone.encoder.parameters():
                weight.requires_grad_(id(weight) in above | outside)

    def key(self, dtype: torch.dtype) -> str:
        """A name for everything that the activations depend on besides the text."""
        digest = hashlib.sha256(f"{self.count} {dtype} {torch.__version__}".encode())
        digest.update(self._backbone.encoder.config.to_json_string(use_diff=False).encode())
        for name, weight in self._backbone.encoder.named_parameters():
            if not weight.requires_grad:
                digest.update(name.encode())
                digest.update(weight.detach().cpu().contiguous().numpy())
        return digest.hexdigest()[:32]

    def activations(self, tokens: Sequence[Tokens], dtype: torch.dtype, kept: Kept | None = None) -> list[Tensor]:
        """What the frozen layers give for each text, shape (n_tokens, hidden), computed once for equal texts.

        `dtype`: bfloat16 multiplies in it too.
        """
        key = self.key(dtype) if kept is not None else ""
        known = dict(kept.read(key, tokens)) if kept is not None else {}
        missing = sorted({text for text in tokens if text not in known}, key=lambda text: (len(text), text))
        found: dict[Tokens, Tensor] = {}
        for run in _runs(missing):
            for text, states in zip(run, self._compute(run, dtype), strict=True):
                found[text] = states[: len(text)].to(dtype).clone()
        if kept is not None and found:
            kept.write(key, found)
        known.update(found)
        return [known[text] for text in tokens]

    @contextmanager
    def replaced(self) -> Iterator[FrozenLayers]:
        """Inside, a run of the backbone skips the frozen layers and goes on from what `give` was told."""
        for layer in self._layers[: self.count]:
            layer.forward = _pass_through
        if self.count:
            self._layers[self.count - 1].forward = self._take
        try:
            yield self
        finally:
            for layer in self._layers[: self.count]:
                del layer.forward

    def give(self, states: Tensor | None) -> None:
        """The padded activations of the run that follows, shape (n_texts, n_tokens, hidden)."""
        self._given = states

    def _take(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        assert self._given is not None
        return self._given.to(hidden.dtype)

    def _compute(self, texts: Sequence[Tokens], dtype: torch.dtype) -> Tensor:
        length = -(-len(texts[-1]) // LENGTHS) * LENGTHS
        # The last text again and again: an empty row would have nothing to attend to.
        rows = [*texts, *[texts[-1]] * (ROWS - len(texts))]
        token_ids, mask = padded(rows, length)
        device = next(self._backbone.encoder.parameters()).device
        seen: list[Tensor] = []
        handle = self._layers[self.count - 1].register_forward_hook(lambda _, __, output: seen.append(output))
        for layer in self._layers[self.count :]:
            layer.forward = _pass_through
        was_training = self._backbone.encoder.training
        try:
            self._backbone.eval()
            bf16 = dtype == torch.bfloat16
            with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                self._backbone(token_ids.to(device), mask.to(device))
        finally:
            self._backbone.train(was_training)
            handle.remove()
            for layer in self._layers[self.count :]:
                del layer.forward
        return seen[0][: len(texts)].cpu()


def padded(texts: Sequence[Tokens], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids and mask, shape (n_texts, longest or `length`), filled up with 0."""
    width = length or max(map(len, texts))
    token_ids = torch.zeros((len(texts), width), dtype=torch.int64)
    mask = torch.zeros_like(token_ids)
    for row, text in enumerate(texts):
        token_ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return token_ids, mask


def _runs(texts: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Texts that round up to one length, `ROWS` at a time. `texts` ascend in length."""
    run: list[Tokens] = []
    for text in texts:
        if run and (len(run) == ROWS or -(-len(run[0]) // LENGTHS) != -(-len(text) // LENGTHS)):
            yield run
            run = []
        run.append(text)
    if run:
        yield run


def _above_layers(encoder: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Parameter]:
    """What comes after the last layer, as a final norm: it is neither embedding nor layer, and trains."""
    inside = {id(weight) for weight in layers.parameters()}
    for name, weight in encoder.named_parameters():
        if id(weight) not in inside and "embed" not in name.lower() and "wte" not in name and "wpe" not in name:
            yield weight


def _pass_through(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden
