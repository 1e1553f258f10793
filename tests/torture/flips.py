"""Ten thousand flips under load: no error, no answer of a version that was over, no wrong one, and no memory kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench import flips
from bench.result import Bar, Result

FLIPS = 10_000


def run(*, quick: bool, seed: int) -> Result:
    """The long form of `bench/flips.py`, on SQLite and PostgreSQL; `quick`: as many flips as the bench."""
    size = flips.sized(flips.FLIPS if quick else FLIPS)
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for kind in flips.DATABASES:
        with tempfile.TemporaryDirectory(prefix="intentloop-torture-") as name:
            with flips.database(kind, Path(name)) as url:
                seen, verdict = flips.measure(Path(name), url, size, seed=seed)
            flips.report(kind, size, seen, verdict, figures, bars)
    return Result(figures, bars)
