"""Play the loop on labelled texts: ask, label, wait for the batch and its flip, measure, until all are in."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final, Protocol

from app.exchange.labelled import LabelledRow
from app.simulation.client import Client, LoopFailed, wait_for
from app.simulation.curve import Curve, Point, Scores, scores
from app.simulation.oracle import Oracle, truths
from app.simulation.traffic import send_all

QUEUE_SECONDS: Final = 60.0
"""How long the queue may stay empty while texts are left to label."""

BATCH_SECONDS: Final = 3600.0
FLIP_SECONDS: Final = 60.0
PAGE: Final = 256
ASKED_SINGLY: Final = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play.

    Args:
        max_labels: stop after so many labels; None for all.
        recipe, base_model: how batches are trained; None as a new domain does.
    """

    train: Sequence[LabelledRow]
    test: Sequence[LabelledRow]
    batch_size: int
    seed: int = 0
    max_labels: int | None = None
    recipe: str | None = None
    base_model: str | None = None


@dataclass(slots=True)
class Outcome:
    """What was learned. `versions` were trained, `refused` of them did not pass the gate."""

    curve: Curve = field(default_factory=Curve)
    labels: int = 0
    versions: int = 0
    refused: int = 0


class Watch(Protocol):
    """Hears how far the loop is."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Something new begins, of `total` steps."""

    def advance(self, steps: int) -> None:
        """So many steps of the stage are done."""

    def progress(self, name: str, done: float) -> None:
        """The stage goes by this name now, and is done to this share."""

    def measured(self, point: Point) -> None:
        """A version was measured on the test file."""

    def refused(self, batch: Mapping[str, Any], reason: str) -> None:
        """The gate refused what a batch trained."""


def default_batch_size(train_size: int) -> int:
    """The product's 100 labels, or 8 % of the file if that is more: its curve then has thirteen points."""
    return max(100, ceil(0.08 * train_size))


def settings(batch_size: int) -> dict[str, object]:
    """What the service is told so that it goes at the pace of the simulation; the loop is the product's."""
    return {
        "BATCH_LABELS": batch_size,
        "BATCH_SHARE": 0,
        "BATCH_SMALL_LABELS": batch_size,
        "SELECTION_SIZE": min(batch_size, 10_000),
        "TRAIN_CRON": "* * * * * *",  # every second
        "SELECT_CRON": "*/2 * * * * *",
    }


def play(client: Client, plan: Plan, watch: Watch) -> Outcome:
    """Ask every train text, then label batch by batch and measure each version on the test texts.

    Test texts are asked with `train_allowed` false, so they never enter the queue.

    Raises:
        LoopFailed: a request failed, a batch failed, or something did not come in time.
    """
    known = truths(plan.train)
    client.put_taxonomy({"labels": sorted(set(known.values()))})
    if plan.recipe is not None:
        client.train_with(plan.recipe, plan.base_model)
    _ask(client, plan, distinct=len(known), watch=watch)
    oracle, outcome = Oracle(client, known), Outcome()
    goal = min(len(known), plan.max_labels or len(known))
    seen: str | None = None
    while _label_until_due(client, oracle, goal, seen, watch):
        seen = _next_batch(client, oracle, plan, outcome, seen, watch)
    if client.open_batch("the last labels of the simulation") is not None:
        _next_batch(client, oracle, plan, outcome, seen, watch)
    if oracle.unknown:
        raise LoopFailed(f"the queue offered {oracle.unknown} texts that were never asked for training")
    if outcome.curve.last is None:
        raise LoopFailed("no version was activated: there is nothing to measure")
    outcome.labels = oracle.answered
    return outcome


def _ask(client: Client, plan: Plan, *, distinct: int, watch: Watch) -> None:
    texts = [row.text for row in plan.train]
    random.Random(plan.seed).shuffle(texts)
    watch.stage("asking", len(texts))
    for sent in send_all(client, texts, singly=min(ASKED_SINGLY, len(texts)), page=PAGE):
        watch.advance(sent)
    wait_for(
        f"{distinct} distinct texts to be counted",
        lambda: client.stats()["texts"] >= distinct or None,
        seconds=QUEUE_SECONDS,
        every=0.2,
    )


