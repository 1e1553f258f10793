"""One step of the encoder: choose what is replayed, train on it beside what is new, and mix with what was before.

Torch, and no files: values in, values out. The same functions train a first version, with nothing to replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.intent.arrays import FloatArray, IntArray
from trainer.heads.linear_head import LinearHead, fitted_head, grown_head
from trainer.heads.stand_ins import stand_ins
from trainer.spec import Progress
from trainer.tuning.contrastive import draw_together
from trainer.tuning.embedding import Embedder, Texts
from trainer.tuning.encoder_config import BY_TEXTS, MOST_HELD_OUT, EncoderConfig
from trainer.tuning.fine_tuning import (
    Labelled,
    StandIns,
    Teacher,
    Tuned,
    fine_tune,
    load_state,
    losses_of,
    trainable_state,
)
from trainer.tuning.frozen_layers import Kept, Tokens
from trainer.tuning.interpolation import Mixture, choose_mixture, mixed
from trainer.tuning.replay import choose_replay, hold_out, replay_count, stratified

# Of the texts that are trained on: so many held-out ones are looked at after each epoch.
JUDGED_SHARE = 0.25
LEAST_JUDGED = 24


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled texts as the trainer sees them. `targets` are columns of today's labels; all have shape (n,)."""

    tokens: Sequence[Tokens]
    targets: IntArray

    def __len__(self) -> int:
        return len(self.tokens)

    def taken(self, rows: IntArray) -> Examples:
        """Some of them, in this order."""
        return Examples([self.tokens[row] for row in rows], self.targets[rows])


@dataclass(frozen=True, slots=True)
class Previous:
    """The version that a step continues from.

    Args:
        head: its head.
        columns: for each of today's labels its column there, or None where the label is new.
        was_right: for each old text, whether an earlier version had it right: 1, 0, or -1 where nobody asked.
        held_out: for each old text, whether it was held out from every training so far.
    """

    head: LinearHead
    columns: Sequence[int | None]
    was_right: IntArray
    held_out: NDArray[np.bool_]


@dataclass(slots=True)
class Outcome:
    """What a training gave beside the backbone, which was changed in place.

    Args:
        held_new, held_old: rows of the new and the old texts that nothing was trained on.
        replayed: rows of the old texts that were trained on again.
        right: for each old text whether a version of this step had it right: 1, 0, or -1 where nobody asked.
    """

    head: LinearHead
    tuned: Tuned
    held_new: IntArray
    held_old: IntArray
    replayed: IntArray
    right: IntArray
    mixture: Mixture | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def train_first(
    embedder: Embedder,
    examples: Examples,
    n_labels: int,
    config: EncoderConfig,
    *,
    seed: int,
    names: Sequence[Tokens] = (),
    held: IntArray | None = None,
    report: Progress = lambda _, __: None,
) -> Outcome:
    """Train a first version on all texts but the held-out ones.

    Where texts are few those of one label are drawn together first. Then a head is fitted, and both train on while that
    helps. With many texts what was trained is mixed with what was there before.

    Args:
        names: what each label is called; each counts as one more text of its label. None, or `n_labels`.
        held: rows that nothing is trained on; drawn where they are not given.
    """
    rng = np.random.default_rng(seed)
    to_the_end = config.first_epochs == BY_TEXTS and not config.are_few(len(examples), n_labels)
    config = config.for_texts(len(examples), n_labels)
    if held is None:
        held = hold_out(examples.targets, config.held_out, MOST_HELD_OUT, rng)
    inside = np.setdiff1d(np.arange(len(examples)), held)
    texts = embedder.prepared(examples.tokens)
    training = _both(
        Labelled(texts.taken(inside), examples.targets[inside]),
        Labelled(embedder.prepared(names), np.arange(len(names), dtype=np.int64)),
    )
    judged = Labelled(texts.taken(held), examples.targets[held])
    schedule = config.first()
    _draw_together(embedder, training, config, seed, lambda share, stage: report(share / 3, stage))
    before = trainable_state(embedder) if config.first_share < 1.0 else {}
    head = fitted_head(
        embedder.embed_all(training.texts), training.targets, n_labels, label_balance=config.label_balance
    )
    tuned = fine_tune(
        embedder,
        head,
        training,
        judged,
        schedule,
        config,
        seed=seed,
        may_stay=len(judged) > 0,
        to_the_end=to_the_end,
        report=lambda share, stage: report((1 + 2 * share) / 3, stage),
    )
    nothing = np.empty(0, dtype=np.int64)
    outcome = Outcome(tuned.head, tuned, held, nothing, nothing, nothing, facts=_facts(tuned, embedder.frozen.count))
    if config.first_share < 1.0:
        weights = _Weights(embedder, head, tuned.head, before)
        outcome.head = weights.take(config.first_share, trainable_state(embedder))
        outcome.facts["share"] = config.first_share
    return outcome


