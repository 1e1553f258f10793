"""Cut a list of texts into runs of an encoder so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence

MOST_ROWS = 32
# Attention grows with rows x length x length: 8 rows of 512 tokens take about 100 MB, 32 of 64 take a tenth of it.
MOST_TOKENS = 4096
# What a run costs beside its tokens, in tokens: measured with MiniLM, one thread, 14 tokens a text.
RUN_COST = 4


def runs(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of `lengths`, each in one run, so that the cost of all runs together is the least.

    A run of k texts costs `RUN_COST` + k x its longest length, so texts of like length end up together. A run has at
    most `MOST_ROWS` texts and `MOST_TOKENS` tokens, or one text.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    # least[n]: the cost of the n shortest texts; began[n]: where the run of the longest of them begins.
    least, began = [0] * (len(order) + 1), [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = max(1, lengths[order[end - 1]])
        first = max(0, end - max(1, min(MOST_ROWS, MOST_TOKENS // longest)))
        least[end], began[end] = min((least[n] + RUN_COST + (end - n) * longest, n) for n in range(first, end))
    found: list[list[int]] = []
    end = len(order)
    while end:
        found.append(order[began[end] : end])
        end = began[end]
    return found[::-1]
