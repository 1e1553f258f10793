"""Tell whether further labels still change what models answer, by how well one agrees with the next on fixed texts."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.intent.arrays import IntArray

AGREED: Final = 0.99
VERSIONS: Final = 3


def cohens_kappa(first: IntArray, second: IntArray) -> float:
    """Agreement of two models beyond that of chance, at most 1; below 0 where they agree less than by chance.

    `first`, `second`: shape (n,), n > 0, the label id that each gave to each text; a label that only one of them gives
    counts as any other, and so does no answer. (Cohen 1960.) Two models that give every text one and the same label
    agree wholly, though chance alone would make them: 1.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"{len(first)} answers against {len(second)}")
    _, coded = np.unique(np.concatenate([first, second]), return_inverse=True)
    shares = [np.bincount(half, minlength=int(coded.max()) + 1) / len(first) for half in np.split(coded, 2)]
    by_chance = float(shares[0] @ shares[1])
    agreed = float((first == second).mean())
    return 1.0 if agreed == 1.0 else (agreed - by_chance) / (1.0 - by_chance)


def have_stabilised(kappas: Sequence[float]) -> bool:
    """Whether the last three versions each answered as the one before them, the newest last.

    Stabilizing predictions (Bloodgood & Vijay-Shanker 2009) asks for three in a row at 0.99, on texts that need no
    label; there it is their mean that counts, here each of them.
    """
    return len(kappas) >= VERSIONS and all(kappa >= AGREED for kappa in kappas[-VERSIONS:])
