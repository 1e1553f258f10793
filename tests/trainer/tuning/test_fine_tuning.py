import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.tiny_encoders import bert, texts_of
from trainer.encoders.backbone import Backbone, load_backbone
from trainer.tuning.contrastive import contrastive_loss
from trainer.tuning.embedding import Embedder
from trainer.tuning.encoder_config import EncoderConfig
from trainer.tuning.fine_tuning import distillation_loss, losses_of
from trainer.tuning.incremental_step import Examples, Outcome, Previous, train_first, train_step

CONFIG = EncoderConfig(
    first_epochs=6,
    first_learning_rate=2e-3,
    first_batch_size=32,
    head_learning_rate=1e-2,
    learning_rate=5e-4,
    patience=6,
    bf16="off",
    held_out=0.2,
    first_contrastive_epochs=0,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return bert(tmp_path_factory.mktemp("base"))


def backbone_of(base: Path) -> Backbone:
    return load_backbone(base, max_length=32)


def examples(backbone: Backbone, labels: Sequence[int], count: int, seed: int = 0) -> Examples:
    """Texts of these labels; the first label is column 0, and so on."""
    texts = [text for label in labels for text in texts_of(label, count, seed)]
    tokens = [tuple(ids) for ids in backbone.tokens(texts)]
    return Examples(tokens, np.repeat(np.arange(len(labels)), count))


def first(base: Path, config: EncoderConfig = CONFIG, *, seed: int = 0, count: int = 20) -> tuple[Embedder, Outcome]:
    embedder = Embedder(backbone_of(base), config.first_freeze_layers, bf16=False)
    return embedder, train_first(embedder, examples(embedder.backbone, range(4), count), 4, config, seed=seed)


def accuracy(embedder: Embedder, outcome: Outcome, asked: Examples) -> float:
    answers = outcome.head.logits(embedder.embed_all(embedder.prepared(asked.tokens))).argmax(axis=1)
    return float((answers == asked.targets).mean())


@pytest.fixture(scope="module")
def started(base: Path) -> tuple[Embedder, Outcome]:
    """A first version with four labels. Read only: steps load its state into a backbone of their own."""
    return first(base)


def step(
    base: Path,
    started: tuple[Embedder, Outcome],
    labels: Sequence[int] = (0, 1, 2, 3),
    config: EncoderConfig = CONFIG,
    *,
    seed: int = 0,
    was_right: int = -1,
) -> tuple[Embedder, Outcome]:
    """A step whose new texts are of `labels`, on the 80 old texts of four labels."""
    embedder_before, outcome_before = started
    backbone = backbone_of(base)
    backbone.load_state_dict(embedder_before.backbone.state_dict())
    embedder = Embedder(backbone, 2 if config.freeze_layers else 0, bf16=False)
    old = examples(backbone, range(4), 20)
    new = examples(backbone, labels, 8, seed=1)
    new = replace(new, targets=np.array(labels)[new.targets])
    held = np.isin(np.arange(len(old)), outcome_before.held_new)
    columns = [column if column < 4 else None for column in range(max(4, max(labels) + 1))]
    previous = Previous(outcome_before.head, columns, np.full(len(old), was_right), held)
    return embedder, train_step(embedder, new, old, previous, config, seed=seed)


def test_the_loss_falls_and_unseen_texts_are_named(started: tuple[Embedder, Outcome]) -> None:
    embedder, outcome = started
    losses = [epoch.loss for epoch in outcome.tuned.epochs]

    assert losses[-1] < 0.8 * losses[0]
    assert accuracy(embedder, outcome, examples(embedder.backbone, range(4), 20, seed=9)) > 0.8


def test_held_out_texts_are_never_trained_on(started: tuple[Embedder, Outcome]) -> None:
    _, outcome = started

    assert 8 <= len(outcome.held_new) <= 24


def test_the_same_seed_gives_the_same_weights_to_the_last_bit_and_another_seed_others(base: Path) -> None:
    short = replace(CONFIG, first_epochs=1, held_out=0.0)
    states = [first(base, short, seed=seed)[0].backbone.state_dict() for seed in (0, 0, 1)]

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_training_goes_back_to_the_best_epoch_and_stops_after_patience(base: Path) -> None:
    _, outcome = first(base, replace(CONFIG, first_epochs=30, patience=2))
    scores = [epoch.macro_f1 for epoch in outcome.tuned.epochs]

    assert len(scores) == outcome.tuned.best_epoch + 2 < 30
    reached = [outcome.tuned.began, *scores]
    assert reached[outcome.tuned.best_epoch] == max(reached)


def test_with_few_texts_a_label_a_first_version_draws_them_together_and_with_many_it_is_mixed_with_the_base() -> None:
    few, many = EncoderConfig().for_texts(300, 10), EncoderConfig().for_texts(301, 10)

    assert (few.first_contrastive_epochs, few.first_epochs, few.first_learning_rate, few.first_share) == (4, 8, 5e-5, 1)
    assert (many.first_contrastive_epochs, many.first_epochs) == (0, 5)
    assert (many.first_learning_rate, many.first_share) == (1e-4, 0.5)
    said = EncoderConfig(first_epochs=3, first_learning_rate=1e-3, first_contrastive_epochs=2, first_share=0.75)
    assert said.for_texts(10_000, 10) == said


def test_with_many_texts_a_first_version_is_trained_to_the_end(base: Path) -> None:
    by_texts = replace(CONFIG, first_epochs=-1, first_learning_rate=1e-3, patience=1)
    _, many = first(base, by_texts, count=31)
    _, stopped = first(base, replace(by_texts, first_epochs=30), count=31)

    assert len(many.tuned.epochs) == 5
    assert many.tuned.best_epoch in (0, 5)
    assert len(stopped.tuned.epochs) < 30


def test_a_mixed_first_version_lies_between_the_base_and_what_was_trained(base: Path) -> None:
    _, whole = first(base, replace(CONFIG, held_out=0.0, first_epochs=2, first_share=1.0))
    embedder, half = first(base, replace(CONFIG, held_out=0.0, first_epochs=2, first_share=0.5))
    trained, _ = first(base, replace(CONFIG, held_out=0.0, first_epochs=2, first_share=1.0))

    begun = dict(backbone_of(base).named_parameters())
    after = dict(trained.backbone.named_parameters())
    for name, weight in embedder.backbone.named_parameters():
        torch.testing.assert_close(weight, (begun[name] + after[name]) / 2, rtol=0, atol=1e-6)
    assert half.facts["share"] == 0.5
    assert "share" not in whole.facts
    assert not np.array_equal(half.head.weights, whole.head.weights)


def test_a_first_version_keeps_the_fitted_head_where_training_on_only_harms(base: Path) -> None:
    embedder, outcome = first(base, replace(CONFIG, head_learning_rate=0.1, first_learning_rate=1e-2, patience=1))
    before, after = backbone_of(base).state_dict(), embedder.backbone.state_dict()

    assert outcome.tuned.best_epoch == 0
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_held_out_texts_the_last_epoch_stands(base: Path) -> None:
    _, outcome = first(base, replace(CONFIG, held_out=0.0, first_epochs=2))

    assert outcome.tuned.best_epoch == 2
    assert math.isnan(outcome.tuned.epochs[-1].macro_f1)


def test_a_step_leaves_the_lowest_layers_as_they_were(base: Path, started: tuple[Embedder, Outcome]) -> None:
    embedder, _ = step(base, started)
    before, after = started[0].backbone.state_dict(), embedder.backbone.state_dict()

    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".layer.2." in name for name in changed)


