"""Ask questions as a product would: a few texts come often, the rate is steady, every answer is tallied."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Final, TypeVar

from app.simulation.client import Client, RequestFailed

T = TypeVar("T")

NEW_SHARE: Final = 0.4
"""Share of the questions that nobody asked before."""


def stream(rows: Sequence[T], rng: random.Random, *, new_share: float = NEW_SHARE) -> Iterator[tuple[T, bool]]:
    """An endless stream of rows, and whether each comes for the first time.

    With probability `new_share` the next row that was not asked yet, otherwise a repetition of an earlier
    question drawn uniformly (Simon, "On a class of skew distribution functions", 1955): the counts follow
    Zipf's law. When all rows were asked, only repetitions follow.
    """
    if not rows:
        raise ValueError("there is nothing to ask")
    waiting = list(rows)
    rng.shuffle(waiting)
    asked: list[T] = []
    while True:
        new = bool(waiting) and (not asked or rng.random() < new_share)
        row = waiting.pop() if new else rng.choice(asked)
        asked.append(row)
        yield row, new


@dataclass(slots=True)
class Tally:
    """What one version answered. `fresh`: among texts that were never asked before, so never trained on."""

    asked: int = 0
    correct: int = 0
    fresh_asked: int = 0
    fresh_correct: int = 0
    methods: Counter[str] = field(default_factory=Counter)

    def count(self, truth: str, answer: str | None, method: str, *, fresh: bool) -> None:
        """Count one answer."""
        correct = truth == answer
        self.asked += 1
        self.correct += correct
        self.methods[method] += 1
        if fresh:
            self.fresh_asked += 1
            self.fresh_correct += correct

    @property
    def accuracy(self) -> float | None:
        """Of all answers, or None without any."""
        return self.correct / self.asked if self.asked else None

    @property
    def fresh_accuracy(self) -> float | None:
        """Of the answers to texts never asked before, or None without any."""
        return self.fresh_correct / self.fresh_asked if self.fresh_asked else None

    def copy(self) -> "Tally":
        """A tally that counts on by itself."""
        return Tally(
            self.asked,
            self.correct,
            self.fresh_asked,
            self.fresh_correct,
            self.methods.copy(),
        )


class Traffic:
    """Threads that ask one question after another until they are stopped; a failed request stops none."""

    def __init__(
        self,
        client: Client,
        truths: Mapping[str, str],
        rng: random.Random,
        *,
        per_second: float,
        threads: int = 2,
    ) -> None:
        """`truths`: the label of each text."""
        self._client = client
        self._truths = truths
        self._stream = stream(list(truths), rng)
        self._interval = threads / per_second
        self._lock = Lock()
        self._stopped = Event()
        self._tallies: dict[str | None, Tally] = {}
        self._threads = [Thread(target=self._run, name=f"traffic-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the questions that are under way."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def tallies(self) -> dict[str | None, Tally]:
        """What each version answered so far; under None what was answered without one."""
        with self._lock:
            return {version: tally.copy() for version, tally in self._tallies.items()}

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            with self._lock:
                text, fresh = next(self._stream)
            try:
                answer = self._client.classify(text)
            except RequestFailed:
                pass  # the client has counted it
            else:
                with self._lock:
                    tally = self._tallies.setdefault(answer["model_version"], Tally())
                    tally.count(self._truths[text], answer["label"], answer["method"], fresh=fresh)
            due = max(due + self._interval, time.monotonic() - self._interval)
            self._stopped.wait(due - time.monotonic())


def send_all(client: Client, texts: Sequence[str], *, singly: int, page: int = 256) -> Iterator[int]:
    """Ask every text once, the first `singly` one by one, the rest in pages; yields how many each time."""
    for text in texts[:singly]:
        client.classify(text)
        yield 1
    for start in range(singly, len(texts), page):
        part = texts[start : start + page]
        client.classify_batch(part)
        yield len(part)
