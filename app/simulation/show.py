"""The demonstration: traffic that never stops, one labeler, and a clock that trains and flips meanwhile."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app import sample
from app.simulation.client import Client, LoopFailed
from app.simulation.oracle import Oracle, PacedOracle, truths
from app.simulation.traffic import Traffic
from app.simulation.versions import Account, VersionBook, VersionRow, account

LOOK_SECONDS: Final = 0.3
LAST_VERSION_SECONDS: Final = 6.0
"""How long the last version goes on answering, so that its row says something."""

BATCH_SECONDS: Final = 180.0

LEAST_PRECISION: Final = 0.9
LEAST_SUPPORT: Final = 4
MOST_REVIEWED: Final = 8

Screen = Callable[[Sequence[VersionRow], str], None]
"""Shows the rows of the table and one sentence about what happens at this moment."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the demonstration goes: about a minute and a half."""

    questions_per_second: float = 40.0
    labels_per_second: float = 11.0
    labels: int = 900
    batch_labels: int = 90


def settings(pace: Pace) -> dict[str, object]:
    """What the service is told so that a batch opens every few seconds and not every few days."""
    return {
        "BATCH_LABELS": pace.batch_labels,
        "BATCH_SHARE": 0,
        "TRAIN_CRON": "* * * * * *",  # every second
        "SELECT_CRON": "*/2 * * * * *",
    }


def show(client: Client, screen: Screen, *, pace: Pace, seed: int) -> Account:
    """Run the loop on the bundled sample until all labels are given and the last batch is through.

    Raises:
        LoopFailed: nothing was activated, or a batch failed or did not end in time.
    """
    rows = sample.questions()
    client.put_taxonomy(sample.taxonomy())
    for rule in sample.rules():
        client.add_rule(rule)
    traffic = Traffic(
        client,
        {row.text: row.label for row in rows},
        random.Random(seed),
        per_second=pace.questions_per_second,
    )
    oracle = Oracle(client, truths(rows), labelers=1)
    labeler = PacedOracle(oracle, client, per_second=pace.labels_per_second, labels=pace.labels)
    book = VersionBook(client)
    traffic.start()
    labeler.start()
    try:
        _follow(client, book, traffic, labeler, screen, oracle)
    finally:
        labeler.stop()
        traffic.stop()
    shown = book.rows(client.stats(), traffic.tallies(), client.loaded_version())
    screen(shown, "done")
    if not any(row.state == "serving" for row in shown):
        raise LoopFailed("no version was activated")
    return account(shown, labels=oracle.answered, client=client)


def _follow(
    client: Client, book: VersionBook, traffic: Traffic, labeler: PacedOracle, screen: Screen, oracle: Oracle
) -> None:
    """Look and show until all is done."""
    idle_since = deadline = None
    looked_at = 0
    while True:
        stats = client.stats()
        _refuse_failures(client, stats)
        if len(stats["versions"]) > looked_at:
            looked_at = len(stats["versions"])
            _review_rules(client)
        rows = book.rows(stats, traffic.tallies(), client.loaded_version())
        busy = labeler.working or _training(stats) > 0 or any(row.state == "loading" for row in rows)
        screen(rows, _sentence(stats, oracle, labeler))
        moment = time.monotonic()
        if busy:
            idle_since = None
            deadline = None if labeler.working else deadline or moment + BATCH_SECONDS
            if deadline and moment > deadline:
                raise LoopFailed(f"waited {BATCH_SECONDS:.0f} s for the last batch to end")
        elif idle_since is None:
            idle_since = moment
        elif moment - idle_since > LAST_VERSION_SECONDS:
            return
        time.sleep(LOOK_SECONDS)


def _review_rules(client: Client) -> None:
    """Once for each version, activate the best of the mined rules that wait, as a person would by their evidence."""
    waiting = [rule for rule in client.rules(status="candidate") if rule["source"] == "mined"]
    good = [rule for rule in waiting if rule["precision"] >= LEAST_PRECISION and rule["support"] >= LEAST_SUPPORT]
    for rule in sorted(good, key=lambda rule: (-rule["precision_lower"], rule["id"]))[:MOST_REVIEWED]:
        client.activate_rule(rule["id"])


def _refuse_failures(client: Client, stats: Mapping[str, Any]) -> None:
    """The clock would try a failed batch again in a minute; a demonstration says so instead of waiting."""
    batch = client.newest_batch() if stats["batches"].get("failed") else None
    if batch is not None:
        raise LoopFailed(f"batch {batch['batch_id']} failed: {batch['error']}")


def _training(stats: Mapping[str, Any]) -> int:
    statuses = ("pending", "queued", "training", "evaluating")
    running = sum(int(stats["batches"].get(status, 0)) for status in statuses)
    return running + bool(stats["next_batch"]["due"])


def _sentence(stats: Mapping[str, Any], oracle: Oracle, labeler: PacedOracle) -> str:
    rules = stats["rules"]
    said = (
        f"{stats['questions']} questions logged, {oracle.answered} texts labelled; "
        f"{rules['by_status'].get('active', 0)} rules serve, used {rules['usage']} times"
    )
    if _training(stats):
        return f"{said}; a batch is training while the service answers"
    if labeler.working:
        return f"{said}; {stats['next_batch']['labels_missing']} labels until the next batch"
    return f"{said}; the labeler is done"
