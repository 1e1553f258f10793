"""A text unlike all that a model has labels for scores high; of texts like them hardly one is flagged."""

import numpy as np
import pytest

from app.intent import scope as module
from app.intent.scope import arrays_of, fit_scope, scope_of

DIMENSION, LABELS = 16, 6
CENTRES = 4.0 * np.eye(DIMENSION)[:LABELS]


def drawn(per_label, *, seed, labels=LABELS):
    """Clouds around the labels' centres, and what a well calibrated model says of them."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(labels), per_label)
    embeddings = (CENTRES[targets] + rng.normal(size=(len(targets), DIMENSION))).astype(np.float32)
    return embeddings, targets, judged(embeddings)


def judged(embeddings):
    logits = embeddings @ CENTRES.T - (CENTRES**2).sum(axis=1) / 2
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def far(count=300, *, seed=9):
    """Texts of labels that nobody taught: a cloud around a centre of its own."""
    rng = np.random.default_rng(seed)
    return (4.0 * np.eye(DIMENSION)[-1] + rng.normal(size=(count, DIMENSION))).astype(np.float32)


def test_what_resembles_no_label_scores_higher_than_what_does():
    scope = fit_scope(*drawn(60, seed=0))
    known, _, probabilities = drawn(100, seed=1)
    unknown = far()

    inside, outside = scope.score(known, probabilities), scope.score(unknown, judged(unknown))

    assert inside.shape == (600,)
    assert np.median(outside) > np.quantile(inside, 0.99)
    assert (outside > scope.threshold).mean() > 0.8


def test_a_sure_answer_far_from_all_labels_is_out_of_scope():
    """What a softmax cannot see: twice as far out in the direction of a label, it is surer still."""
    scope = fit_scope(*drawn(60, seed=0))
    beyond = (3.0 * CENTRES[:1]).astype(np.float32)
    probabilities = judged(beyond)

    assert probabilities.max() > 0.999
    assert scope.score(beyond, probabilities)[0] > scope.threshold


def test_a_torn_answer_between_two_labels_scores_higher_than_a_sure_one():
    scope = fit_scope(*drawn(60, seed=0))
    embeddings = CENTRES[:1].astype(np.float32).repeat(2, axis=0)
    torn = np.full(LABELS, 1.0 / LABELS)

    sure_score, torn_score = scope.score(embeddings, np.stack([np.eye(LABELS)[0], torn]))

    assert torn_score > sure_score + 1.0


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_of_new_texts_of_the_labels_no_more_than_the_promised_share_is_flagged(share):
    shares = []
    for seed in range(10):
        embeddings, targets, probabilities = drawn(50, seed=seed)
        scope = fit_scope(embeddings, targets, probabilities, flagged=share)
        known, _, answers = drawn(200, seed=100 + seed)
        shares.append((scope.score(known, answers) > scope.threshold).mean())
    # 300 held-out texts tell a share of 5 % from one of 7 % only on average.
    assert share / 4 < np.mean(shares) < 1.25 * share


def test_texts_that_the_encoder_was_not_trained_on_alone_set_the_threshold():
    """A fine-tuned encoder pulls its own training texts together: measured by them, everything new would be far."""
    embeddings, targets, _ = drawn(60, seed=0)
    rows = np.arange(0, len(targets), 5)
    trained = np.setdiff1d(np.arange(len(targets)), rows)
    pulled = embeddings.copy()
    pulled[trained] = CENTRES[targets[trained]] + 0.1 * (embeddings[trained] - CENTRES[targets[trained]])

    scope = fit_scope(pulled, targets, judged(pulled[rows]), rows=rows)
    known, _, probabilities = drawn(100, seed=1)

    assert (scope.score(known, probabilities) > scope.threshold).mean() < 0.15


def test_held_out_texts_take_no_part_in_the_means_that_they_are_measured_by():
    """With three texts a label each pulls its mean to itself: measured so, half of all new texts would be far."""
    shares = []
    for seed in range(20):
        embeddings, targets, _ = drawn(6, seed=seed)
        rows = np.arange(1, len(targets), 2)
        scope = fit_scope(embeddings, targets, judged(embeddings[rows]), rows=rows, flagged=0.2)
        known, _, probabilities = drawn(50, seed=500 + seed)
        shares.append((scope.score(known, probabilities) > scope.threshold).mean())
    assert np.mean(shares) < 0.25


def test_too_few_texts_to_promise_anything_flag_nothing():
    scope = fit_scope(*drawn(3, seed=0))
    assert scope.threshold == np.inf
    assert fit_scope(*drawn(4, seed=0)).threshold < np.inf, "24 texts are enough for one in twenty"


def test_the_direction_does_not_depend_on_the_scale_of_the_embeddings():
    embeddings, targets, probabilities = drawn(60, seed=0)
    unknown = far()
    plain = fit_scope(embeddings, targets, probabilities)
    scaled = fit_scope(1000.0 * embeddings, targets, probabilities)

    np.testing.assert_allclose(
        scaled.score(1000.0 * unknown, judged(unknown)), plain.score(unknown, judged(unknown)), rtol=1e-2
    )


def test_the_same_texts_give_the_same_scope_and_a_text_the_same_score_in_any_company():
    first, again = fit_scope(*drawn(20, seed=0)), fit_scope(*drawn(20, seed=0))
    assert {name: array.tobytes() for name, array in arrays_of(first).items()} == {
        name: array.tobytes() for name, array in arrays_of(again).items()
    }
    known, _, probabilities = drawn(8, seed=1)
    alone = np.concatenate([first.score(known[i : i + 1], probabilities[i : i + 1]) for i in range(len(known))])
    np.testing.assert_allclose(first.score(known, probabilities), alone, atol=1e-4)


@pytest.mark.parametrize(
    ("embeddings", "targets"),
    [
        (np.zeros((8, 4), np.float32), [0, 0, 0, 0, 1, 1, 1, 1]),
        (np.eye(4, dtype=np.float32)[[0, 1]], [0, 1]),
        (np.eye(4, dtype=np.float32)[[0, 0, 1, 2]], [0, 0, 1, 2]),
    ],
    ids=["all alike", "one text a label", "no spread within labels"],
)
def test_texts_that_say_nothing_of_a_spread_still_give_numbers(embeddings, targets):
    targets = np.array(targets)
    probabilities = np.full((len(targets), targets.max() + 1), 1.0 / (targets.max() + 1))
    scope = fit_scope(embeddings, targets, probabilities)
    assert np.isfinite(scope.score(embeddings, probabilities)).all()


def test_a_score_is_a_number_for_any_probabilities():
    scope = fit_scope(*drawn(20, seed=0))
    certain = np.eye(LABELS)[:1]
    assert np.isfinite(scope.score(np.zeros((1, DIMENSION), np.float32), certain)).all()
    assert scope.score(np.zeros((0, DIMENSION), np.float32), np.zeros((0, LABELS))).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flagged": 0.0}, "share"),
        ({"flagged": 1.0}, "share"),
        ({"rows": np.arange(60)}, "held out"),
        ({"rows": np.arange(3)}, "same texts"),
        ({"probabilities": np.full((60, 7), 1 / 7)}, "no text"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, said):
    embeddings, targets, probabilities = drawn(10, seed=0)
    with pytest.raises(ValueError, match=said):
        fit_scope(embeddings, targets, **({"probabilities": probabilities} | changes))


def test_a_scope_is_read_as_it_was_kept():
    scope = fit_scope(*drawn(20, seed=0))
    found = scope_of(arrays_of(scope), n_labels=LABELS, dimension=DIMENSION)
    known, _, probabilities = drawn(5, seed=1)
    np.testing.assert_array_equal(found.score(known, probabilities), scope.score(known, probabilities))
    assert (found.threshold, found.flagged) == (scope.threshold, module.FLAGGED)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("factor", np.zeros((DIMENSION, DIMENSION), np.float64)),
        ("factor", np.zeros((DIMENSION, 3), np.float32)),
        ("means", np.zeros((LABELS + 1, DIMENSION), np.float32)),
        ("means", np.full((LABELS, DIMENSION), np.nan, np.float32)),
        ("centre", np.zeros(3)),
        ("spread", np.zeros(2)),
        ("limits", np.array([np.nan, 0.05])),
        ("limits", np.array([1.0, 2.0])),
    ],
)
def test_arrays_of_another_model_are_refused(name, array):
    arrays = arrays_of(fit_scope(*drawn(20, seed=0))) | {name: array}
    with pytest.raises(ValueError, match=r"another form|out of range"):
        scope_of(arrays, n_labels=LABELS, dimension=DIMENSION)
