"""Shares of what was counted, with the interval in which the true share lies."""

from math import sqrt
from typing import Final

_Z95: Final = 1.959963984540054


def wilson(right: int, counted: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson (1927), in [0, 1]; all of it when nothing was counted."""
    if counted <= 0:
        return 0.0, 1.0
    share, z2 = right / counted, _Z95**2
    centre = (share + z2 / (2 * counted)) / (1 + z2 / counted)
    half = _Z95 * sqrt(share * (1 - share) / counted + z2 / (4 * counted**2)) / (1 + z2 / counted)
    return max(0.0, centre - half), min(1.0, centre + half)


def clopper_pearson_upper(wrong: int, counted: int, confidence: float = 0.95) -> float:
    """What a share is at most, one-sided with this confidence, by Clopper & Pearson (1934); 1 when nothing was counted.

    The bound u for which  P(Binomial(counted, u) <= wrong) = 1 - confidence.
    """
    if counted <= 0 or wrong >= counted:
        return 1.0
    # scipy costs a tenth of a second to import, and a service that answers never needs it.
    from scipy.special import betaincinv

    return float(betaincinv(wrong + 1, counted - wrong, confidence))
