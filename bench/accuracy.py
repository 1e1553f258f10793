"""Accuracy of the recipes on public intents and topics, beside a logistic regression on plain mean pooling.

Anchor: embeddings of all-MiniLM-L6-v2, the mean over a text's tokens brought to length 1, and scikit-learn's
`LogisticRegression(C=20)`: what people build first. It is fair because `head` gets the very same embeddings, computed
once in the same run, and chooses all else (strengths, mixture, calibration) on the training texts alone; the test texts
are only ever answered. `head` also knows the labels' names, as the service does. `ngram` is the recipe as it is.

Data: clinc150 (in scope) and banking77 in full and with ten texts a label, smp2017-ecdt and thucnews-titles (the last
two are Chinese, which MiniLM hardly knows: no bar), of the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data).
`encoder` is a first version fine-tuned from MiniLM on all texts; where they are few, after a pass without the held-out
ones that chooses the epoch (`first_refit`). Three seeds, each minutes to half an hour of one processor.
`head` is fitted with five seeds, which decide folds, networks and held-out parts; the anchor has no randomness, and
each lead is the mean over the seeds. "Never below" looks at the worst seed.

INTENTLOOP_BENCH_ONLY=banking77,head,encoder runs what fits.
A recipe that is promised and was not measured is listed under `missing`, and the benchmark does not hold.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.text import MaskedText, normalise
from app.scorers import load_scorer
from bench.choice import chosen
from bench.embedding import embed
from bench.result import Bar, CannotRun, Result
from trainer.heads.dense_head import HeadSettings, fit_head
from trainer.logistic import Float32Array
from trainer.ngram import NgramConfig, train_ngram
from trainer.spec import Example, Label, Spec

SEEDS = (0, 1, 2, 3, 4)
STRENGTH = 20.0
LEAST_HEAD_LEAD = 0.002
HEAD_LEADS_ON = 3
# What `encoder` has to be ahead of `head` by, on each form.
LEAST_ENCODER_LEAD = {"clinc150": 0.005, "banking77": 0.005, "clinc150-10shot": 0.0, "banking77-10shot": 0.0}
_ROOT = Path(__file__).parent.parent
_DATA = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Form:
    """A data set in one form. `judged`: `head` has a bar on it."""

    name: str
    folder: str
    train: str
    judged: bool


FORMS = (
    Form("banking77-10shot", "banking77", "train_10shot", True),
    Form("clinc150-10shot", "clinc150", "train_10shot", True),
    Form("banking77", "banking77", "train", True),
    Form("clinc150", "clinc150", "train", True),
    Form("smp2017-ecdt", "smp2017-ecdt", "train", False),
    Form("thucnews-titles", "thucnews-titles", "valid", False),
)
_QUICK = ("banking77-10shot", "clinc150-10shot", "smp2017-ecdt")


@dataclass(frozen=True, slots=True)
class Task:
    """What a recipe is given, and the truth that it is not. Targets are column numbers of `labels`."""

    form: Form
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    targets: IntArray
    asked: tuple[str, ...]
    truth: IntArray
    embeddings: Float32Array
    asked_embeddings: Float32Array
    names: Float32Array


# A recipe: the task and a seed -> the answered columns, shape (n_asked,).
Answers = Callable[[Task, int], IntArray]


def run(*, quick: bool) -> Result:
    """Answer every form's test texts by every recipe."""
    figures: dict[str, float] = {}
    leads: dict[str, dict[str, list[float]]] = {name: {} for name in RECIPES}
    forms, recipes = chosen(_QUICK if quick else [form.name for form in FORMS], list(RECIPES))
    for name in forms:
        (form,) = (form for form in FORMS if form.name == name)
        task = read_task(form)
        anchor = accuracy(answer_by_anchor(task), task)
        figures[f"{form.name}.anchor"] = round(anchor, 4)
        for recipe in recipes:
            answers, seeds = RECIPES[recipe]
            found = []
            for seed in seeds[:2] if quick else seeds:
                found.append(accuracy(answers(task, seed), task))
                print(f"{form.name}, {recipe}, seed {seed}: {found[-1]:.4f}", flush=True)
            leads[recipe][form.name] = [value - anchor for value in found]
            figures[f"{form.name}.{recipe}"] = round(float(np.mean(found)), 4)
            figures[f"{form.name}.{recipe}.worst"] = round(min(found), 4)
        print(_line(form, recipes, figures), flush=True)
    return Result(figures, *judge(leads))


def judge(leads: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[dict[str, Bar], tuple[str, ...]]:
    """The bars, and the names of those that could not be measured. `leads`: recipe -> form -> lead of each seed."""
    judged = [form.name for form in FORMS if form.judged]
    head = {name: values for name, values in leads.get("head", {}).items() if name in judged}
    bars: dict[str, Bar] = {}
    missing = [f"head.{name}" for name in judged if name not in head]
    if head:
        lowest = min(min(values) for values in head.values())
        ahead = sum(round(float(np.mean(values)), 4) >= LEAST_HEAD_LEAD for values in head.values())
        bars["head.lowest_lead"] = Bar(round(lowest, 4), at_least=0.0)
        bars["head.forms_ahead"] = Bar(float(ahead), at_least=float(HEAD_LEADS_ON))
    encoder = leads.get("encoder", {})
    for name, least in LEAST_ENCODER_LEAD.items():
        if name in encoder and name in head:
            lead = float(np.mean(encoder[name]) - np.mean(head[name]))
            bars[f"encoder.{name}.lead_over_head"] = Bar(round(lead, 4), at_least=least)
        else:
            missing.append(f"encoder.{name}")
    return bars, tuple(missing)


def accuracy(answered: IntArray, task: Task) -> float:
    """The share of the asked texts that got their label."""
    return float((answered == task.truth).mean())


def answer_by_anchor(task: Task) -> IntArray:
    """scikit-learn's logistic regression on the embeddings."""
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=STRENGTH, max_iter=1000).fit(task.embeddings, task.targets)
    answered: IntArray = regression.predict(task.asked_embeddings)
    return answered


