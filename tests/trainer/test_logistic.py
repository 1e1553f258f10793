import numpy as np
import pytest
from scipy.sparse import csr_matrix, random_array
from sklearn.linear_model import LogisticRegression

from trainer.logistic import class_weights, fit_logistic, fit_temperature, log_loss, softmax


def problem(n_labels: int = 4, n_texts: int = 200) -> tuple[csr_matrix, np.ndarray]:
    """Sparse rows of which some features speak for a label, uneven labels."""
    rng = np.random.default_rng(0)
    features = random_array((n_texts, 50), density=0.2, rng=rng, dtype=np.float64).toarray()
    truth = rng.normal(size=(50, n_labels))
    targets = (features @ truth + rng.normal(size=(n_texts, n_labels)) * 0.3).argmax(axis=1)
    targets[:n_labels] = np.arange(n_labels)
    return csr_matrix(features, dtype=np.float32), targets.astype(np.int64)


@pytest.mark.parametrize("n_labels", [2, 4])
@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("strength", [0.5, 20.0])
def test_fit_finds_the_minimum_that_scikit_learn_finds(n_labels: int, power: float, strength: float) -> None:
    features, targets = problem(n_labels)
    weights = class_weights(targets, n_labels, power)

    ours = fit_logistic(features, targets, weights, n_labels, strength=strength, tolerance=1e-6, max_steps=2000)

    # For two labels scikit-learn keeps their difference d and penalises d², where ours are d/2 and -d/2: d²/2.
    theirs = LogisticRegression(C=strength * 2 if n_labels == 2 else strength, tol=1e-10, max_iter=5000)
    theirs.fit(features.astype(np.float64), targets, sample_weight=weights)
    np.testing.assert_allclose(
        softmax(ours.logits(features)), theirs.predict_proba(features.astype(np.float64)), atol=2e-3
    )


def test_a_start_changes_the_way_but_not_the_end() -> None:
    features, targets = problem()
    weights = class_weights(targets, 4, 1.0)
    near = fit_logistic(features, targets, weights, 4, strength=5.0, tolerance=1e-6, max_steps=2000)

    cold = fit_logistic(features, targets, weights, 4, strength=20.0, tolerance=1e-6, max_steps=2000)
    warm = fit_logistic(features, targets, weights, 4, strength=20.0, tolerance=1e-6, max_steps=2000, start=near)

    np.testing.assert_allclose(softmax(warm.logits(features)), softmax(cold.logits(features)), atol=2e-3)


def test_less_regularisation_fits_the_training_texts_better() -> None:
    features, targets = problem()
    weights = class_weights(targets, 4, 0.0)

    losses = [
        log_loss(fit_logistic(features, targets, weights, 4, strength=strength).logits(features), targets, 1.0)
        for strength in (0.1, 1.0, 10.0, 100.0)
    ]

    assert losses == sorted(losses, reverse=True)


def test_a_balance_of_one_gives_every_label_the_same_say() -> None:
    targets = np.array([0, 0, 0, 1, 2, 2], dtype=np.int64)
    weights = class_weights(targets, 3, 1.0)

    np.testing.assert_allclose([weights[targets == label].sum() for label in range(3)], 2.0)
    np.testing.assert_allclose(class_weights(targets, 3, 0.0), 1.0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered_from_answers_drawn_with_it(temperature: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 5)) * 3
    drawn = (softmax(logits, temperature).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)

    assert fit_temperature(logits, drawn.astype(np.int64)) == pytest.approx(temperature, rel=0.05)


def test_temperature_stays_moderate_when_a_few_texts_were_all_right() -> None:
    logits = np.eye(4)
    assert 0.15 < fit_temperature(logits, np.arange(4)) < 1.0


def test_temperature_stays_within_its_bounds_when_every_text_was_wrong() -> None:
    logits = np.eye(2)[np.tile([0, 1], 500)] * 50.0
    assert fit_temperature(logits, np.tile([1, 0], 500).astype(np.int64)) == pytest.approx(20.0, rel=0.01)


def test_softmax_of_huge_logits_is_finite() -> None:
    np.testing.assert_array_equal(softmax(np.array([[1e5, 0.0], [-1e5, -1e5]])), [[1.0, 0.0], [0.5, 0.5]])
