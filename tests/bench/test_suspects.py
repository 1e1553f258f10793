"""The benchmark of suspect labels replaces what it says, and counts as its definition says."""

import numpy as np
import pytest

from bench.suspects import NOISES, most_confused, precision

TRUTH = np.arange(1000) % 4
CONFUSED = np.array([1, 0, 3, 2])


@pytest.mark.parametrize(("noise", "replaced"), [("random", 100), ("confused", 100), ("both", 200)])
def test_a_tenth_of_the_labels_is_replaced_by_each_kind(noise: str, replaced: int) -> None:
    given = NOISES[noise](TRUTH, CONFUSED, np.random.default_rng(0))

    assert (given != TRUTH).sum() == replaced
    assert set(given) == {0, 1, 2, 3}


def test_confused_labels_are_replaced_by_the_one_they_are_confused_with() -> None:
    given = NOISES["confused"](TRUTH, CONFUSED, np.random.default_rng(0))

    wrong = given != TRUTH
    assert (given[wrong] == CONFUSED[TRUTH[wrong]]).all()


def test_the_most_confused_label_is_the_most_frequent_answer_and_of_equals_the_likelier() -> None:
    probabilities = np.array([[0.4, 0.6, 0.0], [0.1, 0.7, 0.2], [0.0, 0.1, 0.9], [0.0, 0.2, 0.8]])

    assert most_confused(probabilities, np.array([0, 1, 2, 2])).tolist() == [1, 2, 1]


def test_precision_looks_at_as_many_as_are_wrong() -> None:
    wrong = np.array([True, False, True, False])

    assert precision(np.array([0.9, 0.8, 0.1, 0.0]), wrong) == 0.5
    assert precision(np.array([0.9, 0.1, 0.8, 0.0]), wrong) == 1.0
