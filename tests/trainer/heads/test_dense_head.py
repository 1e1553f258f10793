from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trainer.heads import hidden_layer
from trainer.heads.dense_head import KINDS, HeadSettings, fit_head, join
from trainer.heads.dense_logistic import fit_linear
from trainer.heads.hidden_layer import HiddenFit, HiddenHead, fit_hidden, macro_f1
from trainer.heads.linear_head import LinearHead
from trainer.logistic import class_weights, softmax

QUICK = HeadSettings(hidden=16, epochs=10, batch=16, learning_rate=0.02)
HOW = HiddenFit(width=16, learning_rate=5e-3, epochs=15, batch=16, patience=3, dropout=0.2, weight_decay=0.01)


def silent(_progress: float, _stage: str) -> None:
    """Nobody watches."""


def clusters(n_labels: int = 4, per_label: int = 30, spread: float = 0.8, seed: int = 0) -> tuple[Any, Any, Any]:
    """Embeddings around one centre for each label, their targets, and the centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_labels, 12))
    targets = np.repeat(np.arange(n_labels), per_label)
    embeddings = centres[targets] + spread * rng.normal(size=(len(targets), 12))
    return embeddings.astype(np.float32), targets.astype(np.int64), centres.astype(np.float32)


def forward(arrays: Any, embeddings: Any) -> Any:
    """The scorer's formula, written out."""
    values = embeddings.astype(np.float64)
    if "hidden_weights" in arrays:
        values = np.maximum(values @ arrays["hidden_weights"] + arrays["hidden_bias"], 0.0)
    return values @ arrays["weights"] + arrays["bias"]


@pytest.mark.parametrize("kind", KINDS)
def test_head_answers_new_texts_and_gives_the_arrays_of_its_kind(kind: str) -> None:
    embeddings, targets, _ = clusters(per_label=60)
    shown, asked = np.arange(0, len(targets), 2), np.arange(1, len(targets), 2)
    unseen = embeddings[asked]

    head = fit_head(embeddings[shown], targets[shown], 4, replace(QUICK, kind=kind), 0, silent)

    assert (head.logits(unseen).argmax(axis=1) == targets[asked]).mean() > 0.85
    np.testing.assert_allclose(head.logits(unseen), forward(head.arrays, unseen), atol=1e-9)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in head.arrays.values())
    assert head.out_of_fold_logits.shape == (len(shown), 4)
    assert 0.05 <= head.temperature <= 20.0


@pytest.mark.parametrize("kind", KINDS)
def test_same_input_and_seed_give_the_same_bytes(kind: str) -> None:
    embeddings, targets, names = clusters()

    first, second = (fit_head(embeddings, targets, 4, replace(QUICK, kind=kind), 3, silent, names) for _ in range(2))

    assert {name: array.tobytes() for name, array in first.arrays.items()} == {
        name: array.tobytes() for name, array in second.arrays.items()
    }
    assert first.out_of_fold_logits.tobytes() == second.out_of_fold_logits.tobytes()
    assert first.temperature == second.temperature


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_fold_logits_never_saw_their_text(kind: str) -> None:
    """Labels drawn by lot: whoever saw a text knows its label, and nobody else can."""
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(120, 200)).astype(np.float32)
    targets = rng.permutation(np.repeat(np.arange(3), 40)).astype(np.int64)

    head = fit_head(embeddings, targets, 3, replace(QUICK, kind=kind, strengths=(10_000.0,), epochs=20), 0, silent)

    assert (head.logits(embeddings).argmax(axis=1) == targets).mean() > 0.9
    assert (head.out_of_fold_logits.argmax(axis=1) == targets).mean() < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_two_texts_a_label_are_enough(kind: str) -> None:
    embeddings, targets, _ = clusters(n_labels=3, per_label=2, spread=0.1)

    head = fit_head(embeddings, targets, 3, replace(QUICK, kind=kind, folds=20), 0, silent)

    assert np.isfinite(head.out_of_fold_logits).all()
    assert head.logits(embeddings).shape == (6, 3)


def test_each_text_may_be_a_fold_of_its_own() -> None:
    embeddings, targets, _ = clusters(n_labels=2, per_label=5, spread=0.1)

    head = fit_head(embeddings, targets, 2, HeadSettings(kind="linear", folds=10), 0, silent)

    assert (head.out_of_fold_logits.argmax(axis=1) == targets).all()


