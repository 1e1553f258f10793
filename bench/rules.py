"""What keyword rules bring: coverage beside chi-square keywords, and the error of model and rules together.

Three questions on two Chinese sets, smp2017-ecdt (31 intents, short questions) and thucnews-titles (10 topics, titles;
its `valid` is the pool), each over five paired seeds. Rules and weights come from the pool alone, test only scores. But
the miner's thresholds, its phrases, and how far the fusion trusts mined rules were chosen while looking at these test
texts: of mined rules the figures say what can be reached here, and a new domain may give less.

1. Coverage. Anchor: chi-square keywords, the usual way to get keywords from labelled texts. It is fair because it has
   the same words (jieba in search mode), looks for them in the same way (as serving does), deals the same folds
   and asks the same of every keyword: typical of its label on the other folds (chi-square, 5 %), right in 95 % there,
   then right in 95 % of at least three texts of folds that it was not chosen on. It may have as many keywords as there
   are mined rules, at most the 1,000 of the API's default: the most frequent ones. The figure is the share of test
   texts that a rule matches. Beside it: how often the rules are right on test, where neither side keeps its 95 % (the
   best of many candidates were lucky, too, and pairs of words are more candidates), and the ratio that is left when
   both are cut to their best rules that are right in 95 % on test.
2. Fusion. The `ngram` recipe trained on 300 and on 500 labelled texts, alone and fused with the rules that were mined
   from the same texts; errors on test, the fused one as a share of the model's own.
3. Rules by hand. Twenty rules for ten small intents of smp2017-ecdt that have none to four examples among 500 texts,
   written from what the labels' names mean; errors on these intents' test texts, with rules as a share of without.

The data is in the folder that INTENTLOOP_BENCH_DATA names, or in ../shared/data.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.fusion import fuse
from app.intent.fusion_fitting import fit_fusion
from app.intent.mining import mine_rules
from app.intent.proportions import wilson
from app.intent.rule_evidence import MiningOptions, assign_folds, expected_precision, out_of_fold_hits
from app.intent.rule_matching import WordFinder
from app.intent.rule_words import WordCutter
from app.intent.rules import Rule, searchable
from app.intent.text import MaskedText, normalise
from app.scorers import load_scorer
from app.scorers.artifact import read_out_of_fold
from bench.result import Bar, CannotRun, Result
from trainer.ngram import NgramConfig, train_ngram
from trainer.spec import Example, Label, Spec

SEEDS: Final = 5
PRECISION: Final = 0.95
SIZES: Final = (300, 500)
LEAST_COVERAGE_RATIO: Final = 1.3
MOST_FUSED_ERROR_RATIO: Final = 1.0
MOST_MANUAL_ERROR_RATIO: Final = 1.0  # below it: the error must fall
_SETS: Final = (("smp2017-ecdt", "train"), ("thucnews-titles", "valid"))
_CHI_SQUARE_LEVEL: Final = 0.05
_ROOT: Final = Path(__file__).parent.parent

MANUAL: Final[tuple[tuple[str, str], ...]] = (
    ("datetime", "星期几"),
    ("datetime", "几号"),
    ("bus", "汽车票"),
    ("bus", "大巴"),
    ("calc", "等于"),
    ("calc", "乘以"),
    ("cinemas", "电影院"),
    ("cinemas", "影城"),
    ("email", "邮件"),
    ("email", "邮箱"),
    ("lottery", "彩票"),
    ("lottery", "双色球"),
    ("match", "比赛"),
    ("match", "赛程"),
    ("novel", "小说"),
    ("novel", "看书"),
    ("radio", "电台"),
    ("radio", "广播"),
    ("schedule", "提醒"),
    ("schedule", "日程"),
)
"""Written from what the labels' names mean; no text of these labels had been looked at."""


