"""How weights descend: the optimiser, its rate, and one step of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.01
WARM_UP = 0.1
LONGEST_STEP = 1.0


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW over these groups of parameters."""
    # Fused: one pass over weights, gradients and moments, which for small batches costs as much as the layers do.
    return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)


def warmed(optimiser: torch.optim.Optimizer, steps: int) -> Any:
    """A rate that rises over the first tenth of the steps and falls to 0 at the last."""
    rise = max(1, round(WARM_UP * steps))
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / rise, max(steps - step, 0) / max(steps - rise, 1))
    )


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down this loss, with gradients no longer than `LONGEST_STEP`."""
    optimiser.zero_grad()
    loss.backward()
    moved = [weight for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None]
    norm = nn.utils.get_total_norm([weight.grad for weight in moved])
    # Only where it is needed: scaling by 1 would still touch every gradient.
    if float(norm) > LONGEST_STEP:
        nn.utils.clip_grads_with_norm_(moved, LONGEST_STEP, norm)
    optimiser.step()
