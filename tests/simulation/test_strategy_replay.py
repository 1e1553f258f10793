"""Strategies replayed on texts whose labels are known."""

import numpy as np
import pytest

from app.intent.strategies import STRATEGIES
from app.simulation.strategy_replay import Ground, chooser, full_accuracy, replay


def ground(n_pool=120, n_labels=4, seed=0) -> Ground:
    """Labels are directions with noise about them; the classifier answers with the nearest labelled centroid."""
    rng = np.random.default_rng(seed)
    targets, truth = rng.integers(n_labels, size=n_pool), rng.integers(n_labels, size=60)
    vectors = np.eye(n_labels)[np.concatenate([targets, truth])] + rng.normal(scale=0.35, size=(n_pool + 60, n_labels))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def fit(rows, columns):
        centres = np.stack([vectors[rows[columns == column]].mean(axis=0) for column in range(columns.max() + 1)])
        odds = np.exp(8.0 * vectors @ centres.T)
        answers = odds / odds.sum(axis=1, keepdims=True)
        return answers[:n_pool], answers[n_pool:]

    return Ground(vectors[:n_pool], targets, truth, fit)


@pytest.mark.parametrize("name", ["mix", *STRATEGIES])
def test_every_strategy_labels_batch_by_batch_until_all_are_labelled_and_ends_where_all_end(name):
    given = ground()
    steps = replay(given, chooser(name), seed=0, batch=50)
    assert steps.labels == (50, 100, 120)
    assert steps.accuracies[-1] == full_accuracy(given)


def test_a_run_is_decided_by_its_seed():
    first, again, other = (replay(ground(), chooser("random"), seed=seed, batch=10, most=60) for seed in (1, 1, 2))
    assert first == again != other


def test_strategies_that_begin_at_random_begin_alike():
    begun = [
        replay(ground(), chooser(name), seed=3, batch=10, most=10, first_by=chooser("random"))
        for name in ("margin", "random", "mix")
    ]
    assert begun[0] == begun[1] == begun[2]


def test_a_run_ends_at_what_is_enough_and_at_the_most():
    steps = replay(ground(), chooser("random"), seed=0, batch=10, enough=0.5)
    assert steps.accuracies[-1] >= 0.5 > max(steps.accuracies[:-1], default=0.0)
    assert replay(ground(), chooser("random"), seed=0, batch=10, most=25).labels == (10, 20, 25)


def test_a_strategy_sees_the_labels_that_were_given_and_no_others():
    given, seen = ground(), []

    def watch(pool, wanted, rng):
        seen.append(pool)
        return list(range(wanted))

    replay(given, watch, seed=0, batch=40)
    assert [pool.size for pool in seen] == [120, 80, 40]
    assert [len(pool.known) for pool in seen] == [0, 40, 80]
    assert seen[0].n_labels == 0
    assert seen[1].known_labels.tolist() == given.targets[:40].tolist()
    assert seen[1].probabilities.shape == (80, 4)


def test_one_label_alone_is_no_model_yet_and_is_answered_for_all():
    given = ground()
    given = Ground(given.embeddings, np.zeros(120, dtype=np.int64), given.test_targets, given.fit)
    steps = replay(given, chooser("mix"), seed=0, batch=60)
    assert steps.accuracies == (float((given.test_targets == 0).mean()),) * 2


def test_a_chooser_that_names_a_text_twice_is_refused():
    with pytest.raises(ValueError, match="1 distinct texts were chosen, where 5 were wanted"):
        replay(ground(), lambda *_: [0] * 5, seed=0, batch=5)


def test_a_strategy_that_is_none_is_refused():
    with pytest.raises(ValueError, match="there is no strategy 'luck'; there are mix, least_confidence"):
        chooser("luck")
