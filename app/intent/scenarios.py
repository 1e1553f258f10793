"""What is large enough to be a scenario, and how much is looked at."""

from collections.abc import Iterable
from typing import Final

MOST_TEXTS: Final = 4_000
"""Texts that may be grouped at once: their 8 million distances take 64 MB, and some seconds."""

LEAST_TEXTS: Final = 5
LEAST_QUESTIONS: Final = 10
MOST_SCENARIOS: Final = 50


def is_large_enough(counts: Iterable[int]) -> bool:
    """Whether texts that were asked so often are enough: 5 texts and 10 questions.

    One that was never asked, being imported, counts once.
    """
    times = [max(int(count), 1) for count in counts]
    return len(times) >= LEAST_TEXTS and sum(times) >= LEAST_QUESTIONS
