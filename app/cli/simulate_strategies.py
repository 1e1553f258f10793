"""Play strategies of selection against each other on texts whose labels are known, for `intentloop simulate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from app.cli.opening import database, settings
from app.exchange.labelled import LabelledRow, UnreadableFile
from app.intent.arrays import FloatArray, IntArray
from app.intent.masking import mask
from app.intent.text import MaskedText, normalise
from app.intent.text_embedding import embed_texts
from app.services import exports
from app.simulation.oracle import key
from app.simulation.strategy_replay import Ground, Steps, chooser, full_accuracy, replay

REPLAYED = ("ngram", "head")
"""Recipes whose classifier is fitted in a second."""

LEAST_TEST = 20
_MAX_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Contest:
    """Which strategies meet, with which seeds, and in which steps.

    Args:
        names: keys of the strategies' table, or `mix`.
        most: stop after so many labels; None for all.
        base: folder of the pretrained model whose embeddings `head` sees; None for `ngram`.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    batch: int
    most: int | None = None
    base: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a name that is not in the table.

        Raises:
            ValueError: says which.
        """
        for name in self.names:
            chooser(name)


def history(domain: str) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """A domain's labelled texts that may be trained on, and its labelled gold: what was drawn uniformly and held out.

    Raises:
        DomainNotFound: there is none.
        UnreadableFile: too little of one of them is labelled.
    """
    parts = []
    with database(settings()) as work:
        for split in ("train", "gold"):
            export = work.read(exports.begin, domain, split=split)
            rows: list[LabelledRow] = []
            after: str | None = ""
            while after is not None:
                texts, after = work.read(exports.page, export, after)
                rows += [LabelledRow(len(rows) + number, text.text, text.label) for number, text in enumerate(texts, 1)]
            parts.append(rows)
    train, gold = parts
    if len(gold) < LEAST_TEST:
        raise UnreadableFile(
            f"{domain} has {len(gold)} labelled gold texts: strategies are measured on them, and it takes {LEAST_TEST}"
        )
    return train, gold


def play(
    train: Sequence[LabelledRow], test: Sequence[LabelledRow], contest: Contest, console: Console
) -> tuple[dict[str, list[Steps]], float]:
    """The runs of each strategy, one for each seed, and the accuracy with all labels."""
    ground = _ground(train, test, contest.base)
    full = full_accuracy(ground)
    found: dict[str, list[Steps]] = {name: [] for name in contest.names}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("replaying", total=len(contest.seeds) * len(contest.names))
        for seed in contest.seeds:
            for name in contest.names:
                progress.update(bar, description=f"{name}, seed {seed}")
                run = replay(ground, chooser(name), seed=seed, batch=contest.batch, most=contest.most)
                found[name].append(run)
                progress.advance(bar)
    return found, full


def _ground(train: Sequence[LabelledRow], test: Sequence[LabelledRow], base: Path | None) -> Ground:
    """Each distinct text once, masked as it would be stored; where rows disagree, the first one counts."""
    pool: dict[str, tuple[MaskedText, str]] = {}
    for row in train:
        pool.setdefault(key(row.text), (mask(normalise(row.text)), row.label))
    texts = [text for text, _ in pool.values()]
    asked = [mask(normalise(row.text)) for row in test]
    numbers: dict[str, int] = {}
    for label in [*(label for _, label in pool.values()), *(row.label for row in test)]:
        numbers.setdefault(label, len(numbers))
    targets = np.array([numbers[label] for _, label in pool.values()], dtype=np.int64)
    truth = np.array([numbers[row.label] for row in test], dtype=np.int64)
    # Only here: what trains takes a second to load, and for a pretrained model torch with it.
    from trainer.plain_fits import NgramFits, head_probabilities

    probabilities: Callable[[IntArray, IntArray], FloatArray]
    if base is None:
        embeddings = embed_texts(texts)
        probabilities = NgramFits([*texts, *asked]).probabilities
    else:
        from trainer.encoders.backbone import load_backbone

        vectors = load_backbone(base, max_length=_MAX_LENGTH).embed([*texts, *asked])
        embeddings = vectors[: len(texts)]
        probabilities = partial(head_probabilities, vectors)

    def fit(rows: IntArray, columns: IntArray) -> tuple[FloatArray, FloatArray]:
        answers = probabilities(rows, columns)
        return answers[: len(texts)], answers[len(texts) :]

    return Ground(embeddings, targets, truth, fit)


def described(contest: Contest, train: Sequence[LabelledRow], test: Sequence[LabelledRow]) -> dict[str, Any]:
    """What was played, for the report."""
    return {
        "recipe": "ngram" if contest.base is None else "head",
        "train_texts": len({key(row.text) for row in train}),
        "test_texts": len(test),
        "batch": contest.batch,
        "seeds": len(contest.seeds),
    }
