"""Train an adapter on prompts with their answers: loss on the answers' tokens alone, deterministic with a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.generative.lessons import Lesson

# What cross-entropy leaves out (torch's own number).
NO_LOSS = -100


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to learn.

    Args:
        learning_rate: at its highest, after the warm-up; it then falls to 0 in a straight line.
        batch_size: lessons in one run of the model.
        accumulation: runs whose gradients make one step.
        warm_up: share of the steps.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    accumulation: int
    warm_up: float
    weight_decay: float


def batch_of(lessons: Sequence[Lesson], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask and targets, each of shape (n_lessons, longest), padded on the right.

    A target is the token itself where it belongs to an answer, and `NO_LOSS` in prompt and padding.
    """
    longest = max(len(lesson.prompt) + len(lesson.answer) for lesson in lessons)
    ids = torch.full((len(lessons), longest), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    targets = torch.full_like(ids, NO_LOSS)
    for row, lesson in enumerate(lessons):
        whole = torch.tensor([*lesson.prompt, *lesson.answer])
        ids[row, : len(whole)] = whole
        mask[row, : len(whole)] = 1
        targets[row, len(lesson.prompt) : len(whole)] = whole[len(lesson.prompt) :]
    return ids, mask, targets


def losses(model: Any, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """-log P(answer | prompt) of each lesson, summed over its answer's tokens, shape (n_lessons,).

    The sum, and not the mean over tokens, is what ranks labels when they are scored.
    """
    # Position i says what comes at i + 1.
    wanted = targets[:, 1:]
    told = (wanted != NO_LOSS).any(dim=0).nonzero()[:, 0]
    # Logits of a whole prompt over a whole language would be gigabytes, for positions that teach nothing.
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=told).logits
    if logits.shape[1] != len(told):
        logits = logits[:, told]
    wanted = wanted[:, told]
    # One row for each position: with rows of their own for lessons, CUDA has no deterministic way.
    flat = logits.float().reshape(-1, logits.shape[-1])
    each = nn.functional.cross_entropy(flat, wanted.reshape(-1), ignore_index=NO_LOSS, reduction="none")
    return each.reshape(wanted.shape).sum(dim=1)


def train_adapter(
    model: Any,
    draw: Callable[[int], Sequence[Lesson]],
    pace: Pace,
    *,
    pad: int,
    rng: np.random.Generator,
    report: Callable[[float, str], None],
) -> list[float]:
    """Train what is trainable in `model` and return the mean loss of a lesson in each epoch.

    Args:
        draw: the lessons of an epoch; their number may not change from one to the next.
        pad: a token id for the padding, which nothing looks at.
        report: share done, and a line for people.

    Raises:
        FloatingPointError: the loss is no number any more.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    where = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=pace.learning_rate, weight_decay=pace.weight_decay)
    lessons = draw(0)
    runs = math.ceil(len(lessons) / pace.batch_size)
    steps = math.ceil(runs / pace.accumulation) * pace.epochs
    slope = torch.optim.lr_scheduler.LambdaLR(optimizer, _slope(steps, pace.warm_up))
    began, means = time.monotonic(), []
    model.train()
    for epoch in range(pace.epochs):
        lessons = lessons if epoch == 0 else draw(epoch)
        total = 0.0
        for run, rows in enumerate(_runs(lessons, pace.batch_size, rng)):
            weights = torch.tensor([lessons[row].weight for row in rows], device=where)
            batch = batch_of([lessons[row] for row in rows], pad)
            each = losses(model, *(part.to(where) for part in batch))
            (each * weights).mean().div(pace.accumulation).backward()
            total += float(each.detach().sum())
            if not math.isfinite(total):
                raise FloatingPointError("the loss is no number any more: set a smaller learning_rate")
            if (run + 1) % pace.accumulation == 0 or run + 1 == runs:
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                slope.step()
                optimizer.zero_grad(set_to_none=True)
            done = (epoch * runs + run + 1) / (pace.epochs * runs)
            left = (time.monotonic() - began) * (1.0 - done) / done
            seen = min(len(lessons), (run + 1) * pace.batch_size)
            report(done, f"epoch {epoch + 1} of {pace.epochs}, loss {total / seen:.3f}, {left:.0f} s left")
        means.append(total / len(lessons))
    model.eval()
    return means


def _runs(lessons: Sequence[Lesson], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Rows for each run, in a random order, those of one run of about one length: padding costs as much as text."""
    order = rng.permutation(len(lessons)).tolist()
    pools = [order[first : first + 16 * size] for first in range(0, len(order), 16 * size)]
    runs = []
    for pool in pools:
        pool.sort(key=lambda row: len(lessons[row].prompt) + len(lessons[row].answer))
        runs += [pool[first : first + size] for first in range(0, len(pool), size)]
    # Only the last run of all may be short: the last pool's is the only one.
    short = [run for run in runs if len(run) < size]
    whole = [run for run in runs if len(run) == size]
    return [whole[place] for place in rng.permutation(len(whole))] + short


def _slope(steps: int, warm_up: float) -> Callable[[int], float]:
    rising = max(1, round(steps * warm_up))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor
