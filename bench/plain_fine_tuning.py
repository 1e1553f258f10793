"""The anchor of the training benchmarks: fine-tuning as it is usually done. Not a benchmark itself.

All layers, a fresh linear head, AdamW with a rate that falls to 0, batches drawn at random and padded to their longest
text. The optimiser is the fused one, as ours: the anchor is not made slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import IntArray
from trainer.heads.linear_head import LinearHead

if TYPE_CHECKING:
    from trainer.encoders.backbone import Backbone

Tokens = Sequence[int]
BODY_RATE, HEAD_RATE = 5e-5, 1e-3
BATCH = 8


def fine_tune_plainly(
    backbone: Backbone,
    tokens: Sequence[Tokens],
    targets: IntArray,
    n_labels: int,
    *,
    epochs: int,
    seed: int,
    head: LinearHead | None = None,
    batch_size: int = BATCH,
    body_rate: float = BODY_RATE,
) -> LinearHead:
    """Train the backbone in place, and return its head. `head`: to go on from, or a fresh one."""
    import torch
    from torch import nn

    from trainer.encoders.backbone import padded

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    layer = nn.Linear(backbone.dimension, n_labels)
    if head is not None:
        with torch.no_grad():
            layer.weight[: head.weights.shape[1]] = torch.from_numpy(head.weights.T.copy())
            layer.bias[: len(head.bias)] = torch.from_numpy(head.bias.copy())
    backbone.requires_grad_(True)
    backbone.train()
    groups: list[dict[str, Any]] = [
        {"params": list(backbone.parameters()), "lr": body_rate},
        {"params": list(layer.parameters()), "lr": HEAD_RATE},
    ]
    optimiser = torch.optim.AdamW(groups, fused=True)
    steps = epochs * -(-len(tokens) // batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 - step / steps)
    for _ in range(epochs):
        order = rng.permutation(len(tokens))
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            ids, mask = padded([tokens[row] for row in rows])
            loss = nn.functional.cross_entropy(layer(backbone(ids, mask)), torch.from_numpy(targets[rows]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*backbone.parameters(), *layer.parameters()], 1.0)
            optimiser.step()
            rate.step()
    backbone.eval()
    return LinearHead(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy())


def answers(backbone: Backbone, head: LinearHead, texts: Sequence[str]) -> IntArray:
    """The label of each text, shape (n_texts,)."""
    embeddings: NDArray[np.float32] = backbone.embed(texts)
    found: IntArray = head.logits(embeddings).argmax(axis=1)
    return found
