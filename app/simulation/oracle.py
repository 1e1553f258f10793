"""Label as a person would, over HTTP and leases, but knowing the true label of every text."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from threading import Event, Lock, Thread
from typing import Any, Final

from app.exchange.labelled import LabelledRow
from app.intent.masking import mask
from app.intent.text import normalise, text_key
from app.simulation.client import Client, RequestFailed

PAGE: Final = 100
"""Most texts that one labeler may hold."""


def key(text: str) -> str:
    """What two spellings of one text share. The queue shows texts masked, so the oracle knows them masked."""
    return text_key(mask(normalise(text)))


def truths(rows: Iterable[LabelledRow]) -> dict[str, str]:
    """The label of each distinct text by its key; where rows disagree, the first one counts."""
    known: dict[str, str] = {}
    for row in rows:
        known.setdefault(key(row.text), row.label)
    return known


class Oracle:
    """Labelers who share what they know. What they do not know is skipped, and counted in `unknown`."""

    def __init__(self, client: Client, known: Mapping[str, str], *, labelers: int = 4) -> None:
        """`known`: from `truths`."""
        self._client = client
        self._known = known
        self._labelers = labelers
        self._lock = Lock()
        self._answered: set[str] = set()
        self.unknown = 0

    @property
    def answered(self) -> int:
        """How many distinct texts it has labelled."""
        return len(self._answered)

    @property
    def left(self) -> int:
        """How many of the texts that it knows were not labelled yet."""
        return len(self._known) - len(self._answered)

    def label(self, wanted: int, *, done: Callable[[int], None] = lambda _: None) -> int:
        """Lease and label up to `wanted` texts, spread over the labelers, and return how many it were.

        Raises:
            RequestFailed: a request failed, counted by the client.
        """
        share, rest = divmod(wanted, self._labelers)
        shares = [share + (position < rest) for position in range(self._labelers)]
        names = [f"oracle-{position}" for position in range(self._labelers)]
        with ThreadPoolExecutor(self._labelers) as pool:
            return sum(pool.map(self._label_share, names, shares, repeat(done)))

    def _label_share(self, labeler_id: str, wanted: int, done: Callable[[int], None]) -> int:
        labelled = 0
        while labelled < wanted:
            items = self._client.unlabelled(labeler_id, limit=min(PAGE, wanted - labelled))
            if not items:
                break
            for item in items:
                if self.answer(item, labeler_id):
                    labelled += 1
                    done(1)
        return labelled

    def answer(self, item: Mapping[str, Any], labeler_id: str) -> bool:
        """Give a leased text its true label, or skip it when it is unknown; whether it was labelled."""
        text = key(item["question"])
        label = self._known.get(text)
        if label is None:
            self._client.skip(item, labeler_id=labeler_id)
            with self._lock:
                self.unknown += 1
            return False
        self._client.label(item, label, labeler_id=labeler_id)
        with self._lock:
            self._answered.add(text)
        return True


class PacedOracle:
    """One labeler that works at a pace one can follow, until it has given its labels or is stopped."""

    def __init__(self, oracle: Oracle, client: Client, *, per_second: float, labels: int) -> None:
        self._oracle = oracle
        self._client = client
        self._interval = 1.0 / per_second
        self._labels = labels
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="oracle", daemon=True)

    @property
    def working(self) -> bool:
        """Whether it has labels left to give."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to label."""
        self._thread.start()

    def stop(self) -> None:
        """End after the text in hand; what is still leased goes back by itself."""
        self._stopped.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set() and self._oracle.answered < self._labels:
            try:
                for item in self._client.unlabelled("oracle", limit=min(5, self._labels - self._oracle.answered)):
                    self._oracle.answer(item, "oracle")
                    due = max(due + self._interval, time.monotonic() - 1.0)
                    if self._stopped.wait(due - time.monotonic()):
                        return
            except RequestFailed:
                pass  # the client has counted it
            self._stopped.wait(0.05)
