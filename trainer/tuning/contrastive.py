"""Draw texts of one label together and others apart, before a head is fitted: worth most where texts are few."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from app.intent.arrays import IntArray
from trainer.spec import Progress
from trainer.tuning.descent import adamw, descend, warmed
from trainer.tuning.embedding import Embedder, Texts, pair_batches

# Among embeddings of length 1.
TEMPERATURE = 0.1
# Fewer texts meet too few of other labels.
LEAST_BATCH = 64


def draw_together(
    embedder: Embedder,
    texts: Texts,
    targets: IntArray,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    report: Progress = lambda _, __: None,
) -> None:
    """Train the backbone's free layers with the supervised contrastive loss; `targets`: shape (n,)."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    size = max(batch_size, LEAST_BATCH)
    batches = [pair_batches(targets, size, rng) for _ in range(epochs)]
    body = [weight for weight in embedder.backbone.parameters() if weight.requires_grad]
    optimiser = adamw([{"params": body, "lr": learning_rate}])
    rate = warmed(optimiser, sum(map(len, batches)))
    aims = torch.tensor(targets, device=embedder.device)
    for number, epoch in enumerate(batches, 1):
        embedder.backbone.train()
        losses = []
        for rows in epoch:
            loss = contrastive_loss(embedder.embed(texts, rows), aims[torch.from_numpy(rows)])
            descend(optimiser, loss)
            rate.step()
            losses.append(float(loss.detach()))
        told = f": loss {np.mean(losses):.3f}" if losses else ""
        report(number / epochs, f"contrastive epoch {number} of {epochs}{told}")
    embedder.backbone.eval()


def contrastive_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) over one batch; texts without another of their label add 0."""
    unit = functional.normalize(embeddings, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    likeness = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -1e9)
    alike = (targets[:, None] == targets[None]) & ~itself
    log_share = likeness - torch.logsumexp(likeness, dim=1, keepdim=True)
    per_text = (log_share * alike).sum(dim=1) / alike.sum(dim=1).clamp(min=1)
    return -per_text.mean()