class Texts(NamedTuple):
    """Distinct texts with their label ids; shape of `labels`: (n,)."""

    texts: tuple[MaskedText, ...]
    labels: IntArray

    def some(self, chosen: IntArray) -> Texts:
        """The texts at these positions."""
        return Texts(tuple(self.texts[int(i)] for i in chosen), self.labels[chosen])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A pool to learn from and texts to be tested on. Label ids are the positions in `names`."""

    name: str
    names: tuple[str, ...]
    pool: Texts
    test: Texts


def run(*, quick: bool) -> Result:
    """Answer the three questions."""
    datasets = [_read(name, split, quick=quick) for name, split in _SETS]
    seeds = range(2 if quick else SEEDS)
    if quick:
        print("quick: two seeds, 2,000 texts of each pool and test; the figures are rougher")
    figures: dict[str, float] = {}
    coverage = [_coverage(dataset, seeds, figures) for dataset in datasets]
    fused = [_fused(dataset, size, seeds, figures) for dataset in datasets for size in SIZES]
    manual = _by_hand(datasets[0], seeds, figures)
    return Result(
        figures={name: round(value, 4) for name, value in figures.items()},
        bars={
            "coverage_ratio": Bar(round(fmean(coverage), 3), at_least=LEAST_COVERAGE_RATIO),
            "fused_error_ratio": Bar(round(fmean(fused), 4), at_most=MOST_FUSED_ERROR_RATIO),
            "manual_error_ratio": Bar(round(manual, 4), at_most=np.nextafter(MOST_MANUAL_ERROR_RATIO, 0.0)),
        },
    )


def _coverage(dataset: Dataset, seeds: Sequence[int], figures: dict[str, float]) -> float:
    """The mean ratio of ours to the anchor's coverage, every seed with another 80 % of the pool."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        n = len(dataset.pool.texts)
        pool = dataset.pool.some(np.sort(rng.permutation(n)[: round(0.8 * n)]))
        options = MiningOptions(min_confidence=PRECISION, seed=seed)
        mined = mine_rules(pool.texts, pool.labels.tolist(), options=options)
        mined = tuple(sorted(mined, key=lambda rule: -rule.precision_lower))
        ours = _Matched.of(dataset.test, [(rule.label_id, rule.all_of) for rule in mined])
        keywords = chi_square_keywords(pool, options, len(mined))
        anchor = _Matched.of(dataset.test, keywords)
        equal = ours.coverage_at(PRECISION) / max(anchor.coverage_at(PRECISION), 1e-9)
        rows.append(
            (ours.coverage, anchor.coverage, ours.precision, anchor.precision, len(mined), len(keywords), equal)
        )
    columns = np.array(rows).T
    names = ("coverage", "chi_square_coverage", "precision", "chi_square_precision", "rules", "chi_square_rules")
    for name, values in zip((*names, "coverage_ratio_at_equal_test_precision"), columns, strict=True):
        figures[f"{dataset.name}.{name}"] = fmean(values)
    ratios = (columns[0] / columns[1]).tolist()
    figures[f"{dataset.name}.coverage_ratio"] = fmean(ratios)
    print(
        f"{dataset.name:>16}: {columns[4].mean():.0f} mined rules cover {columns[0].mean():.1%} of test, "
        f"{columns[2].mean():.1%} right; {columns[5].mean():.0f} chi-square keywords {columns[1].mean():.1%}, "
        f"{columns[3].mean():.1%} right: {fmean(ratios):.2f} × ({_spread(ratios)}); "
        f"cut to those that are right in 95 % on test {columns[6].mean():.2f} ×"
    )
    return fmean(ratios)


def chi_square_keywords(pool: Texts, options: MiningOptions, most: int) -> list[tuple[int, tuple[str, ...]]]:
    """The most frequent keywords that pass chi-square, and the precision out of fold; best first."""
    keys, cutter = [searchable(text) for text in pool.texts], WordCutter()
    vocabulary = sorted({word for key in keys for word in cutter.words(key)})
    presence = _presence(keys, vocabulary)
    seen = np.flatnonzero(presence.sum(axis=0) >= 2)
    presence = presence[:, seen]
    n_labels = int(pool.labels.max()) + 1
    own = np.stack([presence[pool.labels == label].sum(axis=0) for label in range(n_labels)])
    speaks_for = own.argmax(axis=0)
    folds = assign_folds(pool.labels, options)
    support, right = np.zeros(len(seen), dtype=np.int64), np.zeros(len(seen), dtype=np.int64)
    for fold in np.unique(folds):
        chosen = _typical(presence[folds != fold], pool.labels[folds != fold], speaks_for, options)
        held_out = presence[folds == fold]
        support += chosen * held_out.sum(axis=0)
        right += chosen * (held_out & (pool.labels[folds == fold][:, None] == speaks_for)).sum(axis=0)
    good = np.flatnonzero((support >= options.min_support) & (right >= options.min_confidence * support - 1e-9))
    good = good[np.argsort(-support[good], kind="stable")][:most]
    good = np.array(sorted(good, key=lambda k: -wilson(int(right[k]), int(support[k]))[0]), dtype=np.int64)
    return [(int(speaks_for[k]), (vocabulary[seen[k]],)) for k in good]