def _draw_together(embedder: Embedder, training: Labelled, config: EncoderConfig, seed: int, report: Progress) -> None:
    if config.first_contrastive_epochs:
        schedule = config.first()
        draw_together(
            embedder,
            training.texts,
            training.targets,
            epochs=config.first_contrastive_epochs,
            learning_rate=schedule.learning_rate,
            batch_size=schedule.batch_size,
            seed=seed,
            report=report,
        )


def train_step(
    embedder: Embedder,
    new: Examples,
    old: Examples,
    previous: Previous,
    config: EncoderConfig,
    *,
    seed: int,
    kept: Kept | None = None,
    report: Progress = lambda _, __: None,
) -> Outcome:
    """Continue from the previous version: its weights are in `embedder`'s backbone, its head in `previous`."""
    rng = np.random.default_rng(seed)
    held_new = hold_out(new.targets, config.held_out, MOST_HELD_OUT, rng)
    fresh = np.setdiff1d(np.arange(len(new)), held_new)
    wanted = replay_count(len(fresh), config.replay_ratio)
    pool = _pool(embedder, old, previous, wanted * config.replay_pool, rng, kept)
    new_texts = embedder.prepared(new.tokens, kept)
    beginners = Labelled(new_texts.taken(fresh), new.targets[fresh])
    head, held, said_new = _begin(embedder, new, old, beginners, pool, previous)

    chosen = choose_replay(
        pool.targets, losses_of(head.logits(pool.embeddings), pool.targets), pool.forgotten, wanted, rng
    )
    replay = Labelled(pool.texts.taken(chosen), pool.targets[chosen])
    training = _both(beginners, replay)
    held_old = np.flatnonzero(previous.held_out)
    judged_old = held_old[stratified(old.targets[held_old], _judged_count(len(training)), rng)]
    judged = _both(
        Labelled(new_texts.taken(held_new), new.targets[held_new]),
        Labelled(embedder.prepared(old.taken(judged_old).tokens, kept), old.targets[judged_old]),
    )
    # Of the replayed texts a part: each mixture of weights is asked about all that is compared.
    watched = chosen[stratified(replay.targets, _judged_count(len(training)), rng)]
    compared = _both(judged, Labelled(pool.texts.taken(watched), pool.targets[watched]))
    before = trainable_state(embedder)
    said_before = np.concatenate(
        [_answers(embedder, head, judged), head.logits(pool.embeddings[watched]).argmax(axis=1)]
    )
    tuned = fine_tune(
        embedder,
        head,
        training,
        judged,
        config.step(),
        config,
        seed=seed,
        stand_ins=held,
        teacher=_teacher(previous, len(beginners), said_new, pool.logits[chosen]),
        report=report,
    )
    outcome = Outcome(tuned.head, tuned, held_new, held_old, pool.rows[chosen], pool.recorded(len(old)))
    outcome.facts = _facts(tuned, embedder.frozen.count)
    if config.interpolation and len(compared):
        weights = _Weights(embedder, head, tuned.head, before)
        weights.choose(outcome, compared, said_before, len(judged))
    return outcome


