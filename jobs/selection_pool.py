"""Gather what a selection is chosen from: what the version that serves says of waiting and labelled texts, and where
they lie; a page at a time, and outside of any transaction."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.intent.releases import Release
from app.intent.selection_mix import Pool
from app.intent.text import MaskedText
from app.scorers.artifact import Scorer
from app.scorers.keyword_rules import KeywordRules
from app.scorers.placing import answers_and_places, places
from app.services import mix_selection
from app.services.mix_selection import Plan, Words
from jobs.context import JobContext

PAGE: Final = 500

MOST_NUMBERS: Final = 16_000_000
"""Of all candidates' embeddings and probabilities together, in units of four bytes: a large model has fewer of them."""

SURE: Final = 0.9
"""An answer that rules contradict must be above τ, or above this where τ is higher."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """A pool, the id of each of its texts, the path of each of its columns, and the share of candidates in it."""

    pool: Pool
    text_ids: Sequence[int]
    labels: Sequence[str]
    share: float


def gather(
    context: JobContext, made: Plan, release: Release, scorer: Scorer | None, rng: np.random.Generator
) -> Gathered | None:
    """All that a choice needs; None when the process is asked to stop. Without a scorer the pool has no labels."""
    sample, place = answers_and_places(scorer, [""])
    width = place.shape[1] + 2 * sample.shape[1]
    candidates = _at_most(list(made.candidates), MOST_NUMBERS // width, rng)
    probabilities = np.empty((len(candidates), sample.shape[1]))
    embeddings = np.empty((len(candidates), place.shape[1]), dtype=np.float32)
    disagreeing = np.zeros(len(candidates), dtype=bool)
    rules = KeywordRules(release.rules) if release.rules and scorer is not None else None
    text_ids: list[int] = []
    counts: list[int] = []
    for page in _pages(context, mix_selection.waiting_page, (made.domain_id,), candidates):
        rows = slice(len(text_ids), len(text_ids) + len(page))
        texts = [words.text for words in page]
        probabilities[rows], embeddings[rows] = answers_and_places(scorer, texts)
        if rules is not None and scorer is not None:
            disagreeing[rows] = _contradicted(rules, texts, probabilities[rows], scorer.label_ids, release.threshold)
        text_ids += [words.text_id for words in page]
        counts += [words.count for words in page]
    known, known_labels = _known(context, made, scorer, place.shape[1])
    if context.stopping.is_set():
        return None
    label_ids = scorer.label_ids if scorer is not None else ()
    columns = {label_id: column for column, label_id in enumerate(label_ids)}
    there = len(text_ids)
    return Gathered(
        Pool(
            probabilities[:there],
            embeddings[:there],
            np.array(counts, dtype=np.int64),
            known,
            np.array([columns.get(label_id, -1) for label_id in known_labels], dtype=np.int64),
            [(columns[one], columns[other]) for one, other in made.confusions if {one, other} <= columns.keys()],
            disagreeing[:there],
        ),
        text_ids,
        [release.paths[label_id] for label_id in label_ids],
        len(candidates) / max(1, len(made.candidates)),
    )


def _at_most(ids: Sequence[int], most: int, rng: np.random.Generator) -> Sequence[int]:
    if len(ids) <= most:
        return ids
    return sorted(ids[place] for place in rng.permutation(len(ids))[:most].tolist())


def _pages(
    context: JobContext, read: Callable[..., list[Words]], given: tuple[Any, ...], ids: Sequence[int]
) -> Iterator[list[Words]]:
    for start in range(0, len(ids), PAGE):
        if context.stopping.is_set():
            return
        if page := context.work.read(read, *given, ids[start : start + PAGE]):
            yield page


def _known(
    context: JobContext, made: Plan, scorer: Scorer | None, dimension: int
) -> tuple[NDArray[np.float32], list[int]]:
    """Embeddings of labelled texts, shape (n_known, dimension), and the ids of their labels."""
    label_of = dict(made.known)
    found = np.empty((len(label_of), dimension), dtype=np.float32)
    labels: list[int] = []
    for page in _pages(context, mix_selection.known_page, (), list(label_of)):
        found[len(labels) : len(labels) + len(page)] = places(scorer, [words.text for words in page])
        labels += [label_of[words.text_id] for words in page]
    return found[: len(labels)], labels


def _contradicted(
    rules: KeywordRules, texts: Sequence[str], answers: Any, label_ids: Sequence[int], threshold: float
) -> NDArray[np.bool_]:
    """Where rules name another label than a model that is sure of its own."""
    said = [verdict.label_id for verdict in rules.judge_many([MaskedText(text) for text in texts], ())]
    best = [label_ids[column] for column in answers.argmax(axis=1).tolist()]
    others = np.array([rule is not None and rule != own for rule, own in zip(said, best, strict=True)], dtype=bool)
    contradicted: NDArray[np.bool_] = others & (answers.max(axis=1) >= min(threshold, SURE))
    return contradicted