def _typical(
    presence: NDArray[np.bool_], labels: IntArray, speaks_for: IntArray, options: MiningOptions
) -> NDArray[np.bool_]:
    """Which words chi-square and the precision choose on these texts."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_selection import chi2

    found = presence.sum(axis=0)
    chosen = np.zeros(len(speaks_for), dtype=bool)
    for label in np.unique(speaks_for):
        words = np.flatnonzero((speaks_for == label) & (found >= 2))
        if len(words) == 0 or not (labels == label).any():
            continue
        _, levels = chi2(csr_matrix(presence[:, words].astype(np.float64)), labels == label)
        right = presence[labels == label][:, words].sum(axis=0)
        chosen[words] = (levels < _CHI_SQUARE_LEVEL) & (right >= options.min_confidence * found[words] - 1e-9)
    return chosen


def _presence(keys: Sequence[str], words: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the words serving would find in each text; shape (n_texts, n_words)."""
    presence = np.zeros((len(keys), len(words)), dtype=bool)
    finder = WordFinder(words)
    column = {word: number for number, word in enumerate(words)}
    columns = np.array([column[word] for word in finder.words], dtype=np.int64)
    for row, key in zip(presence, keys, strict=True):
        row[columns[list(finder.found(key))]] = True
    return presence


def _hits(texts: Sequence[MaskedText], rules: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Which rules match each text; shape (n_texts, n_rules)."""
    words = sorted({word for all_of in rules for word in all_of})
    presence = _presence([searchable(text) for text in texts], words)
    column = {word: number for number, word in enumerate(words)}
    hits = np.zeros((len(texts), len(rules)), dtype=bool)
    for number, all_of in enumerate(rules):
        hits[:, number] = presence[:, [column[word] for word in all_of]].all(axis=1)
    return hits


@dataclass(frozen=True, slots=True)
class _Matched:
    """What rules, best first, match among test texts, and where they are right; shapes (n_texts, n_rules)."""

    hits: NDArray[np.bool_]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, test: Texts, rules: Sequence[tuple[int, tuple[str, ...]]]) -> _Matched:
        hits = _hits(test.texts, [all_of for _, all_of in rules])
        return cls(hits, hits & (test.labels[:, None] == np.array([label for label, _ in rules], dtype=np.int64)))

    @property
    def coverage(self) -> float:
        """The share of texts that a rule matches."""
        return float(self.hits.any(axis=1).mean())

    @property
    def precision(self) -> float:
        """The share of matches that name the right label."""
        return float(self.right.sum() / max(self.hits.sum(), 1))

    def coverage_at(self, precision: float) -> float:
        """The coverage of the most of the best rules that together reach the precision."""
        enough = np.cumsum(self.right.sum(axis=0)) >= precision * np.cumsum(self.hits.sum(axis=0))
        last = int(np.flatnonzero(enough).max(initial=-1))
        return float(self.hits[:, : last + 1].any(axis=1).mean())


class _Model(NamedTuple):
    """A trained model's answers, out of fold for the texts it was trained on, and on test; columns as `label_ids`."""

    label_ids: tuple[int, ...]
    trained: Texts
    out_of_fold: FloatArray
    on_test: FloatArray


def _train(dataset: Dataset, chosen: IntArray, test: Texts, seed: int) -> _Model:
    """The `ngram` recipe as the trainer runs it, in this process."""
    pool = dataset.pool.some(chosen)
    examples = tuple(Example(i, text, int(label)) for i, (text, label) in enumerate(zip(*pool, strict=True)))
    labels = tuple(Label(i, name) for i, name in enumerate(dataset.names))
    with tempfile.TemporaryDirectory() as folder:
        train_ngram(Spec("ngram", labels, examples, (), {}, seed, "", ""), NgramConfig(), Path(folder), _silent)
        scorer, scores = load_scorer(Path(folder)), read_out_of_fold(Path(folder))
        on_test = scorer.probabilities(list(test.texts))
    return _Model(tuple(scorer.label_ids), pool.some(scores.text_ids), scores.probabilities, on_test)


def _silent(_share: float, _stage: str) -> None:
    """Nobody watches."""


def _errors(model: _Model, test: Texts, rules: Sequence[Rule], options: MiningOptions) -> NDArray[np.bool_]:
    """Which test texts model and rules together get wrong."""
    all_of = [rule.all_of for rule in rules]
    matches = [np.flatnonzero(row).tolist() for row in _hits(model.trained.texts, all_of)]
    truth = model.trained.labels.tolist()
    hits = out_of_fold_hits(matches, truth, rules, options)
    fitted = fit_fusion(model.out_of_fold, model.label_ids, truth, hits, rules, seed=options.seed)
    answers = []
    for probabilities, row in zip(model.on_test, _hits(test.texts, all_of), strict=True):
        matched = [rules[int(k)] for k in np.flatnonzero(row)]
        label_ids, fused = fuse(probabilities, model.label_ids, matched, fitted.fusion)
        answers.append(label_ids[int(fused.argmax())])
    wrong: NDArray[np.bool_] = np.array(answers) != test.labels
    return wrong


def _own_errors(model: _Model, test: Texts) -> NDArray[np.bool_]:
    """Which test texts the model alone gets wrong."""
    wrong: NDArray[np.bool_] = np.array(model.label_ids)[model.on_test.argmax(axis=1)] != test.labels
    return wrong


def _fused(dataset: Dataset, size: int, seeds: Sequence[int], figures: dict[str, float]) -> float:
    """The mean of the fused error as a share of the model's own, with `size` labelled texts."""
    own, together, counts = [], [], []
    for seed in seeds:
        chosen = np.random.default_rng(seed).permutation(len(dataset.pool.texts))[:size]
        model = _train(dataset, chosen, dataset.test, seed)
        options = MiningOptions(seed=seed)
        mined = mine_rules(model.trained.texts, model.trained.labels.tolist(), options=options)
        rules = [
            Rule(k, rule.label_id, rule.all_of, precision=expected_precision(rule.precision, rule.support))
            for k, rule in enumerate(mined)
        ]
        own.append(float(_own_errors(model, dataset.test).mean()))
        together.append(float(_errors(model, dataset.test, rules, options).mean()))
        counts.append(len(rules))
    ratios = [a / b for a, b in zip(together, own, strict=True)]
    print(
        f"{dataset.name:>16}, {size} labels, {fmean(counts):.0f} rules: error {fmean(own):.4f} alone, "
        f"{fmean(together):.4f} fused: {fmean(ratios):.4f} × ({_spread(ratios)})"
    )
    figures[f"{dataset.name}.{size}.model_error"] = fmean(own)
    figures[f"{dataset.name}.{size}.fused_error"] = fmean(together)
    figures[f"{dataset.name}.{size}.error_ratio"] = fmean(ratios)
    return fmean(ratios)


def _by_hand(dataset: Dataset, seeds: Sequence[int], figures: dict[str, float]) -> float:
    """The mean error with twenty manual rules as a share of the error without, on the test texts of their labels."""
    ids = {name: number for number, name in enumerate(dataset.names)}
    rare = sorted({ids[name] for name, _ in MANUAL})
    rules = [Rule(k, ids[name], (word,), source="manual") for k, (name, word) in enumerate(MANUAL)]
    theirs = np.isin(dataset.test.labels, rare)
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(dataset.pool.texts))
        # None, one, two, three and four examples, each for two of the labels.
        few = [order[dataset.pool.labels[order] == label][: (place + seed) % 5] for place, label in enumerate(rare)]
        rest = order[~np.isin(dataset.pool.labels[order], rare)]
        model = _train(dataset, np.concatenate([*few, rest])[:500], dataset.test, seed)
        without, with_rules = (
            _own_errors(model, dataset.test),
            _errors(model, dataset.test, rules, MiningOptions(seed=seed)),
        )
        rows.append(
            (without[theirs].mean(), with_rules[theirs].mean(), without[~theirs].mean(), with_rules[~theirs].mean())
        )
    columns = np.array(rows).T
    ratios = (columns[1] / columns[0]).tolist()
    print(
        f"{dataset.name:>16}, twenty rules by hand: error on their {len(rare)} labels {columns[0].mean():.4f} without, "
        f"{columns[1].mean():.4f} with: {fmean(ratios):.4f} × ({_spread(ratios)}); on all other labels "
        f"{columns[2].mean():.4f} and {columns[3].mean():.4f}"
    )
    names = ("error_without", "error_with", "other_labels_error_without", "other_labels_error_with")
    figures.update({f"manual.{name}": fmean(values) for name, values in zip(names, columns, strict=True)})
    return fmean(ratios)


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.3f} … {max(values):.3f}, standard deviation {pstdev(values):.3f}"


def _read(name: str, split: str, *, quick: bool) -> Dataset:
    """Both parts of a set, normalised and without repeated texts; test texts that are in the pool go."""
    folder = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data")) / name
    if not (folder / f"{split}.jsonl.gz").is_file():
        raise CannotRun(f"{name} is not in the folder that INTENTLOOP_BENCH_DATA names")
    parts = []
    for part in (split, "test"):
        lines = gzip.decompress((folder / f"{part}.jsonl.gz").read_bytes()).decode("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        parts.append({MaskedText(normalise(row["text"])): row["label"] for row in rows})
    pool, test = parts
    names = tuple(sorted({*pool.values(), *test.values()}))
    unseen = {text: label for text, label in test.items() if text not in pool}
    rng = np.random.default_rng(0)
    texts = [
        Texts(tuple(part), np.array([names.index(label) for label in part.values()], dtype=np.int64))
        for part in (pool, unseen)
    ]
    if quick:
        texts = [part.some(rng.permutation(len(part.texts))[:2_000]) for part in texts]
    return Dataset(name, names, texts[0], texts[1])