def test_a_name_helps_a_label_of_few_texts_and_is_not_itself_answered() -> None:
    embeddings, targets, centres = clusters(n_labels=8, per_label=2, spread=1.2)
    unseen, truth, _ = clusters(n_labels=8, per_label=200, spread=1.2, seed=0)

    without = fit_head(embeddings, targets, 8, HeadSettings(kind="linear", name_weight=0.0), 0, silent, centres)
    with_names = fit_head(embeddings, targets, 8, HeadSettings(kind="linear", name_weight=2.0), 0, silent, centres)

    right = [(head.logits(unseen).argmax(axis=1) == truth).mean() for head in (without, with_names)]
    assert right[1] > right[0] + 0.02
    assert len(with_names.out_of_fold_logits) == len(targets)


def test_balance_gives_a_rare_label_its_say() -> None:
    embeddings, targets, _ = clusters(n_labels=2, per_label=100, spread=2.5)
    kept = np.concatenate([np.arange(100), np.arange(100, 110)])

    shares = [
        (
            fit_head(embeddings[kept], targets[kept], 2, HeadSettings(kind="linear", label_balance=balance), 0, silent)
            .logits(embeddings)
            .argmax(axis=1)
            == 1
        ).mean()
        for balance in (0.0, 1.0)
    ]

    assert shares[1] > shares[0]


def test_length_of_the_embeddings_does_not_matter() -> None:
    embeddings, targets, names = clusters()

    one, long = (
        fit_head(embeddings * scale, targets, 4, HeadSettings(kind="linear"), 0, silent, names * scale)
        for scale in (np.float32(1.0), np.float32(64.0))
    )

    np.testing.assert_allclose(long.logits(embeddings * np.float32(64.0)), one.logits(embeddings), atol=1e-3)


def test_a_mixture_is_never_less_likely_than_the_linear_head_alone() -> None:
    embeddings, targets, _ = clusters(spread=1.5)

    head = fit_head(embeddings, targets, 4, replace(QUICK, kind="mixed"), 0, silent)

    assert head.facts["out_of_fold_loss"] <= head.facts["mixture_losses"][0] + 1e-9


def test_a_mixture_finds_what_no_line_can() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(800, 2)).astype(np.float32)
    targets = ((embeddings[:, 0] > 0) ^ (embeddings[:, 1] > 0)).astype(np.int64)

    head = fit_head(embeddings, targets, 2, HeadSettings(hidden=32, epochs=40, learning_rate=0.02), 0, silent)

    assert head.kind == "hidden"
    assert head.facts["hidden_share"] > 0.0
    assert head.facts["out_of_fold_accuracy"] > 0.9


def test_joined_layers_give_the_sum_of_what_they_join() -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    linear = LinearHead(draw(5, 3), draw(3))
    nets = [HiddenHead(draw(5, 4), draw(4), draw(4, 3), draw(3), (), 1) for _ in range(2)]
    embeddings = draw(7, 5)

    joined = forward(join(linear, nets, 0.7, 0.15), embeddings)

    expected = 0.7 * linear.logits(embeddings) + 0.15 * sum(net.logits(embeddings) for net in nets)
    np.testing.assert_allclose(joined, expected, atol=1e-5)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_linear_fit_finds_the_minimum_that_scikit_learn_finds(balance: float) -> None:
    embeddings, targets, _ = clusters(spread=1.5)
    embeddings = embeddings * np.geomspace(0.01, 3.0, 12).astype(np.float32) + np.float32(0.5)
    weights = class_weights(targets, 4, balance)

    heads = fit_linear(embeddings, targets, weights, 4, strengths=(1.0, 20.0), tolerance=1e-6)

    for head, strength in zip(heads, (1.0, 20.0), strict=True):
        theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=5000)
        theirs.fit(embeddings.astype(np.float64), targets, sample_weight=weights)
        np.testing.assert_allclose(
            softmax(head.logits(embeddings)), theirs.predict_proba(embeddings.astype(np.float64)), atol=2e-3
        )


def test_loss_of_the_hidden_layer_falls() -> None:
    embeddings, targets, _ = clusters()

    head = fit_hidden(embeddings, targets, np.ones(len(targets)), 4, HOW, np.random.default_rng(0))

    assert head.losses[-1] < 0.5 * head.losses[0]


