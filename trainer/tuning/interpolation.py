"""Mix new weights with the previous version's where that takes back right answers that the new ones lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from app.intent.arrays import IntArray
from app.intent.evaluation import macro_f1

# Shares of the new weights that are tried. Half and more: what was just learned is what the batch was for.
SHARES = (1.0, 0.75, 0.5)


@dataclass(frozen=True, slots=True)
class Mixture:
    """What was chosen: the share of the new weights, and what it changed on the texts that it was chosen on."""

    share: float
    negative_flips: int
    negative_flips_before: int
    macro_f1: float
    macro_f1_before: float


def mixed(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) · before + share · after, weight by weight (Wortsman et al. 2022, WiSE-FT)."""
    if share == 1.0:
        return dict(after)
    return {name: before[name] + share * (weight - before[name]) for name, weight in after.items()}


def choose_mixture(
    answers: Callable[[float], IntArray],
    before: IntArray,
    truth: IntArray,
    judged: Sequence[bool] | np.ndarray[tuple[int], np.dtype[np.bool_]],
    shares: Sequence[float] = SHARES,
) -> Mixture:
    """The share with the fewest negative flips among those that lose no macro-F1 against the new weights alone.

    A negative flip is a text that the previous version had right and the mixture has not. Of equals the larger share.

    Args:
        answers: for a share, the mixture's answers to all texts; shape (n,). Asked for 1.0 first.
        before: the previous version's answers.
        judged: which of the texts were never trained on; macro-F1 is taken on these, or on all where there are none.
    """
    held = np.asarray(judged, dtype=bool)
    if not held.any():
        held = np.ones(len(truth), dtype=bool)
    was_right = before == truth

    def measure(share: float) -> tuple[int, float]:
        found = answers(share)
        return int((was_right & (found != truth)).sum()), macro_f1(truth[held], found[held])

    flips, f1 = measure(1.0)
    best = Mixture(1.0, flips, flips, f1, f1)
    for share in sorted((share for share in shares if share < 1.0), reverse=True):
        if best.negative_flips == 0:
            break
        found_flips, found_f1 = measure(share)
        if found_flips < best.negative_flips and found_f1 >= f1:
            best = Mixture(share, found_flips, flips, found_f1, f1)
    return best
