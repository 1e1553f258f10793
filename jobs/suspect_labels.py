"""Look for labels that look wrong after a training: by its out-of-fold answers, and on gold by its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.db.tables import ModelVersion
from app.intent.arrays import IntArray
from app.intent.suspects import MOST_COMPARED, Labelled, find_suspects, nearest_labelled
from app.intent.text_embedding import embed_texts
from app.scorers import load_scorer
from app.scorers.artifact import Scorer, read_manifest, read_out_of_fold, verify
from app.services import batches, suspects
from app.services.batches import LabelledText
from app.services.suspects import Suspect
from jobs.context import JobContext
from jobs.trainer_process import TrainerStopped

NEIGHBOURS: Final = 3
_AT_ONCE: Final = 256

# Texts -> embeddings, shape (n_texts, dimension).
Embed = Callable[[Sequence[str]], NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class _Judged:
    """Labelled texts, and what a model says of them that has not seen them."""

    items: Sequence[LabelledText]
    labelled: Labelled


def suspect_labels(context: JobContext, claimed: batches.Claimed, version: ModelVersion) -> int | None:
    """Doubt the labels that this version learned from, and gold's, and keep those that look wrong for a review.

    A version that was refused doubts nobody's label: it may be wrong itself. Returns how many labels wait for a review
    now; None where nothing was looked at.
    """
    if version.status == "refused":
        return None
    folder = context.store.fetch(version.artifact_digest)
    verify(folder, version.artifact_digest)
    out_of_fold, label_ids = read_out_of_fold(folder), read_manifest(folder).label_ids
    at = {label_id: column for column, label_id in enumerate(label_ids)}
    items = [item for item in context.work.read(batches.items, claimed.batch.id) if item.label_id in at]
    # What was forgotten since it was trained on is no item any more.
    known = {item.text_id: item for item in items if item.role != "gold"}
    rows = [row for row, text_id in enumerate(out_of_fold.text_ids.tolist()) if text_id in known]
    if not rows:
        return None
    scorer = load_scorer(folder)
    learned = [known[text_id] for text_id in out_of_fold.text_ids[rows].tolist()]
    held_out = [item for item in items if item.role == "gold"]
    trained = _Judged(learned, Labelled(out_of_fold.probabilities[rows], _columns(learned, at)))
    gold = _Judged(held_out, Labelled(scorer.probabilities(_words(held_out)), _columns(held_out, at)))
    found = _found(trained, gold, label_ids, _embedder(context, scorer))
    judged = {item.text_id for item in (*learned, *held_out)}
    best = sorted(found, key=lambda suspect: -suspect.suspicion)[: suspects.most(len(judged))]
    return context.work(suspects.replace, claimed.domain, best, judged=judged, version=version.version)


def _found(trained: _Judged, gold: _Judged, label_ids: Sequence[int], embed: Embed) -> list[Suspect]:
    step = -(-len(trained.items) // MOST_COMPARED)
    compared = trained.items[::step]
    others = embed(_words(compared))
    if step == 1:
        # Of more texts than can be compared with each other none votes: the probabilities alone tell nearly as well.
        trained = replace(trained, labelled=replace(trained.labelled, embeddings=others))
        gold = replace(gold, labelled=replace(gold.labelled, embeddings=embed(_words(gold.items))))
    found = []
    for judged, is_gold in ((trained, False), (gold, True)):
        doubted = find_suspects(trained.labelled, gold.labelled if is_gold else None)
        rows = np.flatnonzero(doubted.looks_wrong)
        if not len(rows):
            continue
        embeddings = judged.labelled.embeddings
        placed = embed(_words([judged.items[row] for row in rows.tolist()])) if embeddings is None else embeddings[rows]
        itself = np.where((rows % step == 0) & (not is_gold), rows // step, -1)
        near = nearest_labelled(placed, others, itself, NEIGHBOURS)
        for row, places in zip(rows.tolist(), near, strict=True):
            answer = int(doubted.answers[row])
            found.append(
                Suspect(
                    text_id=judged.items[row].text_id,
                    label_id=judged.items[row].label_id,
                    suspicion=float(doubted.suspicion[row]),
                    answer_id=label_ids[answer],
                    confidence=float(judged.labelled.probabilities[row, answer]),
                    neighbour_ids=tuple(compared[place].text_id for place in places),
                )
            )
    return found


def _embedder(context: JobContext, scorer: Scorer) -> Embed:
    """The scorer's own embeddings where it has some, else those by the characters that texts share."""
    own: Embed = getattr(scorer, "embed", embed_texts)

    def embed(texts: Sequence[str]) -> NDArray[np.floating]:
        pages = []
        for start in range(0, max(1, len(texts)), _AT_ONCE):
            if context.stopping.is_set():
                raise TrainerStopped("stopped before labels were doubted")
            pages.append(own(texts[start : start + _AT_ONCE]))
        return np.concatenate(pages)

    return embed


def _columns(items: Sequence[LabelledText], at: dict[int, int]) -> IntArray:
    return np.array([at[item.label_id] for item in items], dtype=np.int64)


def _words(items: Sequence[LabelledText]) -> list[str]:
    return [item.text for item in items]