def _label_until_due(client: Client, oracle: Oracle, goal: int, seen: str | None, watch: Watch) -> bool:
    """Label until the service has what it needs for a batch (True), or the labels are all given (False)."""
    watch.stage("labelling", None)
    deadline = time.monotonic() + QUEUE_SECONDS
    while True:
        missing = _labels_missing(client, seen)
        if missing == 0:
            return True
        if oracle.answered >= goal:
            return False
        if oracle.label(min(missing, goal - oracle.answered), done=watch.advance):
            deadline = time.monotonic() + QUEUE_SECONDS
        elif time.monotonic() > deadline:
            raise LoopFailed(f"waited {QUEUE_SECONDS:.0f} s for the queue to offer the last {oracle.left} texts")
        else:
            time.sleep(0.2)  # what is left are gold candidates, which the clock has yet to draw


def _labels_missing(client: Client, seen: str | None) -> int:
    """How many more labels a batch needs; 0 when one is due or was opened."""
    batch = client.newest_batch()
    if batch is not None and batch["batch_id"] != seen:
        return 0
    following = client.stats()["next_batch"]
    # With enough labels, but not two texts under each of two, any number more may do.
    return 0 if following["due"] else int(following["labels_missing"]) or 10


def _next_batch(client: Client, oracle: Oracle, plan: Plan, outcome: Outcome, seen: str | None, watch: Watch) -> str:
    """Wait until the batch after `seen` is done, and measure what came of it."""
    watch.stage("waiting for the clock to open a batch")
    opened = wait_for("the clock to open a batch", lambda: _other_than(client, seen), seconds=QUEUE_SECONDS)
    batch = wait_for(
        f"batch {opened} to be trained",
        lambda: _ended(client, opened, watch),
        seconds=BATCH_SECONDS,
        every=0.2,
    )
    if batch["training_status"] == "failed":
        raise LoopFailed(f"batch {opened} failed: {batch['error']}")
    outcome.versions += 1
    last = outcome.curve.last
    if batch["outcome"] == "activated":
        measured = measure(client, plan.test, version=batch["model_version"], watch=watch)
        last = Point(oracle.answered, measured, batch["model_version"])
    else:
        outcome.refused += 1
        watch.refused(batch, str(client.version(batch["model_version"])["reason"]))
        last = last and Point(oracle.answered, last.scores, last.version)
    if last is not None:
        outcome.curve.points.append(last)
        watch.measured(last)
    return opened


def _other_than(client: Client, seen: str | None) -> str | None:
    batch = client.newest_batch()
    return None if batch is None or batch["batch_id"] == seen else str(batch["batch_id"])


def _ended(client: Client, batch_id: str, watch: Watch) -> dict[str, Any] | None:
    batch = client.batch(batch_id)
    if batch["training_status"] in ("completed", "failed"):
        return batch
    watch.progress(f"{batch['training_status']}: {batch['stage'] or 'waiting'}", float(batch["progress"] or 0))
    return None


def measure(client: Client, test: Sequence[LabelledRow], *, version: str, watch: Watch) -> Scores:
    """Ask every test text of the version that has just been activated.

    Raises:
        LoopFailed: the service does not load it in time, or another version answers.
    """
    wait_for(
        f"the service to serve {version}",
        lambda: client.loaded_version() == version or None,
        seconds=FLIP_SECONDS,
    )
    watch.stage("measuring", len(test))
    answers: list[str | None] = []
    for start in range(0, len(test), PAGE):
        page = client.classify_batch([row.text for row in test[start : start + PAGE]], train_allowed=False)
        others = {answer.get("model_version") for answer in page} - {version}
        if others:
            raise LoopFailed(f"{others.pop()} answered a test text while {version} was active")
        answers += [answer["label"] for answer in page]
        watch.advance(len(page))
    return scores([row.label for row in test], answers)