def test_a_step_replays_as_many_old_texts_as_the_ratio_says_and_none_that_was_held_out(
    base: Path, started: tuple[Embedder, Outcome]
) -> None:
    _, outcome = step(base, started)
    trained_new = 32 - len(outcome.held_new)

    assert len(outcome.replayed) == trained_new
    assert not set(outcome.replayed) & set(outcome.held_old)
    assert set(outcome.held_old) == set(started[1].held_new)


def test_a_step_without_replay_trains_on_new_texts_alone(base: Path, started: tuple[Embedder, Outcome]) -> None:
    assert len(step(base, started, config=replace(CONFIG, replay_ratio=0.0))[1].replayed) == 0


def test_a_step_learns_a_new_label_and_keeps_the_old_ones(base: Path, started: tuple[Embedder, Outcome]) -> None:
    longer = replace(CONFIG, epochs=4)
    embedder, outcome = step(base, started, (4, 0), longer)
    backbone = embedder.backbone
    newcomers = examples(backbone, [4], 20, seed=9)

    assert outcome.head.weights.shape == (32, 5)
    assert accuracy(embedder, outcome, replace(newcomers, targets=newcomers.targets + 4)) > 0.7
    known = examples(backbone, range(4), 20, seed=9)
    assert accuracy(embedder, outcome, known) > accuracy(*started, known) - 0.1


