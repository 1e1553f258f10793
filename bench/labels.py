"""Labels that selection saves: the default mix beside random choice and small-text, to 95 % of full accuracy.

Each set's training texts are the pool; their labels are revealed batch by batch, the classifier is fitted anew after
each batch and measured on the test texts. The classifier and the features are one and the same for all that are
compared: the `ngram` recipe (features of its own, weighed over the labelled texts) or the linear head of `head` on
MiniLM embeddings, each at the middle one of its strengths and without calibration, which a replay does not need.
Selection sees those embeddings, or for `ngram` the ones that need no model (`app/intent/text_embedding.py`). No gold is
drawn on any side: what is compared are training labels.

Labels to 95 %: to reach 95 % of the accuracy that the same classifier has with the whole pool labelled, linear between
two steps on all sides, the median over the seeds. Seeds are paired: random choice and small-text, which has no start of
its own but a random one, begin with the same first batch; the mix begins with typical texts, as the service does while
it has no model. `worst_step` is the mix's lowest lead over random at any step after the first up to random's last, the
mean over the seeds, in points.

small-text: breaking ties, and of its other strategies that run on given features the one that needs the fewest labels
with the first seed, if it needs no more than breaking ties does; the lower of the two counts.

Data: smp2017-ecdt, thucnews-titles (`valid` is the pool), banking77, clinc150 (in scope), of the folder named by
INTENTLOOP_BENCH_DATA (or ../shared/data). It takes most of an hour of one core; `--quick` two seeds and two sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.text_embedding import embed_texts
from app.simulation.strategy_replay import MIX, Chooser, Ground, Steps, chooser, full_accuracy, replay
from app.simulation.strategy_report import RANDOM, labels_to, median_labels, worst_step
from bench.accuracy import FORMS, rows_of
from bench.embedding import embed
from bench.result import Bar, Result
from bench.small_text_strategies import BREAKING_TIES, choosers
from trainer.plain_fits import NgramFits, head_probabilities

SEEDS = (0, 1, 2, 3, 4)
SHARE = 0.95
LOWEST_STEP = -0.5
_QUICK = ("smp2017-ecdt", "banking77")


@dataclass(frozen=True, slots=True)
class Set:
    """A data set: `most` is the promised share of random's labels. `head`: on MiniLM, else `ngram`."""

    name: str
    batch: int
    most: float
    head: bool


SETS = (
    Set("smp2017-ecdt", 100, 0.55, head=False),
    Set("thucnews-titles", 200, 0.60, head=False),
    Set("banking77", 200, 0.62, head=True),
    Set("clinc150", 200, 0.70, head=True),
)


def run(*, quick: bool) -> Result:
    """Replay every set and judge it."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for given in SETS:
        if quick and given.name not in _QUICK:
            continue
        began = time.monotonic()
        found, full = replay_set(read_ground(given), given.batch, SEEDS[:2] if quick else SEEDS, choosers())
        of_set, bars_of_set = judge(given, found, full)
        figures |= of_set
        bars |= bars_of_set
        print(f"{given.name}: {of_set}, {time.monotonic() - began:.0f} s", flush=True)
    return Result(figures, bars)


def replay_set(
    ground: Ground, batch: int, seeds: Sequence[int], small_text: Mapping[str, Chooser]
) -> tuple[dict[str, list[Steps]], float]:
    """The runs of each seed by name, `RANDOM`, `MIX` and those of small-text, and the full accuracy."""
    full = full_accuracy(ground)
    enough = SHARE * full
    by_chance = chooser(RANDOM)
    found: dict[str, list[Steps]] = {RANDOM: [], MIX: []}

    def by_small_text(name: str, seed: int, most: int | None = None) -> Steps:
        return replay(ground, small_text[name], seed=seed, batch=batch, most=most, enough=enough, first_by=by_chance)

    for seed in seeds:
        found[RANDOM].append(replay(ground, by_chance, seed=seed, batch=batch, enough=enough))
        # As far as random went: it is compared at every step.
        most = found[RANDOM][-1].labels[-1]
        found[MIX].append(replay(ground, chooser(MIX), seed=seed, batch=batch, most=most))
    print({name: median_labels(runs, enough) for name, runs in found.items()}, flush=True)
    found[BREAKING_TIES] = [by_small_text(BREAKING_TIES, seed) for seed in seeds]
    print({BREAKING_TIES: median_labels(found[BREAKING_TIES], enough)}, flush=True)
    best = found[BREAKING_TIES][0].labels[-1]
    screened = {
        name: labels_to(by_small_text(name, seeds[0], most=best), enough)
        for name in small_text
        if name != BREAKING_TIES
    }
    print(f"with the first seed: {screened}", flush=True)
    others = {name: labels for name, labels in screened.items() if labels is not None}
    if others:
        name = min(others, key=lambda name: others[name])
        found[name] = [by_small_text(name, seed) for seed in seeds]
    return found, full


def judge(given: Set, found: Mapping[str, Sequence[Steps]], full: float) -> tuple[dict[str, float], dict[str, Bar]]:
    """The figures and the bars of one set."""
    labels = {name: median_labels(runs, SHARE * full) for name, runs in found.items()}
    needed = {name: float("inf") if count is None else count for name, count in labels.items()}
    theirs = min(count for name, count in needed.items() if name not in (MIX, RANDOM))
    worst = 100.0 * worst_step(found[MIX], found[RANDOM])
    figures = {f"{given.name}.{name}": round(count, 1) for name, count in needed.items()}
    figures[f"{given.name}.full_accuracy"] = round(full, 4)
    bars = {
        f"{given.name}.over_random": Bar(round(needed[MIX] / needed[RANDOM], 3), at_most=given.most),
        f"{given.name}.over_small_text": Bar(round(needed[MIX] / theirs, 3), at_most=1.0),
        f"{given.name}.worst_step": Bar(round(worst, 2), at_least=LOWEST_STEP),
    }
    return figures | {name: bar.value for name, bar in bars.items()}, bars


def read_ground(given: Set) -> Ground:
    """The pool, what selection sees of it, and the classifier.

    Raises:
        CannotRun: the data, or what embeds them, are not here.
    """
    form = next(form for form in FORMS if form.name == given.name)
    train, test = dict(rows_of(form.folder, form.train)), rows_of(form.folder, "test")
    texts, asked = tuple(train), tuple(text for text, _ in test)
    numbers = {label: number for number, label in enumerate(sorted({*train.values(), *(label for _, label in test)}))}
    targets = np.array([numbers[label] for label in train.values()], dtype=np.int64)
    truth = np.array([numbers[label] for _, label in test], dtype=np.int64)
    probabilities: Callable[[IntArray, IntArray], FloatArray]
    if given.head:
        vectors = np.concatenate([embed(texts), embed(asked)])
        embeddings = vectors[: len(texts)]
        probabilities = partial(head_probabilities, vectors)
    else:
        probabilities = NgramFits([*texts, *asked]).probabilities
        embeddings = embed_texts(texts)

    def fit(rows: IntArray, columns: IntArray) -> tuple[FloatArray, FloatArray]:
        answers = probabilities(rows, columns)
        return answers[: len(texts)], answers[len(texts) :]

    return Ground(embeddings, targets, truth, fit)
