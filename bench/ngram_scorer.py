"""Time of one question through the `ngram` scorer, beside scikit-learn's own pipeline with the same model.

Anchor: scikit-learn's `Pipeline(FeatureUnion(TfidfVectorizer …), Normalizer, LogisticRegression)`. It is what people
put behind an API for this kind of model. It is fair because it holds the same features, document weights and weights
as the artifact (its answers are checked to be the same within 1e-5 before any clock starts), cuts each text once, with
the same code as ours, and runs without scikit-learn's checks of its input. Both are asked as questions arrive: one text
a call.

Data: Chinese questions of a real set when the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data) has one
(smp2017-ecdt), otherwise the questions of the bundled sample domain. Training takes seconds and is not timed.

Five rounds, the anchor and ours one after the other in each. The figure is the median over rounds of the median time
of a question: a question that the machine interrupted for other work does not move it. The means are printed beside it.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.intent.ngram_features import BLOCKS, Featuriser
from app.intent.text import normalise
from app.scorers import load_scorer
from app.scorers.artifact import Scorer, read_manifest
from app.scorers.ngram import NgramModel, read_model
from bench.result import Bar, CannotRun, Result

ROUNDS = 5
MOST_MILLISECONDS = 0.1
LEAST_SPEEDUP = 4.0
_ROOT = Path(__file__).parent.parent


class Times(NamedTuple):
    """Milliseconds of one question in one round."""

    median: float
    mean: float


def run(*, quick: bool) -> Result:
    """Train, compare answers, time both."""
    examples, questions = _questions()
    if quick:
        questions = questions[:100]
    with tempfile.TemporaryDirectory() as folder:
        artifact = _train(Path(folder), examples)
        scorer, model = load_scorer(artifact), read_model(artifact)
        temperature = read_manifest(artifact).temperature
        size = sum(file.stat().st_size for file in artifact.iterdir())
    pipeline = sklearn_pipeline(model, temperature)
    difference = float(np.abs(pipeline.predict_proba(questions) - scorer.probabilities(questions)).max())
    if difference > 1e-5:
        raise CannotRun(f"the anchor's answers differ by {difference:.1e}: it is not the same model")
    ours, anchor = _time_both(scorer, pipeline, questions)
    for name, rounds in (("ours", ours), ("scikit-learn", anchor)):
        medians = [times.median for times in rounds]
        print(
            f"{name:>13}: median {statistics.median(medians):.4f} ms a question "
            f"({min(medians):.4f} … {max(medians):.4f} over {ROUNDS} rounds), "
            f"mean {statistics.median([times.mean for times in rounds]):.4f}"
        )
    milliseconds = statistics.median([times.median for times in ours])
    anchor_milliseconds = statistics.median([times.median for times in anchor])
    return Result(
        figures={
            "milliseconds_per_question": round(milliseconds, 5),
            "sklearn_milliseconds_per_question": round(anchor_milliseconds, 5),
            "largest_difference_of_a_probability": difference,
            "questions": len(questions),
            "labels": len(scorer.label_ids),
            "artifact_megabytes": round(size / 2**20, 2),
        },
        bars={
            "milliseconds_per_question": Bar(round(milliseconds, 5), at_most=MOST_MILLISECONDS),
            "speedup": Bar(round(anchor_milliseconds / milliseconds, 2), at_least=LEAST_SPEEDUP),
        },
    )


def sklearn_pipeline(model: NgramModel, temperature: float) -> Any:
    """The same model in scikit-learn's own parts, fitted by hand; `predict_proba` is calibrated."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import Normalizer

    cutter = _Cutter(Featuriser(model.settings))
    parts = []
    first = 0
    for number, name in enumerate(BLOCKS):
        features = model.vocabulary[name]
        if not features:
            continue
        vectorizer = TfidfVectorizer(
            analyzer=partial(cutter.block, number),
            vocabulary={feature: column for column, feature in enumerate(features)},
            sublinear_tf=True,
            dtype=np.float32,
        )
        vectorizer.idf_ = model.document_weights[first : first + len(features)]
        parts.append((name, vectorizer))
        first += len(features)
    union = FeatureUnion(parts, transformer_weights={name: model.block_weights[name] for name, _ in parts})
    regression = LogisticRegression()
    regression.coef_ = model.weights.T / temperature
    regression.intercept_ = model.bias / temperature
    regression.classes_ = np.arange(len(model.bias))
    if len(model.bias) == 2:
        # With two labels scikit-learn keeps one row: the difference of the two.
        regression.coef_ = regression.coef_[1:] - regression.coef_[:1]
        regression.intercept_ = regression.intercept_[1:] - regression.intercept_[:1]
    return Pipeline([("features", union), ("length", Normalizer()), ("regression", regression)])


