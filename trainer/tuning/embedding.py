"""Ask a backbone for embeddings while it is trained: in batches of like length, on top of its frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.intent.arrays import IntArray
from trainer.tuning.frozen_layers import FrozenLayers, Kept, Tokens, padded

_BATCH = 32
# So many batches are drawn at random, sorted by length, and cut: little padding, and still a random order.
_SORTED_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as token ids, with what the frozen layers gave for each: shape (n_tokens, hidden)."""

    tokens: Sequence[Tokens]
    states: Sequence[Tensor] | None

    def __len__(self) -> int:
        return len(self.tokens)

    def taken(self, rows: IntArray) -> Texts:
        """Some of them, in this order."""
        states = None if self.states is None else [self.states[row] for row in rows]
        return Texts([self.tokens[row] for row in rows], states)


class Embedder:
    """A backbone on the device that it is trained on."""

    def __init__(self, backbone: nn.Module, freeze_layers: int, *, bf16: bool) -> None:
        """`freeze_layers`: a number of layers, as `frozen_count` gives it."""
        self.backbone = backbone
        self.device = best_device()
        self.bf16 = bf16
        backbone.to(self.device)
        self.frozen = FrozenLayers(backbone, freeze_layers)

    def prepared(self, tokens: Sequence[Tokens], kept: Kept | None = None) -> Texts:
        """The texts with their frozen layers run, once for all epochs."""
        if self.frozen.count == 0:
            return Texts(tokens, None)
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        return Texts(tokens, self.frozen.activations(tokens, dtype, kept))

    def embed(self, texts: Texts, rows: IntArray) -> Tensor:
        """float32 embeddings of these rows, shape (n_rows, dimension), on the device."""
        token_ids, mask = padded([texts.tokens[row] for row in rows])
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            if texts.states is None:
                found = self.backbone(token_ids.to(self.device), mask.to(self.device))
            else:
                states = nn.utils.rnn.pad_sequence([texts.states[row] for row in rows], batch_first=True)
                with self.frozen.replaced() as frozen:
                    frozen.give(states.to(self.device, torch.float32))
                    found = self.backbone(token_ids.to(self.device), mask.to(self.device))
        return found.float()

    def embed_all(self, texts: Texts) -> NDArray[np.float32]:
        """Embeddings of all, shape (n_texts, dimension), without dropout."""
        was_training = self.backbone.encoder.training
        self.backbone.eval()
        rows = np.argsort([len(text) for text in texts.tokens], kind="stable")
        found: NDArray[np.float32] = np.zeros((len(texts), self.backbone.dimension), dtype=np.float32)
        with torch.no_grad():
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                found[batch] = self.embed(texts, batch).cpu().numpy()
        self.backbone.train(was_training)
        return found


def like_length_batches(texts: Texts, size: int, rng: np.random.Generator) -> list[IntArray]:
    """All rows once, `size` at a time, texts of like length together, in random order."""
    lengths = np.array([len(text) for text in texts.tokens])
    order = rng.permutation(len(texts))
    batches: list[IntArray] = []
    for start in range(0, len(order), size * _SORTED_BATCHES):
        piece = order[start : start + size * _SORTED_BATCHES]
        piece = piece[np.argsort(lengths[piece], kind="stable")]
        batches += [piece[first : first + size] for first in range(0, len(piece), size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def pair_batches(targets: IntArray, size: int, rng: np.random.Generator) -> list[IntArray]:
    """Rows in which every text has another of its label, `size` at a time; a label with one text is left out."""
    pairs: list[IntArray] = []
    for label in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == label))
        pairs += [rows[first : first + 2] for first in range(0, len(rows) - 1, 2)]
    pairs = [pairs[number] for number in rng.permutation(len(pairs))]
    per_batch = max(size // 2, 2)
    return [np.concatenate(pairs[first : first + per_batch]) for first in range(0, len(pairs), per_batch)]


def best_device() -> torch.device:
    """CUDA or MPS where torch finds it, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def multiplies_in_bf16() -> bool:
    """Whether the device has instructions for bfloat16; without them autocast is slower than float32."""
    device = best_device()
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "mps":
        return False
    facts = torch.cpu.get_capabilities()
    return any(bool(facts.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))
