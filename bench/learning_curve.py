"""How well the learning curve foretells macro-F1 at twice the labels, beside what people do without one.

Anchors: the last version's figure carried forward, and a straight line in log n through all versions (least squares).
They are fair because all three see the same versions of the same run, measured on the same gold. Ours is
`app.intent.learning_curve` as `intentloop labels worth` calls it.

Data: smp2017-ecdt and thucnews-titles (TF-IDF of characters), banking77 and clinc150 (embeddings of MiniLM), all with
scikit-learn's `LogisticRegression(C=20)`, of the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data). Three
orders of the training texts; sixteen versions, of 1 to 16 steps; gold is 100, 300 and 600 texts drawn from the test
texts, five times each. Forecasts are made from the first 4 to 8 versions for twice their labels. The weights and the
allowance for misfit were chosen while looking at these sets: none is a clean hold-out.

Figures: the median absolute error against what the same gold measures there; how often the 95 % interval held that
(`inside_gold`) and the macro-F1 on all test texts (`inside_truth`); and how often the interval of the labels needed to
reach the latter held the true number (`inside_needed`). Forecasts of one set share texts, so they are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.evaluation import INTERVAL, encode, macro_f1, macro_f1_resampled, resample_weights
from app.intent.learning_curve import Point, fit_learning_curve
from bench.embedding import embed
from bench.minilm import rows
from bench.result import Bar, Result

VERSIONS = 16
ORDERS = (0, 1, 2)
GOLD, DRAWS = (100, 300, 600), 5
FROM = (4, 5, 6, 7, 8)
MOST_TEST = 3_000
MOST_OF_THE_ANCHOR = 0.75
LEAST_INSIDE = 0.9


@dataclass(frozen=True, slots=True)
class Form:
    """A data set: its training and test part, the labels of a step, and what its texts are read as."""

    name: str
    train: str
    step: int
    embedded: bool


FORMS = (
    Form("smp2017-ecdt", "train", 150, False),
    Form("thucnews-titles", "valid", 200, False),
    Form("banking77", "train", 400, True),
    Form("clinc150", "train", 600, True),
)


@dataclass(frozen=True, slots=True)
class Run:
    """Versions of one order. `labels`: shape (versions,); `answers`: shape (versions, n_test); `truth`: (n_test,)."""

    labels: IntArray
    answers: IntArray
    truth: IntArray


@dataclass(frozen=True, slots=True)
class Forecast:
    """Absolute errors of ours and both anchors, and what our intervals held."""

    ours: float
    last: float
    line: float
    inside_gold: bool
    inside_truth: bool
    inside_needed: bool


def run(*, quick: bool) -> Result:
    """Train, foretell, compare."""
    found: dict[str, list[Forecast]] = {}
    for form in FORMS[:1] if quick else FORMS:
        found[form.name] = [one for made in _runs(form) for one in _forecasts(made)]
        print(_line(form.name, found[form.name]), flush=True)
    every = [one for forecasts in found.values() for one in forecasts]
    print(_line("all", every))
    figures = {
        f"{name}.{figure}": value
        for name, some in {**found, "all": every}.items()
        for figure, value in _of(some).items()
    }
    best = min(figures["all.last"], figures["all.line"])
    bars = {
        "error_over_best_anchor": Bar(round(figures["all.ours"] / best, 4), at_most=MOST_OF_THE_ANCHOR),
        "inside_gold": Bar(figures["all.inside_gold"], at_least=LEAST_INSIDE),
    }
    return Result(figures, bars)


def _of(forecasts: Sequence[Forecast]) -> dict[str, float]:
    errors = {name: [getattr(one, name) for one in forecasts] for name in ("ours", "last", "line")}
    inside = {
        name: [getattr(one, name) for one in forecasts] for name in ("inside_gold", "inside_truth", "inside_needed")
    }
    return {
        **{name: round(float(np.median(values)), 4) for name, values in errors.items()},
        **{name: round(float(np.mean(values)), 3) for name, values in inside.items()},
    }


def _line(name: str, forecasts: Sequence[Forecast]) -> str:
    told = ", ".join(f"{figure} {value}" for figure, value in _of(forecasts).items())
    return f"{name} ({len(forecasts)} forecasts): {told}"


def _runs(form: Form) -> Iterator[Run]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = rows(form.train, form.name), rows("test", form.name)
    test = [test[place] for place in np.random.default_rng(0).permutation(len(test))[:MOST_TEST]]
    names = sorted({label for _, label in (*train, *test)})
    targets, truth = (np.searchsorted(names, [label for _, label in part]).astype(np.int64) for part in (train, test))
    known: Any = embed([text for text, _ in train]) if form.embedded else None
    asked: Any = embed([text for text, _ in test]) if form.embedded else None
    for seed in ORDERS:
        order = np.random.default_rng(seed).permutation(len(train))
        labels = [form.step * count for count in range(1, VERSIONS + 1) if form.step * count <= len(train)]
        answers = []
        for count in labels:
            places = order[:count]
            if form.embedded:
                features, questions = known[places], asked
            else:
                words = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
                features = words.fit_transform([train[place][0] for place in places])
                questions = words.transform([text for text, _ in test])
            model = LogisticRegression(C=20, max_iter=100, tol=1e-3).fit(features, targets[places])
            answers.append(model.predict(questions))
        yield Run(np.array(labels), np.array(answers, dtype=np.int64), truth)


def _forecasts(made: Run) -> Iterator[Forecast]:
    truly = [macro_f1(made.truth, answers) for answers in made.answers]
    for size in GOLD:
        for draw in range(DRAWS):
            points = _measured(made, size, np.random.default_rng(1000 + draw))
            for count in FROM:
                if 2 * count <= len(points):
                    yield _forecast(points[:count], points[2 * count - 1], truly[2 * count - 1])


def _measured(made: Run, size: int, rng: np.random.Generator) -> list[Point]:
    gold = rng.permutation(len(made.truth))[:size]
    weights = resample_weights(len(gold), 200, rng)
    points = []
    for labels, answers in zip(made.labels.tolist(), made.answers, strict=True):
        low, high = np.percentile(macro_f1_resampled(encode(made.truth[gold], answers[gold]), weights), INTERVAL)
        points.append(Point(labels, macro_f1(made.truth[gold], answers[gold]), len(gold), float(low), float(high)))
    return points


def _forecast(seen: Sequence[Point], then: Point, truly: float) -> Forecast:
    curve = fit_learning_curve(seen)
    assert curve is not None, "four versions of different sizes have a curve"
    said, needed = curve.at(then.labels), curve.needed(truly)
    more = then.labels - seen[-1].labels
    values: FloatArray = np.array([point.value for point in seen])
    slope, start = np.polyfit(np.log([point.labels for point in seen]), values, 1)
    line = min(1.0, float(start + slope * np.log(then.labels)))
    return Forecast(
        ours=abs(said.value - then.value),
        last=abs(float(values[-1]) - then.value),
        line=abs(line - then.value),
        inside_gold=said.low <= then.value <= said.high,
        inside_truth=said.low <= truly <= said.high,
        inside_needed=(needed.low is not None and needed.low <= more) and (needed.high is None or more <= needed.high),
    )