def test_gradient_of_the_hidden_layer_is_the_slope_of_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, targets, _ = clusters(per_label=4)
    seen: list[Any] = []
    monkeypatch.setattr(hidden_layer._State, "update", lambda _self, gradients, _settings: seen.append(gradients))
    state = hidden_layer._State.start(12, 16, 4, 1, np.random.default_rng(0))
    how = replace(HOW, batch=len(targets), dropout=0.0)
    text_weights = class_weights(targets, 4, 0.0)

    def loss() -> float:
        order = np.arange(len(targets))
        return hidden_layer._epoch(state, embeddings, targets, text_weights, order, how, np.random.default_rng(0))

    loss()
    for name, place in (("hidden_weights", (3, 5)), ("hidden_bias", (5,)), ("weights", (5, 2)), ("bias", (1,))):
        before = state.weights[name][place]
        state.weights[name][place] = before + np.float32(0.01)
        above = loss()
        state.weights[name][place] = before - np.float32(0.01)
        below = loss()
        state.weights[name][place] = before
        assert (above - below) / 0.02 == pytest.approx(float(seen[0][name][place]), abs=2e-3)


def test_hidden_layer_stops_when_the_held_out_part_gets_no_better() -> None:
    embeddings, targets, _ = clusters(per_label=60, spread=0.3)
    how = replace(HOW, epochs=200)

    head = fit_hidden(embeddings, targets, np.ones(len(targets)), 4, how, np.random.default_rng(0))

    assert len(head.losses) < 200
    assert len(head.losses) == head.best_epoch + how.patience


def test_hidden_layer_runs_all_epochs_when_there_is_too_little_to_hold_out() -> None:
    embeddings, targets, _ = clusters(per_label=9)

    head = fit_hidden(embeddings, targets, np.ones(len(targets)), 4, HOW, np.random.default_rng(0))

    assert len(head.losses) == head.best_epoch == HOW.epochs


def test_macro_f1_counts_each_true_label_alike() -> None:
    assert macro_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])) == pytest.approx((6 / 7 + 0.0) / 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "deep"},
        {"strengths": ()},
        {"strengths": (20.0, 10.0)},
        {"strengths": (0.0,)},
        {"folds": 1},
        {"hidden": 4},
        {"learning_rate": 0.0},
        {"epochs": 0},
        {"batch": 4},
        {"patience": 0},
        {"dropout": 0.95},
        {"weight_decay": 2.0},
        {"label_balance": 1.5},
        {"name_weight": -1.0},
        {"tolerance": float("nan")},
    ],
)
def test_settings_refuse_what_cannot_be_fitted_with(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HeadSettings(**wrong)


def test_a_label_of_one_text_and_what_is_not_a_number_are_refused() -> None:
    embeddings, targets, names = clusters()

    with pytest.raises(ValueError, match="two texts"):
        fit_head(embeddings[:-29], targets[:-29], 4, QUICK, 0, silent)
    with pytest.raises(ValueError, match="not a number"):
        fit_head(np.full_like(embeddings, np.nan), targets, 4, QUICK, 0, silent)
    with pytest.raises(ValueError, match="names"):
        fit_head(embeddings, targets, 4, QUICK, 0, silent, names[:2])
    with pytest.raises(ValueError, match="float32"):
        fit_head(embeddings.astype(np.float64), targets, 4, QUICK, 0, silent)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets"):
        fit_head(embeddings, targets, 3, QUICK, 0, silent)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_grows_and_stays_within_its_bounds(kind: str) -> None:
    embeddings, targets, _ = clusters(per_label=8)
    seen: list[float] = []

    fit_head(embeddings, targets, 4, replace(QUICK, kind=kind), 0, lambda progress, _: seen.append(progress))

    assert seen == sorted(seen)
    assert 0.0 < seen[0] < seen[-1] <= 1.0


def test_embeddings_that_are_all_alike_give_even_answers() -> None:
    targets = np.array([0, 0, 1, 1], dtype=np.int64)

    head = fit_head(np.ones((4, 3), np.float32), targets, 2, HeadSettings(kind="linear"), 0, silent)

    np.testing.assert_allclose(softmax(head.logits(np.ones((1, 3), np.float32))), 0.5, atol=1e-3)