@dataclass(frozen=True, slots=True)
class _Pool:
    """Old texts that may be replayed, and what the previous version says about them.

    `rows` are those of the old texts, `logits` have the previous version's columns, `right` and `forgotten` shape (n,).
    """

    rows: IntArray
    texts: Texts
    targets: IntArray
    embeddings: NDArray[np.float32]
    logits: FloatArray
    right: NDArray[np.bool_]
    forgotten: NDArray[np.bool_]

    def recorded(self, n_old: int) -> IntArray:
        """For each old text whether the previous version has it right: 1, 0, or -1 where it was not asked."""
        found = np.full(n_old, -1, dtype=np.int64)
        found[self.rows] = self.right
        return found


def _pool(
    embedder: Embedder, old: Examples, previous: Previous, count: int, rng: np.random.Generator, kept: Kept | None
) -> _Pool:
    """`count` old texts that were not held out, every label alike."""
    free = np.flatnonzero(~previous.held_out)
    rows = free[stratified(old.targets[free], count, rng)]
    texts = embedder.prepared(old.taken(rows).tokens, kept)
    embeddings = embedder.embed_all(texts)
    logits = previous.head.logits(embeddings)
    right = _today(previous)[logits.argmax(axis=1)] == old.targets[rows]
    forgotten = (previous.was_right[rows] == 1) & ~right
    return _Pool(rows, texts, old.targets[rows], embeddings, logits, right, forgotten)


def _begin(
    embedder: Embedder, new: Examples, old: Examples, beginners: Labelled, pool: _Pool, previous: Previous
) -> tuple[LinearHead, StandIns | None, FloatArray | None]:
    """The head to begin with, and what holds labels without a text: stand-ins, and the previous answers to new texts.

    Only through others can such a label be replayed (Li & Hoiem 2016).
    """
    known = [today for today, column in enumerate(previous.columns) if column is not None]
    absent = np.setdiff1d(known, np.concatenate([new.targets, old.targets])).astype(np.int64)
    if not len(absent) and None not in previous.columns:
        return _known_rows(previous), None, None
    # A pass of the encoder: only where something is begun or held by it.
    embedded = embedder.embed_all(beginners.texts)
    held = _stand_ins(embedded, beginners, pool, previous, absent) if len(absent) else None
    said_new = previous.head.logits(embedded) if held is not None else None
    return _begun_head(embedded, beginners, pool, previous, held), held, said_new


def _stand_ins(
    embedded: NDArray[np.float32], beginners: Labelled, pool: _Pool, previous: Previous, absent: IntArray
) -> StandIns:
    """For the absent labels. Each gets the say of one that has texts."""
    columns = np.array([-1 if column is None else column for column in previous.columns], dtype=np.int64)
    here = np.concatenate([beginners.targets, pool.targets])
    found = stand_ins(previous.head, np.vstack([embedded, pool.embeddings]), columns[here], columns[absent])
    return StandIns(found, absent, len(absent) / (len(columns) - len(absent)))


def _begun_head(
    embedded: NDArray[np.float32], beginners: Labelled, pool: _Pool, previous: Previous, without: StandIns | None
) -> LinearHead:
    """The previous head for today's labels, with new rows begun at the centroids of the new texts."""
    if None not in previous.columns:
        return _known_rows(previous)
    embeddings, targets = [embedded, pool.embeddings], [beginners.targets, pool.targets]
    if without is not None:
        # As many of each as other labels have texts, or the new ones would be begun as if those were rare.
        times = max(1, round(sum(map(len, targets)) / len(np.unique(np.concatenate(targets)))))
        embeddings.append(np.repeat(without.embeddings, times, axis=0))
        targets.append(np.repeat(without.targets, times))
    return grown_head(previous.head, previous.columns, np.vstack(embeddings), np.concatenate(targets))


