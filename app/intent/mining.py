"""Mine keyword rules from labelled texts, each with evidence from texts that it was not mined on."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from app.intent.proportions import wilson
from app.intent.rule_evidence import (
    MiningOptions,
    assign_folds,
    count_folds,
    log_odds,
    out_of_fold_evidence,
)
from app.intent.rule_matching import WordFinder
from app.intent.rule_words import WordCutter
from app.intent.rules import searchable
from app.intent.text import MaskedText

MAX_EXAMPLES: Final = 5

_LEAST_TEXTS: Final = 2
"""Words of a single text can be counted on no other."""

_PAIRED_WORDS: Final = 24
"""Words of one text that are paired with each other, the most typical of its label: 276 pairs, however long it is."""

_MOST_PAIRS: Final = 100_000
"""Pairs that are looked at, the most frequent: two seconds."""


@dataclass(frozen=True, slots=True)
class MinedRule:
    """A rule, and what is known about it from texts that it was not mined on.

    Args:
        all_of: one word (or two in a row) or two words, as `rule_word` folds them; it matches texts that hold all.
        support: texts that it was counted on.
        precision: share of them that have its label.
        precision_lower: lower end of Wilson's 95 % interval of the precision.
        coverage: the share of all texts that it matches.
        log_odds: how typical it is of its label among the texts that it was counted on, as a z-score.
        examples: positions of up to five texts that it matches, those with its label first.
    """

    label_id: int
    all_of: tuple[str, ...]
    support: int
    precision: float
    precision_lower: float
    coverage: float
    log_odds: float
    examples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Words and pairs with their texts. `holders[k]`: ascending positions of the texts that hold all of `words[k]`."""

    words: list[tuple[str, ...]]
    holders: list[IntArray]

    def flat(self) -> tuple[IntArray, IntArray]:
        """Each match as a candidate and a text."""
        candidates = np.repeat(np.arange(len(self.words)), [len(texts) for texts in self.holders])
        return candidates, np.concatenate([np.empty(0, dtype=np.int64), *self.holders])


def mine_rules(
    texts: Sequence[MaskedText],
    label_ids: Sequence[int],
    *,
    user_words: Iterable[str] = (),
    options: MiningOptions | None = None,
) -> tuple[MinedRule, ...]:
    """Words and pairs of words that name a label, the most typical first.

    A candidate speaks for the label that most of its texts have. It is mined on all folds but one and counted on that
    one, for each fold in turn; what has too little support or precision then goes, and what better rules of the same
    label say already. A text holds a word where serving would find it: see `app.intent.rules.contains`.

    Args:
        texts: distinct texts, none of them gold.
        label_ids: the label of each.
        user_words: what the cutter must know as words; each is a candidate wherever it stands.
    """
    if len(texts) != len(label_ids):
        raise ValueError("every text needs a label")
    if len(set(label_ids)) < 2:
        return ()
    labels, targets = np.unique(np.asarray(label_ids, dtype=np.int64), return_inverse=True)
    options = options or MiningOptions()
    cutter = WordCutter(user_words)
    words = _words([searchable(text) for text in texts], cutter)
    pairs = _pairs(words, targets, options)
    candidates = _Candidates(words.words + pairs.words, words.holders + pairs.holders)
    return _rules(candidates, labels, targets, set(cutter.user_words), options)


def _words(folded: Sequence[str], cutter: WordCutter) -> _Candidates:
    """Every word and phrase that the cutter sees, and every user word, with all texts that hold it."""
    met = Counter(word for text in folded for word in {*cutter.words(text), *cutter.phrases(text)})
    met.update(dict.fromkeys(cutter.user_words, len(folded)))
    known = sorted(word for word, count in met.items() if count >= _LEAST_TEXTS)
    if not known:
        return _Candidates([], [])
    # What serving finds, so that the evidence is about what will be served.
    finder = WordFinder(known)
    known = finder.words
    matches = [sorted(finder.found(text)) for text in folded]
    numbers = np.array([number for matched in matches for number in matched], dtype=np.int64)
    order = np.argsort(numbers, kind="stable")
    texts = np.repeat(np.arange(len(folded)), [len(matched) for matched in matches])[order]
    holders = np.split(texts, np.cumsum(np.bincount(numbers, minlength=len(known)))[:-1])
    kept = [number for number in range(len(known)) if len(holders[number])]
    return _Candidates([(known[number],) for number in kept], [holders[number] for number in kept])


def _pairs(words: _Candidates, targets: IntArray, options: MiningOptions) -> _Candidates:
    """Pairs of words that stand together in enough texts, mostly of one label, and say more than either word alone."""
    numbers, texts = words.flat()
    own = _label_counts(numbers, targets[texts], len(words.words), int(targets.max()) + 1)
    found, sizes = own.sum(axis=1), np.bincount(targets)
    label = targets[texts]
    typical = log_odds(found[numbers], own[numbers, label], sizes[label], len(targets))
    alone = own / np.maximum(found, 1)[:, None]
    pairs = _Candidates([], [])
    for first, second in _frequent_pairs(numbers, texts, typical, max(_LEAST_TEXTS, options.min_support)):
        (a,), (b,) = words.words[first], words.words[second]
        if a in b or b in a:
            continue
        both = np.intersect1d(words.holders[first], words.holders[second], assume_unique=True)
        of_label = np.bincount(targets[both])
        best = int(of_label.argmax())
        precision = of_label[best] / len(both)
        if precision >= options.min_confidence and precision > max(alone[first, best], alone[second, best]):
            pairs.words.append((a, b))
            pairs.holders.append(both)
    return pairs