class _Cutter:
    """Cuts each text once for all blocks of the anchor, as ours does."""

    def __init__(self, featuriser: Featuriser) -> None:
        self._featuriser = featuriser
        self._text: str | None = None
        self._blocks: tuple[list[str], ...] = ()

    def block(self, number: int, text: str) -> list[str]:
        if text != self._text:
            self._text, self._blocks = text, self._featuriser.blocks(text)
        return self._blocks[number]


def _time_both(scorer: Scorer, pipeline: Any, questions: Sequence[str]) -> tuple[list[Times], list[Times]]:
    from sklearn import config_context

    ours: list[Times] = []
    anchor: list[Times] = []
    for _ in range(ROUNDS):
        with config_context(assume_finite=True, skip_parameter_validation=True):
            anchor.append(_time(pipeline.predict_proba, questions))
        ours.append(_time(scorer.probabilities, questions))
    return ours, anchor


def _time(answer: Callable[[list[str]], object], questions: Sequence[str]) -> Times:
    taken = []
    for question in questions:
        start = time.perf_counter()
        answer([question])
        taken.append((time.perf_counter() - start) * 1000.0)
    return Times(statistics.median(taken), statistics.fmean(taken))


def _questions() -> tuple[list[tuple[str, str]], list[str]]:
    """Labelled texts to train on, and the questions to ask."""
    folder = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data")) / "smp2017-ecdt"
    if (folder / "train.jsonl.gz").is_file():
        print("data: smp2017-ecdt, train and test")
        return _rows(folder / "train.jsonl.gz"), [text for text, _ in _rows(folder / "test.jsonl.gz")]
    sample = _ROOT / "app" / "sample" / "questions.jsonl"
    if not sample.is_file():
        raise CannotRun("neither smp2017-ecdt nor the sample domain is here")
    print("data: the bundled sample domain")
    rows = _rows(sample)
    return rows, [text for text, _ in rows]


def _rows(path: Path) -> list[tuple[str, str]]:
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    # The sample gives the levels of a label, and none for what is out of scope.
    labelled = [(row["text"], row.get("label") or " > ".join(row.get("labels", ()))) for row in rows]
    return [(normalise(text), label) for text, label in labelled if label]


def _train(folder: Path, examples: Sequence[tuple[str, str]]) -> Path:
    """The artifact of a real trainer run over distinct texts."""
    labels = {label: number for number, label in enumerate(sorted({label for _, label in examples}), 1)}
    lines = [
        json.dumps({"text_id": number, "text": text, "label": labels[label]}, ensure_ascii=False)
        for number, (text, label) in enumerate(dict(examples).items(), 1)
    ]
    (folder / "examples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spec = {
        "recipe": "ngram",
        "labels": [{"id": number, "path": label} for label, number in labels.items()],
        "examples": "examples.jsonl",
        "taxonomy_digest": "",
        "items_digest": "",
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    spec_file, artifact = str(folder / "spec.json"), str(folder / "artifact")
    command = [sys.executable, "-m", "trainer", "ngram", "--spec", spec_file, "--out", artifact]
    trained = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if trained.returncode != 0:
        raise CannotRun(f"the trainer ended with status {trained.returncode}: {trained.stderr.strip()[-500:]}")
    return folder / "artifact"