def test_a_step_says_of_each_candidate_whether_the_version_before_had_it_right(
    base: Path, started: tuple[Embedder, Outcome]
) -> None:
    embedder_before, outcome_before = started
    _, outcome = step(base, started)
    old = examples(embedder_before.backbone, range(4), 20)
    answers = outcome_before.head.logits(embedder_before.embed_all(embedder_before.prepared(old.tokens))).argmax(axis=1)
    asked = np.flatnonzero(outcome.right >= 0)

    assert set(outcome.replayed) <= set(asked)
    assert outcome.right[asked].tolist() == (answers == old.targets)[asked].astype(int).tolist()


def test_interpolation_never_raises_negative_flips(base: Path, started: tuple[Embedder, Outcome]) -> None:
    for seed in range(3):
        mixture = step(base, started, config=replace(CONFIG, learning_rate=1e-3), seed=seed)[1].mixture
        assert mixture is not None
        assert mixture.negative_flips <= mixture.negative_flips_before
        assert mixture.macro_f1 >= mixture.macro_f1_before
    assert step(base, started, config=replace(CONFIG, interpolation=False))[1].mixture is None


def test_distillation_keeps_answers_nearer_to_those_of_the_version_before(
    base: Path, started: tuple[Embedder, Outcome]
) -> None:
    embedder_before, outcome_before = started
    asked = examples(embedder_before.backbone, range(4), 20, seed=9)
    said = outcome_before.head.logits(embedder_before.embed_all(embedder_before.prepared(asked.tokens)))
    distances = []
    for weight in (0.0, 10.0):
        config = replace(CONFIG, distillation=weight, interpolation=False, learning_rate=1e-3, epochs=3)
        embedder, outcome = step(base, started, config=config)
        now = outcome.head.logits(embedder.embed_all(embedder.prepared(asked.tokens)))
        distances.append(float(np.abs(now - said).mean()))

    assert distances[1] < distances[0]


def test_contrastive_epochs_draw_texts_of_one_label_together(base: Path) -> None:
    config = replace(CONFIG, first_contrastive_epochs=3, first_epochs=0, first_learning_rate=1e-3)
    backbone = backbone_of(base)
    asked = examples(backbone, range(4), 20, seed=9)
    targets = torch.from_numpy(asked.targets)
    plain = Embedder(backbone, 0, bf16=False)
    before = contrastive_loss(torch.from_numpy(plain.embed_all(plain.prepared(asked.tokens))), targets)
    embedder, _ = first(base, config)
    after = contrastive_loss(torch.from_numpy(embedder.embed_all(embedder.prepared(asked.tokens))), targets)

    assert after < 0.97 * before


def test_a_rate_that_breaks_the_weights_is_said_and_not_saved(base: Path) -> None:
    embedder = Embedder(backbone_of(base), 0, bf16=False)
    with torch.no_grad():
        next(embedder.backbone.encoder.parameters()).mul_(float("inf"))

    with pytest.raises((FloatingPointError, ValueError)):
        train_first(embedder, examples(embedder.backbone, range(2), 6), 2, CONFIG, seed=0)


def test_losses_are_those_of_the_definition() -> None:
    logits = np.array([[1.0, 2.0], [3.0, -1.0]])
    expected = -np.log([np.exp(2.0) / (np.exp(1.0) + np.exp(2.0)), np.exp(3.0) / (np.exp(3.0) + np.exp(-1.0))])

    np.testing.assert_allclose(losses_of(logits, np.array([1, 0])), expected)
    assert float(distillation_loss(torch.tensor(logits), torch.tensor(logits), 2.0)) == pytest.approx(0.0)
