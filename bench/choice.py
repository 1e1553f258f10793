"""Which parts of a benchmark are run: `INTENTLOOP_BENCH_ONLY` names them, separated by commas."""

from __future__ import annotations

import os
from collections.abc import Sequence


def chosen(parts: Sequence[str]) -> list[str]:
    """Those of these parts that are named, in their order; all of them where none is."""
    named = set(os.environ.get("INTENTLOOP_BENCH_ONLY", "").split(","))
    return [part for part in parts if part in named] or list(parts)
