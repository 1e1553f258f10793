"""A selection is a mix: each strategy its share, no text twice, and what was drawn at random says how likely it was."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intent.clusters import unit_rows
from app.intent.selection_mix import DEFAULT_MIX, STRATEGIES, Pool, check_mix, choose
from tests.intent.pools import pool_of


def many(n_texts=200, n_labels=5, n_known=40, seed=0) -> Pool:
    rng = np.random.default_rng(seed)
    return Pool(
        rng.dirichlet(np.ones(n_labels), n_texts) if n_labels else np.zeros((n_texts, 0)),
        unit_rows(rng.normal(size=(n_texts, 8))),
        np.ones(n_texts, dtype=np.int64),
        unit_rows(rng.normal(size=(n_known, 8))),
        rng.integers(0, n_labels, n_known) if n_labels else np.full(n_known, -1),
    )


def test_the_default_mix_is_one():
    check_mix(DEFAULT_MIX)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"luck": 1.0}, "there is no strategy 'luck'; there are least_confidence, margin"),
        ({"margin": 1.5}, "the share of margin must lie between 0 and 1"),
        ({"margin": -0.5, "far": 1.5}, "the share of margin must lie between 0 and 1"),
        ({"margin": float("nan")}, "the share of margin"),
        ({"margin": True}, "the share of margin"),
        ({"margin": "1"}, "the share of margin"),
        ({"margin": 0.5, "far": 0.4}, "the shares of a mix sum to 1, not to 0.9"),
        ({}, "sum to 1, not to 0"),
    ],
)
def test_a_mix_that_is_none_is_refused_in_words(mix, message):
    with pytest.raises(ValueError, match=message):
        check_mix(mix)
    with pytest.raises(ValueError, match=message):
        choose(many(), mix, 10, np.random.default_rng(0))


def test_shares_are_kept_from_the_first_text_on():
    mix = {"margin": 0.6, "far": 0.2, "random": 0.2}
    chosen = choose(many(), mix, 50, np.random.default_rng(0))
    assert Counter(choice.strategy for choice in chosen) == {"margin": 30, "far": 10, "random": 10}
    assert Counter(choice.strategy for choice in chosen[:10]) == {"margin": 6, "far": 2, "random": 2}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(sorted(STRATEGIES)), min_size=1, max_size=4, unique=True),
    st.integers(0, 60),
    st.integers(0, 50),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
def test_so_many_are_chosen_as_are_wanted_or_wait_and_none_twice(names, n_texts, size, n_labels, seed):
    pool = many(n_texts, n_labels, n_known=seed % 7, seed=seed)
    mix = dict.fromkeys(names, 1.0 / len(names))
    chosen = choose(pool, mix, size, np.random.default_rng(seed))
    rows = [choice.row for choice in chosen]
    assert len(rows) == len(set(rows)) == min(size, n_texts)
    assert all(0 <= row < n_texts for row in rows)
    for choice in chosen:
        assert choice.strategy in STRATEGIES
        assert 0.0 <= choice.score <= 1.0
        assert (choice.probability is not None) == (choice.strategy == "random")
    again = choose(pool, mix, size, np.random.default_rng(seed))
    assert [(choice.row, choice.strategy) for choice in again] == [(choice.row, choice.strategy) for choice in chosen]


def test_a_strategy_with_nothing_to_ask_leaves_its_share_to_the_others():
    chosen = choose(many(), {"margin": 0.5, "confusion": 0.5}, 20, np.random.default_rng(0))
    assert {choice.strategy for choice in chosen} == {"margin"}


def test_what_no_strategy_asks_for_is_drawn_at_random_and_says_so():
    pool = pool_of(probabilities=[[0.5, 0.5], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    chosen = choose(pool, {"margin": 1.0}, 3, np.random.default_rng(0))
    assert [choice.strategy for choice in chosen] == ["margin", "random", "random"]
    assert [choice.probability for choice in chosen] == [None, 0.5, 0.5]


def test_the_random_share_is_a_uniform_draw_of_the_whole_pool_whatever_the_others_ask():
    pool, drawn = many(n_texts=20), Counter()
    for seed in range(600):
        chosen = choose(pool, {"margin": 0.5, "random": 0.5}, 10, np.random.default_rng(seed))
        of_chance = [choice for choice in chosen if choice.strategy == "random"]
        assert [choice.probability for choice in of_chance] == [5 / 20] * 5
        drawn.update(choice.row for choice in of_chance)
    assert min(drawn[row] for row in range(20)) > 100
    assert max(drawn[row] for row in range(20)) < 200


@pytest.mark.parametrize("n_labels", [0, 1])
def test_without_a_model_typical_texts_stand_in_for_what_needs_one(n_labels):
    chosen = choose(
        many(n_labels=n_labels), {"cluster_margin": 0.6, "far": 0.2, "random": 0.2}, 20, np.random.default_rng(0)
    )
    assert Counter(choice.strategy for choice in chosen) == {"typical": 16, "random": 4}