def _frequent_pairs(
    numbers: IntArray, texts: IntArray, typical: FloatArray, least_texts: int
) -> Iterable[tuple[int, int]]:
    """Pairs of words that stand in one text often enough, the most frequent first; of long texts the typical words."""
    n_words = int(numbers.max(initial=-1)) + 1
    order = np.lexsort((numbers, -typical, texts))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(texts))])
    keys = [np.empty(0, dtype=np.int64)]
    corners: dict[int, tuple[IntArray, ...]] = {}
    for start, end in pairwise(bounds):
        best = np.sort(numbers[order[start : min(end, start + _PAIRED_WORDS)]])
        if len(best) not in corners:
            corners[len(best)] = np.triu_indices(len(best), 1)
        first, second = corners[len(best)]
        keys.append(best[first] * n_words + best[second])
    pairs, together = np.unique(np.concatenate(keys), return_counts=True)
    enough = np.flatnonzero(together >= least_texts)
    chosen = enough[np.argsort(-together[enough], kind="stable")][:_MOST_PAIRS]
    return (divmod(int(pair), n_words) for pair in pairs[chosen])


def _label_counts(numbers: IntArray, labels: IntArray, n_candidates: int, n_labels: int) -> IntArray:
    """How many texts of each label each candidate matches; shape (n_candidates, n_labels)."""
    counts = np.bincount(numbers * n_labels + labels, minlength=n_candidates * n_labels)
    return counts.reshape(n_candidates, n_labels)


def _rules(
    candidates: _Candidates, labels: IntArray, targets: IntArray, user_words: Set[str], options: MiningOptions
) -> tuple[MinedRule, ...]:
    """The candidates that earn their place. Of those that match the same texts the one in people's own words stays."""
    numbers, texts = candidates.flat()
    speaks_for = _label_counts(numbers, targets[texts], len(candidates.words), len(labels)).argmax(axis=1)
    several = np.array([len(words) > 1 for words in candidates.words], dtype=bool)
    counts = count_folds(numbers, texts, speaks_for, several, targets, assign_folds(targets, options))
    evidence = out_of_fold_evidence(counts, options)
    scores, precisions = evidence.log_odds, evidence.precision
    lower = [wilson(int(r), int(s))[0] for r, s in zip(evidence.right, evidence.support, strict=True)]
    enough = [int(k) for k in np.flatnonzero(evidence.suffices(options))]
    plainness = [(not user_words >= set(words), len(words), words) for words in candidates.words]
    enough.sort(key=lambda k: (-lower[k], -scores[k], plainness[k]))
    kept = _without_redundant(enough, candidates.holders, speaks_for, limit=options.limit)
    kept.sort(key=lambda k: (-scores[k], candidates.words[k]))
    return tuple(
        MinedRule(
            label_id=int(labels[speaks_for[k]]),
            all_of=candidates.words[k],
            support=int(evidence.support[k]),
            precision=float(precisions[k]),
            precision_lower=lower[k],
            coverage=len(candidates.holders[k]) / len(targets),
            log_odds=float(scores[k]),
            examples=_examples(candidates.holders[k], targets[candidates.holders[k]] == speaks_for[k]),
        )
        for k in kept
    )


def _examples(holders: IntArray, right: IntArray) -> tuple[int, ...]:
    first = np.concatenate([holders[right], holders[~right]])[:MAX_EXAMPLES]
    return tuple(int(text) for text in first)


def _without_redundant(
    order: Sequence[int], holders: Sequence[IntArray], speaks_for: IntArray, *, limit: int
) -> list[int]:
    """At most `limit` of `order`, best first, that better rules of the same label leave something to say.

    A rule is redundant where better ones match all of its texts: a pair beside its word, a longer word beside a
    shorter one. Of too many, those are kept that together match the most texts, chosen greedily.
    """
    sets = {k: _as_bits(holders[k]) for k in order}
    covered: dict[int, int] = {}
    kept: list[int] = []
    for k in order:
        before = covered.get(int(speaks_for[k]), 0)
        if sets[k] & ~before:
            covered[int(speaks_for[k])] = before | sets[k]
            kept.append(k)
    return kept if len(kept) <= limit else _widest(kept, sets, speaks_for, limit)


def _widest(order: Sequence[int], sets: Mapping[int, int], speaks_for: IntArray, limit: int) -> list[int]:
    """The `limit` rules that each add the most texts to those before; of equal ones the first of `order`."""
    waiting = [(-sets[k].bit_count(), place, k) for place, k in enumerate(order)]
    heapq.heapify(waiting)
    covered: dict[int, int] = {}
    chosen: list[int] = []
    while len(chosen) < limit:
        added, place, k = heapq.heappop(waiting)
        before = covered.get(int(speaks_for[k]), 0)
        # What a rule adds can only shrink: if it is the most even now, no other adds more.
        adds_now = (sets[k] & ~before).bit_count()
        if adds_now == -added:
            covered[int(speaks_for[k])] = before | sets[k]
            chosen.append(k)
        else:
            heapq.heappush(waiting, (-adds_now, place, k))
    return chosen


def _as_bits(texts: IntArray) -> int:
    """A set of texts as the ones of a whole number: sets are then joined and counted at the speed of memory."""
    bits = np.zeros(int(texts[-1]) + 1, dtype=np.uint8)
    bits[texts] = 1
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
