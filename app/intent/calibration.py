"""Fit the threshold from which on a verdict stands, on answers to texts that the model had not seen."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray

LOWEST: Final = 0.50
HIGHEST: Final = 0.90
STEP: Final = 0.01
TARGET_ACCURACY: Final = 0.90


def fit_threshold(confidence: FloatArray, correct: NDArray[np.bool_], *, target: float = TARGET_ACCURACY) -> float:
    """The lowest τ of 0.50, 0.51 … 0.90 from which on answers are right in at least `target` of the cases.

    0.50 where answers of any confidence are that good. 0.90 where no τ reaches the target or there is nothing to fit
    on: a person rather looks once too often. `confidence`: shape (n,), in [0, 1]; `correct`: shape (n,); both out of
    fold, never gold.
    """
    right = np.asarray(correct, dtype=bool)
    if len(right) == 0:
        return HIGHEST
    if right.mean() >= target:
        return LOWEST
    for hundredths in range(round(LOWEST / STEP), round(HIGHEST / STEP) + 1):
        threshold = hundredths / 100
        above = np.asarray(confidence) >= threshold
        if above.any() and right[above].mean() >= target:
            return threshold
    return HIGHEST
