"""Which parts of a benchmark are run: `INTENTLOOP_BENCH_ONLY` names them, separated by commas."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.result import CannotRun


def chosen(*groups: Sequence[str]) -> list[list[str]]:
    """Of each group of parts those that are named, in their order; the whole group where none of it is.

    Raises:
        CannotRun: something is named that is no part: with a slip of the pen all would run, for hours.
    """
    named = {part for part in os.environ.get("INTENTLOOP_BENCH_ONLY", "").split(",") if part}
    known = [part for group in groups for part in group]
    if unknown := sorted(named.difference(known)):
        raise CannotRun(f"INTENTLOOP_BENCH_ONLY names {', '.join(unknown)}; there are: {', '.join(known)}")
    return [[part for part in group if part in named] or list(group) for group in groups]