def _known_rows(previous: Previous) -> LinearHead:
    """The previous head for today's labels, all of which it knows."""
    columns = [column for column in previous.columns if column is not None]
    return LinearHead(previous.head.weights[:, columns].copy(), previous.head.bias[columns].copy())


def _teacher(previous: Previous, n_new: int, said_new: FloatArray | None, said_old: FloatArray) -> Teacher:
    """The previous version's answers to `n_new` new texts, where they are given, and to the replayed ones after them.

    Its labels of today only.
    """
    known = [(today, column) for today, column in enumerate(previous.columns) if column is not None]
    first = np.zeros((n_new, said_old.shape[1])) if said_new is None else said_new
    said = np.vstack([first, said_old])[:, [column for _, column in known]]
    asked = np.arange(len(said)) >= n_new
    return Teacher(
        columns=np.array([today for today, _ in known], dtype=np.int64),
        logits=said,
        asked=asked if said_new is None else np.ones(len(said), dtype=bool),
    )


def _today(previous: Previous) -> IntArray:
    """For each column of the previous head the column of today, -1 where the label is gone."""
    found = np.full(len(previous.head.bias), -1, dtype=np.int64)
    for today, column in enumerate(previous.columns):
        if column is not None:
            found[column] = today
    return found


def _judged_count(n_training: int) -> int:
    return max(LEAST_JUDGED, round(JUDGED_SHARE * n_training))


def _both(first: Labelled, second: Labelled) -> Labelled:
    states = None
    if first.texts.states is not None and second.texts.states is not None:
        states = [*first.texts.states, *second.texts.states]
    texts = Texts([*first.texts.tokens, *second.texts.tokens], states)
    return Labelled(texts, np.concatenate([first.targets, second.targets]))


def _answers(embedder: Embedder, head: LinearHead, labelled: Labelled) -> IntArray:
    found: IntArray = head.logits(embedder.embed_all(labelled.texts)).argmax(axis=1)
    return found


@dataclass(frozen=True, slots=True)
class _Weights:
    """Body and head before and after a training, to be mixed."""

    embedder: Embedder
    head_before: LinearHead
    head_after: LinearHead
    body_before: Mapping[str, Tensor]

    def choose(self, outcome: Outcome, compared: Labelled, said_before: IntArray, n_judged: int) -> None:
        """Leave the best mixture in the backbone and in `outcome`. The first `n_judged` texts were held out."""
        body_after = trainable_state(self.embedder)

        def answers(share: float) -> IntArray:
            load_state(self.embedder, mixed(self.body_before, body_after, share))
            return _answers(self.embedder, self.head(share), compared)

        mixture = choose_mixture(answers, said_before, compared.targets, np.arange(len(compared)) < n_judged)
        outcome.head, outcome.mixture = self.take(mixture.share, body_after), mixture
        outcome.facts["interpolation"] = asdict(mixture)

    def take(self, share: float, body_after: Mapping[str, Tensor]) -> LinearHead:
        """Leave this mixture in the backbone; its head."""
        load_state(self.embedder, mixed(self.body_before, body_after, share))
        return self.head(share)

    def head(self, share: float) -> LinearHead:
        """The mixed head; at 1 it is the new one to the last bit."""
        if share == 1.0:
            return self.head_after
        before, after = self.head_before, self.head_after
        return LinearHead(
            before.weights + np.float32(share) * (after.weights - before.weights),
            before.bias + np.float32(share) * (after.bias - before.bias),
        )


def _facts(tuned: Tuned, frozen: int) -> dict[str, Any]:
    """What the manifest says about the training; no times, or the same batch would not give the same artifact."""
    return {
        "epochs": [
            {"loss": round(epoch.loss, 6), "macro_f1": None if np.isnan(epoch.macro_f1) else round(epoch.macro_f1, 6)}
            for epoch in tuned.epochs
        ],
        "best_epoch": tuned.best_epoch,
        "frozen_layers": frozen,
    }
