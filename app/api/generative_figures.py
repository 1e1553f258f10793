"""Figures of the generative tier: how often it was asked, answered or abstained, and how long that took."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

ANSWERED: Final = "answered"
# Seconds. One answer of a small model on a processor takes tenths of a second, and deadlines are seconds.
BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class GenerativeFigures:
    """What one process counts of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._asked = Counter(
            "generative_asked",
            "Questions that the generative tier was to judge",
            namespace="intentloop",
            registry=registry,
        )
        self._answered = Counter(
            "generative_answered", "Those of them that it judged", namespace="intentloop", registry=registry
        )
        self._abstained = Counter(
            "generative_abstained",
            "Those of them that were answered without it",
            ["reason"],
            namespace="intentloop",
            registry=registry,
        )
        self._seconds = Histogram(
            "generative_duration_seconds",
            "Time that a question waited for the generative tier",
            buckets=BUCKETS,
            namespace="intentloop",
            registry=registry,
        )

    def observe(self, outcome: str, seconds: float) -> None:
        """Count one question: `answered`, or one word for why not."""
        self._asked.inc()
        if outcome == ANSWERED:
            self._answered.inc()
        else:
            self._abstained.labels(outcome).inc()
        self._seconds.observe(seconds)
