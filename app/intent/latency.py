"""Durations as a histogram of few buckets, from which quantiles are read.

Within a tenth where durations vary, within a fifth where they are all alike: a bucket is known, a place in it is not.
"""

import math
from collections.abc import Mapping
from typing import Final

FIRST_MS: Final = 0.05
"""The upper bound of bucket 0."""

PER_DOUBLING: Final = 4
"""Buckets from one bound to twice that bound: each is 19 % wide. Each is a row for every day."""

LAST: Final = 99
"""The last bucket: above 23 minutes, and everything beyond."""


def bucket_of(milliseconds: float) -> str:
    """The bucket of a duration: two digits that sort as the bounds do."""
    if milliseconds <= FIRST_MS:
        return "00"
    return f"{min(LAST, math.ceil(math.log2(milliseconds / FIRST_MS) * PER_DOUBLING - 1e-9)):02d}"


def upper_bound_ms(bucket: str) -> float:
    """The longest duration of a bucket."""
    return FIRST_MS * math.exp2(int(bucket) / PER_DOUBLING)


def quantile_ms(counts: Mapping[str, int], quantile: float) -> float | None:
    """The duration below which this share in (0, 1) lies, or None without any. `counts`: by bucket.

    Between the bounds of its bucket it is interpolated geometrically, as the buckets grow.
    """
    total = sum(counts.values())
    if total <= 0:
        return None
    wanted, below = quantile * total, 0
    for bucket in sorted(counts):
        if below + counts[bucket] >= wanted:
            share = (wanted - below) / counts[bucket]
            upper = upper_bound_ms(bucket)
            return round(upper * math.exp2((share - 1.0) / PER_DOUBLING), 3)
        below += counts[bucket]
    return round(upper_bound_ms(max(counts)), 3)
