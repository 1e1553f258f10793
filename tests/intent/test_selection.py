"""Uncertain texts come first, and gold stays a uniform sample that nobody can tell from the rest."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intent.selection import (
    UNCERTAINTIES,
    frequency_weighted,
    gold_draw,
    gold_share,
    interleave,
    is_gold_candidate,
    margin,
    margin_from_topk,
    random_priority,
)

HASHES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)]


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_a_strategy_rises_from_certainty_to_doubt_within_zero_and_one(name):
    scores = UNCERTAINTIES[name](
        np.array([[1.0, 0.0, 0.0], [0.8, 0.15, 0.05], [0.4, 0.35, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    )
    assert scores.shape == (4,)
    assert scores[0] == 0.0
    assert scores[3] == pytest.approx(1.0)
    assert (np.diff(scores) > 0.0).all()


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_a_strategy_scores_one_label_zero_and_an_empty_pool_not_at_all(name):
    assert UNCERTAINTIES[name](np.ones((3, 1))).tolist() == [0.0, 0.0, 0.0]
    assert UNCERTAINTIES[name](np.zeros((0, 5))).shape == (0,)
    assert UNCERTAINTIES[name](np.zeros((0, 1))).shape == (0,)


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_a_strategy_gives_equal_rows_and_reordered_labels_equal_scores(name):
    scores = UNCERTAINTIES[name](np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.1, 0.6, 0.3]]))
    assert scores == pytest.approx(np.full(3, scores[0]))


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6).filter(lambda row: sum(row) > 0.01))
def test_strategies_stay_within_zero_and_one(row):
    probabilities = np.array([row]) / sum(row)
    for strategy in UNCERTAINTIES.values():
        assert 0.0 <= strategy(probabilities)[0] <= 1.0


def test_margin_from_topk_is_the_margin_of_the_whole_row():
    assert margin_from_topk([["a", 0.5], ["b", 0.3], ["c", 0.1]]) == pytest.approx(
        margin(np.array([[0.5, 0.3, 0.1, 0.1]]))[0]
    )


@pytest.mark.parametrize(
    ("topk", "score"),
    [
        ([], 1.0),
        ([["a", None]], 1.0),
        ([["a", 1.0]], 0.0),
        ([["a", 0.9]], 0.2),
        ([["a", 0.5]], 1.0),
        ([["a", 0.3]], 1.0),  # the second can have no more than the best
        ([["a", 0.7], ["b", None]], 0.6),
        (((1, 0.6), (2, 0.4)), 0.8),
        ([["a", 1.2], ["b", -0.1]], 0.0),
    ],
)
def test_margin_from_topk_supposes_the_most_doubt_that_is_possible(topk, score):
    assert margin_from_topk(topk) == pytest.approx(score)


@settings(deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(1, 10**9), st.integers(1, 10**9))
def test_frequency_weighting_is_monotone_in_score_and_count(score, other, count, more):
    low, high = sorted([score, other])
    few, many = sorted([count, more])
    assert 0.0 <= frequency_weighted(low, few) <= frequency_weighted(high, few) <= frequency_weighted(high, many) <= 1.0


def test_frequency_weighting_keeps_what_is_asked_once_and_what_is_certain():
    assert frequency_weighted(0.37, 1) == 0.37
    assert frequency_weighted(0.37, 0) == 0.37
    assert frequency_weighted(0.0, 1_000) == 0.0
    assert frequency_weighted(1.0, 1_000) == 1.0
    assert frequency_weighted(0.25, 3) == pytest.approx(0.25 ** (1 / (1 + np.log(3))))


def test_random_priority_is_the_same_in_every_process_and_uniform_for_texts_asked_once():
    drawn = random_priority(HASHES, [1] * len(HASHES))
    assert drawn.tolist() == random_priority(HASHES, [1] * len(HASHES)).tolist()
    assert drawn.min() > 0.0
    assert drawn.max() < 1.0
    counts, _ = np.histogram(drawn, bins=20, range=(0.0, 1.0))
    assert counts.min() > 880  # 1,000 expected, standard deviation 31
    assert counts.max() < 1_120


def test_random_priority_draws_in_proportion_to_log_frequency():
    # Of a pair, the one with weight 3 must come first in three of four.
    often = int(np.round(np.exp(2)))
    drawn = random_priority(HASHES, [1, often] * (len(HASHES) // 2)).reshape(-1, 2)
    weight = 1 + np.log(often)
    assert (drawn[:, 1] > drawn[:, 0]).mean() == pytest.approx(weight / (1 + weight), abs=0.015)
    assert random_priority([], []).shape == (0,)


def test_a_tenth_of_all_texts_are_gold_candidates_for_ever():
    chosen = np.array([is_gold_candidate(text_hash) for text_hash in HASHES])
    assert chosen.mean() == pytest.approx(0.10, abs=0.007)
    assert chosen.tolist() == [is_gold_candidate(text_hash) for text_hash in HASHES]
    # Stored gold must stay gold: this may only change together with a migration of what is stored.
    assert [number for number in range(40) if is_gold_candidate(HASHES[number])] == [3, 5, 6, 18, 34]


def test_gold_candidates_grow_with_the_share_and_keep_those_of_a_smaller_one():
    small = {text_hash for text_hash in HASHES if is_gold_candidate(text_hash, 0.05)}
    large = {text_hash for text_hash in HASHES if is_gold_candidate(text_hash, 0.20)}
    assert small < large
    assert not any(is_gold_candidate(text_hash, 0.0) for text_hash in HASHES)
    assert all(is_gold_candidate(text_hash, 1.0) for text_hash in HASHES)


def test_being_gold_says_nothing_about_the_random_priority():
    chosen = np.array([is_gold_candidate(text_hash) for text_hash in HASHES])
    drawn = random_priority(HASHES, [1] * len(HASHES))
    assert drawn[chosen].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("labelled", "share"), [(0, 0.15), (199, 0.15), (200, 0.10), (1_999, 0.10), (2_000, 0.02), (10**6, 0.02)]
)
def test_the_share_of_gold_shrinks_as_gold_is_labelled(labelled, share):
    assert gold_share(labelled) == share


def test_gold_is_drawn_uniformly_without_replacement():
    rng = np.random.default_rng(0)
    times = dict.fromkeys(range(100, 110), 0)
    for _ in range(3_000):
        chosen, probability = gold_draw(list(times), 3, rng)
        assert probability == 0.3
        assert len(set(chosen)) == 3
        for candidate in chosen:
            times[candidate] += 1
    assert min(times.values()) > 800  # 900 expected, standard deviation 25
    assert max(times.values()) < 1_000


@pytest.mark.parametrize(
    ("candidates", "quota", "size", "probability"),
    [([], 5, 0, 0.0), ([1, 2], 0, 0, 0.0), ([1, 2], -3, 0, 0.0), ([1, 2], 2, 2, 1.0), ([1, 2], 9, 2, 1.0)],
)
def test_gold_draw_takes_no_more_than_there_is(candidates, quota, size, probability):
    chosen, drawn_with = gold_draw(candidates, quota, np.random.default_rng(0))
    assert (len(chosen), drawn_with) == (size, probability)
    assert set(chosen) <= set(candidates)


def test_gold_takes_the_priority_of_any_place_alike_and_is_spread_evenly():
    rng = np.random.default_rng(0)
    priorities = [1.0 - place / 100 for place in range(100)]
    taken = np.zeros(100, dtype=int)
    for _ in range(2_000):
        places = sorted(priorities.index(priority) for priority in interleave(priorities, 5, rng))
        assert [place // 20 for place in places] == [0, 1, 2, 3, 4]
        taken[places] += 1
    assert taken.min() > 60  # 100 expected, standard deviation 10
    assert taken.max() < 140


def test_the_first_gold_text_of_a_draw_has_no_better_place_than_the_last():
    rng = np.random.default_rng(0)
    priorities = [1.0 - place / 10 for place in range(10)]
    drawn = np.array([interleave(priorities, 4, rng) for _ in range(3_000)])
    assert drawn.mean(axis=0) == pytest.approx(np.full(4, np.mean(priorities)), abs=0.03)


def test_gold_has_a_place_in_an_empty_queue_and_in_a_shorter_one_than_itself():
    rng = np.random.default_rng(0)
    assert interleave([0.5], 3, rng) == [0.5, 0.5, 0.5]
    assert interleave([0.5, 0.4], 0, rng) == []
    assert interleave([], 0, rng) == []
    alone = interleave([], 100, rng)
    assert len(set(alone)) == 100
    assert all(0.0 <= place < 1.0 for place in alone)
