"""Choose what an adapter learns from: which texts are held out and replayed, and which labels stand in a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from app.intent.arrays import FloatArray, IntArray
from trainer.generative.prompt import PromptTokens

LEVELS_BETWEEN = " > "
# What a negative that shares a level with the right label counts beside one that shares none.
_NEARER = 3.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """One text to learn: its prompt and its answer as token ids, and what its loss counts beside the others'."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0


def carve(text_ids: Sequence[int], targets: IntArray, *, share: float, most: int, seen: Set[int]) -> IntArray:
    """Rows to hold out, ascending: of each label about `share`, at least one, never all.

    The choice is by a hash of the text's id, so that a text that is held out stays so from batch to batch.

    Args:
        targets: shape (n_texts,), the label's column.
        most: rows at most; labels lose theirs evenly.
        seen: ids of texts that what is trained on has learnt from already: they prove nothing.
    """
    drawn = [hashlib.sha256(b"%d" % text_id).digest() for text_id in text_ids]
    ranked: list[tuple[int, bytes, int]] = []
    for target in np.unique(targets).tolist():
        rows = np.flatnonzero(targets == target).tolist()
        free = sorted((row for row in rows if text_ids[row] not in seen), key=lambda row: drawn[row])
        wanted = min(max(1, round(share * len(rows))), len(rows) - 1)
        ranked += [(rank, drawn[row], row) for rank, row in enumerate(free[:wanted])]
    return np.array(sorted(row for _, _, row in sorted(ranked)[:most]), dtype=np.int64)


def choose_replay(rows: IntArray, targets: IntArray, n_new: int, ratio: float, rng: np.random.Generator) -> IntArray:
    """Those of the old `rows` to learn again, ascending: replayed / (new + replayed) = `ratio`, labels in turn.

    Args:
        targets: shape (n_texts,), the label's column of every row.
        n_new: new texts beside them; without any, all old ones are learnt again.
    """
    wanted = round(n_new * ratio / (1.0 - ratio)) if n_new else len(rows)
    turns: list[tuple[int, int]] = []
    for target in np.unique(targets[rows]).tolist():
        mixed = rng.permutation(rows[targets[rows] == target]).tolist()
        turns += list(enumerate(mixed))
    # Of the last turn only some find room: which ones must not hang on the order of the labels.
    order = rng.permutation(len(turns))
    chosen = sorted((turns[place] for place in order), key=lambda turn: turn[0])[:wanted]
    return np.array(sorted(row for _, row in chosen), dtype=np.int64)


def nearness(paths: Sequence[str]) -> FloatArray:
    """How often one label stands as a negative beside another, shape (n_labels, n_labels), relative, 0 for itself."""
    levels = [path.split(LEVELS_BETWEEN) for path in paths]
    shared = np.array([[_shared(one, other) for other in levels] for one in levels], dtype=np.float64)
    weights: FloatArray = 1.0 + _NEARER * shared
    np.fill_diagonal(weights, 0.0)
    return weights


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def prompts_for(
    prompts: PromptTokens,
    paths: Sequence[str],
    answers: Sequence[Sequence[int]],
    texts: Sequence[tuple[str, int, float]],
    *,
    most_candidates: int,
    all_labels: float,
    rng: np.random.Generator,
) -> Callable[[int], list[Lesson]]:
    """What draws the lessons of an epoch: each text with its own label and others, as many as chance says.

    Args:
        paths, answers: of each label, in the artifact's order; a prompt lists its candidates in that order.
        texts: text, column of its label, weight of its loss.
        all_labels: share of the prompts that list every label.
    """
    weights = nearness(paths)
    bodies = [prompts.body(text) for text, _, _ in texts]
    everything = tuple(range(len(paths)))
    whole = prompts.head(paths)
    most = min(most_candidates, len(paths))

    def candidates(own: int) -> tuple[int, ...]:
        if rng.random() < all_labels:
            return everything
        others = int(rng.integers(2, most + 1)) - 1
        odds = weights[own] / weights[own].sum()
        return tuple(sorted([own, *rng.choice(len(paths), size=others, replace=False, p=odds).tolist()]))

    def draw(_epoch: int) -> list[Lesson]:
        lessons = []
        for (_, own, weight), body in zip(texts, bodies, strict=True):
            chosen = candidates(own)
            head = whole if chosen == everything else prompts.head([paths[column] for column in chosen])
            lessons.append(Lesson((*head, *body), tuple(answers[own]), weight))
        return lessons

    return draw
