"""The stream of questions and what is counted of the answers."""

import random
from collections import Counter
from itertools import islice

import pytest

from app.simulation.traffic import Tally, stream


def test_stream_follows_its_seed():
    first, again, other = (list(islice(stream(range(50), random.Random(seed)), 200)) for seed in (1, 1, 2))
    assert first == again != other


def test_stream_says_which_rows_come_for_the_first_time():
    seen = set()
    for row, new in islice(stream(range(30), random.Random(0)), 500):
        assert new == (row not in seen)
        seen.add(row)
    assert seen == set(range(30))


def test_stream_repeats_a_few_rows_often_and_most_rarely():
    counts = Counter(row for row, _ in islice(stream(range(10_000), random.Random(3)), 5_000))
    often = sum(count for _, count in counts.most_common(len(counts) // 10))
    assert often / 5_000 > 0.3
    assert sum(count == 1 for count in counts.values()) / len(counts) > 0.5


def test_stream_without_rows_is_refused():
    with pytest.raises(ValueError, match="nothing to ask"):
        next(stream([], random.Random(0)))


def test_tally_counts_answers_and_methods():
    tally = Tally()
    tally.count("a", "a", "local_model", fresh=True)
    tally.count("a", "b", "local_model", fresh=True)
    tally.count("a", None, "none", fresh=False)
    assert (tally.accuracy, tally.fresh_accuracy) == (pytest.approx(1 / 3), 0.5)
    assert tally.methods == {"local_model": 2, "none": 1}


def test_an_empty_tally_has_no_accuracy():
    assert (Tally().accuracy, Tally().fresh_accuracy) == (None, None)


def test_a_copy_of_a_tally_does_not_count_on():
    tally = Tally()
    copy = tally.copy()
    tally.count("a", "b", "local_model", fresh=True)
    assert copy == Tally()