def answer_by_head(task: Task, seed: int) -> IntArray:
    """Recipe `head` as it is set up by default."""
    fitted = fit_head(
        task.embeddings, task.targets, len(task.labels), HeadSettings(), seed, lambda *_: None, names=task.names
    )
    answered: IntArray = fitted.logits(task.asked_embeddings).argmax(axis=1)
    return answered


def answer_by_ngram(task: Task, seed: int) -> IntArray:
    """Recipe `ngram` as it is set up by default, asked through the scorer that serves it."""
    examples = tuple(
        Example(number, MaskedText(text), int(target))
        for number, (text, target) in enumerate(zip(task.texts, task.targets, strict=True), 1)
    )
    labels = tuple(Label(number, name) for number, name in enumerate(task.labels))
    spec = Spec("ngram", labels, examples, (), {}, seed, "", "")
    with tempfile.TemporaryDirectory() as folder:
        train_ngram(spec, NgramConfig(), Path(folder), lambda *_: None)
        scorer = load_scorer(Path(folder))
        probabilities: FloatArray = scorer.probabilities(list(task.asked))
    answered: IntArray = np.array(scorer.label_ids)[probabilities.argmax(axis=1)]
    return answered


def answer_by_encoder(task: Task, seed: int) -> IntArray:
    """Recipe `encoder`, its first version, trained on all texts, as `first_refit` leaves it.

    Of a seed that decides which texts are held out, the order, and dropout.
    """
    from bench.pretrained import minilm
    from trainer.tuning.embedding import Embedder, multiplies_in_bf16
    from trainer.tuning.encoder_config import EncoderConfig
    from trainer.tuning.incremental_step import Examples, train_first

    config, held = EncoderConfig(), None
    if not config.are_few(len(task.texts), len(task.labels)):
        # So many are trained on to the end: what a first pass held out would decide nothing.
        config, held = config.for_texts(len(task.texts), len(task.labels)), np.empty(0, dtype=np.int64)
    while True:
        backbone = minilm()
        examples = Examples([tuple(ids) for ids in backbone.tokens(task.texts)], task.targets)
        names = [tuple(ids) for ids in backbone.tokens([label.replace("_", " ") for label in task.labels])]
        embedder = Embedder(backbone, 0, bf16=multiplies_in_bf16())
        found = train_first(embedder, examples, len(task.labels), config, seed=seed, names=names, held=held)
        if held is not None:
            answered: IntArray = found.head.logits(backbone.embed(task.asked)).argmax(axis=1)
            return answered
        # What `first_refit` does.
        config, held = replace(config, first_epochs=found.tuned.best_epoch), np.empty(0, dtype=np.int64)


# Each recipe and its seeds. `ngram`'s seed decides only folds: one is enough. A further recipe is one more line.
RECIPES: Mapping[str, tuple[Answers, tuple[int, ...]]] = {
    "ngram": (answer_by_ngram, SEEDS[:1]),
    "head": (answer_by_head, SEEDS),
    "encoder": (answer_by_encoder, SEEDS[:3]),
}


def read_task(form: Form) -> Task:
    """Read and embed a form. A text that occurs twice in training counts once, as in the service.

    Raises:
        CannotRun: the data are not here.
    """
    train = dict(rows_of(form.folder, form.train))
    test = rows_of(form.folder, "test")
    labels = tuple(sorted(set(train.values())))
    column = {label: number for number, label in enumerate(labels)}
    asked = tuple(text for text, _ in test)
    names = [normalise(label.replace("_", " ")) for label in labels]
    return Task(
        form=form,
        labels=labels,
        texts=tuple(train),
        targets=np.array([column[label] for label in train.values()], dtype=np.int64),
        asked=asked,
        truth=np.array([column[label] for _, label in test], dtype=np.int64),
        embeddings=embed(tuple(train)),
        asked_embeddings=embed(asked),
        names=embed(names),
    )


def rows_of(folder: str, part: str) -> list[tuple[str, str]]:
    """Texts, normalised, and labels of one part of a data set.

    Raises:
        CannotRun: the data are not here.
    """
    path = _DATA / folder / f"{part}.jsonl.gz"
    if not path.is_file():
        raise CannotRun(f"{folder} is not here: INTENTLOOP_BENCH_DATA names the folder that holds it")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]
    return [(normalise(row["text"]), row["label"]) for row in rows]


def _line(form: Form, recipes: Sequence[str], figures: Mapping[str, float]) -> str:
    found = ", ".join(f"{recipe} {figures[f'{form.name}.{recipe}']:.4f}" for recipe in recipes)
    return f"{form.name:>17}: anchor {figures[f'{form.name}.anchor']:.4f}, {found}"
