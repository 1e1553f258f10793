"""Krippendorff's α as its author computes it, and what it says where there is little to say."""

import numpy as np
import pytest

from app.intent import agreement
from app.intent.agreement import IntArray

# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011). A to C: two observers, two and more values; D:
# four observers with missing values. 0: no value.
BINARY = ([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0])
NOMINAL = ("aabbdcccedda", "babbbcccEddd".lower())
MISSING = (
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
)
FOUR_OBSERVERS = [[value or None for value in row] for row in MISSING]


def _arrays(observers: object) -> tuple[IntArray, IntArray, IntArray]:
    """Texts, labelers, labels of a table with a row for each observer; None: no answer."""
    rows = [
        (text, labeler, ord(value) if isinstance(value, str) else value)
        for labeler, values in enumerate(observers)  # type: ignore[arg-type, var-annotated]
        for text, value in enumerate(values)
        if value is not None
    ]
    texts, labelers, labels = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return texts, labelers, labels


@pytest.mark.parametrize(
    ("observers", "expected"), [(BINARY, 0.095), (NOMINAL, 0.692), (FOUR_OBSERVERS, 0.743)], ids=["A", "B", "C"]
)
def test_alpha_is_that_of_the_published_examples(observers: object, expected: float) -> None:
    texts, _, labels = _arrays(observers)
    assert agreement.alpha(texts, labels) == pytest.approx(expected, abs=0.0005)


def test_names_and_order_of_labels_and_texts_do_not_matter() -> None:
    texts, _, labels = _arrays(FOUR_OBSERVERS)
    order = np.random.default_rng(0).permutation(len(texts))
    assert agreement.alpha(1000 - texts[order], labels[order] * 7) == pytest.approx(agreement.alpha(texts, labels))


def test_those_who_always_agree_have_one_and_those_who_never_do_less_than_nothing() -> None:
    texts, _, labels = _arrays(([1, 2, 3], [1, 2, 3]))
    assert agreement.alpha(texts, labels) == 1.0
    texts, _, labels = _arrays(([1, 2, 1, 2], [2, 1, 2, 1]))
    assert (agreement.alpha(texts, labels) or 0.0) < 0.0


@pytest.mark.parametrize(
    "observers",
    [([], []), ([1, None], [None, 2]), ([1, 1], [1, 1])],
    ids=["no answer", "nothing to compare", "one label"],
)
def test_alpha_is_none_where_it_says_nothing(observers: object) -> None:
    texts, labelers, labels = _arrays(observers)
    assert agreement.alpha(texts, labels) is None
    assert agreement.interval(texts, labels, np.random.default_rng(0)) is None
    assert all(found.alpha is None for found in agreement.by_label(texts, labels).values())
    assert all(found.alpha is None for found in agreement.by_labeler(texts, labelers, labels).values())


def test_a_label_is_compared_as_this_one_or_another() -> None:
    texts, _, labels = _arrays(FOUR_OBSERVERS)
    for label in (1, 2, 3, 4, 5):
        found = agreement.by_label(texts, labels)[label]
        assert found.alpha == pytest.approx(agreement.alpha(texts, (labels == label).astype(np.int64)))
    # Nobody doubts label 5; of the ten answers with label 3 one observer's are two too many.
    assert agreement.by_label(texts, labels)[5].alpha == 1.0


def test_labelers_are_told_apart_by_the_pairs_they_are_in() -> None:
    texts, labelers, labels = _arrays(([1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2], [2, 2, 1, 1, 2, 2]))
    found = agreement.by_labeler(texts, labelers, labels)
    assert found[0].answers == 6
    assert found[0].share == pytest.approx((3 * 1.0 + 3 * 0.5) / 6)
    assert found[2].share == pytest.approx(0.5)
    assert found[0] == found[1]
    assert (found[2].alpha or 0.0) < (found[0].alpha or 0.0)


def test_with_two_labelers_each_agrees_as_both_do() -> None:
    texts, labelers, labels = _arrays(NOMINAL)
    whole = agreement.overall(texts, labels)
    for found in agreement.by_labeler(texts, labelers, labels).values():
        assert (found.share, found.alpha) == (pytest.approx(whole.share), pytest.approx(whole.alpha))


def test_the_interval_holds_alpha_and_narrows_with_more_texts() -> None:
    texts, _, labels = _arrays(NOMINAL)
    many_texts = np.concatenate([texts + 100 * number for number in range(20)])
    many_labels = np.tile(labels, 20)
    few = agreement.interval(texts, labels, np.random.default_rng(0))
    many = agreement.interval(many_texts, many_labels, np.random.default_rng(0))
    assert few is not None
    assert many is not None
    assert few[0] < many[0] < 0.70
    assert 0.69 < many[1] < few[1]
    assert few == agreement.interval(texts, labels, np.random.default_rng(0))
