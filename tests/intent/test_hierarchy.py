"""Probabilities are summed up the tree of labels, and answers are judged at every depth of it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.intent.hierarchy import Hierarchy, above_in, ancestors_of, at_depth, depth_of

PATHS = {
    1: "硬件 > 屏幕 > 碎裂",
    2: "硬件 > 屏幕 > 黑屏",
    3: "硬件 > 电源",
    4: "售后 > 退货",
    5: "其他",
    9: "硬件 > 屏幕 > 花屏",
}


def test_every_node_above_a_label_has_the_sum_of_the_leaves_below_it():
    tree = Hierarchy(PATHS, (1, 2, 3, 4, 5))
    probabilities = np.array([0.35, 0.30, 0.15, 0.12, 0.08])

    assert dict(tree.above(1, (1, 2, 3, 4, 5), probabilities)) == pytest.approx({"硬件 > 屏幕": 0.65, "硬件": 0.80})
    assert tree.above(1, (1, 2, 3, 4, 5), probabilities)[0][0] == "硬件 > 屏幕", "the deepest comes first"
    assert dict(tree.above(4, (1, 2, 3, 4, 5), probabilities)) == pytest.approx({"售后": 0.12})
    assert tree.above(5, (1, 2, 3, 4, 5), probabilities) == ()


def test_a_label_that_only_rules_know_counts_where_it_hangs():
    tree = Hierarchy(PATHS, (1, 2, 4))
    fused = (1, 2, 4, 9)

    assert dict(tree.above(9, fused, np.array([0.2, 0.2, 0.1, 0.5]))) == pytest.approx(
        {"硬件 > 屏幕": 0.9, "硬件": 0.9}
    )
    assert dict(tree.above(1, fused, np.array([0.2, 0.2, 0.1, 0.5]))) == pytest.approx(
        {"硬件 > 屏幕": 0.9, "硬件": 0.9}
    )


def test_a_flat_taxonomy_has_nothing_above_its_labels():
    assert Hierarchy({1: "甲", 2: "乙"}, (1, 2)).is_flat
    assert not Hierarchy({1: "甲", 2: "乙 > 丙"}, (1, 2)).is_flat


@given(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5).filter(lambda row: sum(row) > 0.01))
def test_a_node_is_never_less_likely_than_what_is_below_it_nor_more_than_certain(row):
    probabilities = np.array(row) / sum(row)
    tree = Hierarchy(PATHS, (1, 2, 3, 4, 5))
    for column, label_id in enumerate((1, 2, 3, 4, 5)):
        climbing = [float(probabilities[column]), *(p for _, p in tree.above(label_id, (1, 2, 3, 4, 5), probabilities))]
        assert all(low <= high + 1e-12 for low, high in pairwise(climbing))
        assert climbing[-1] <= 1.0


def test_ancestors_come_the_deepest_first():
    assert ancestors_of("a > b > c") == ("a > b", "a")
    assert ancestors_of("a") == ()


def test_labels_are_one_node_where_their_upper_levels_agree():
    labels = np.array([1, 2, 3, 4, 5])
    assert len(set(at_depth(labels, PATHS, 1).tolist())) == 3
    assert len(set(at_depth(labels, PATHS, 2).tolist())) == 4
    assert len(set(at_depth(labels, PATHS, 3).tolist())) == 5
    assert at_depth(labels[:2], PATHS, 2)[0] == at_depth(labels[:2], PATHS, 2)[1]
    assert depth_of(labels, PATHS) == 3
    assert depth_of(np.array([], dtype=np.int64), PATHS) == 0


def test_no_answer_and_a_label_without_a_path_are_no_node_of_the_tree():
    first, second = at_depth(np.array([-1, 77]), PATHS, 1)
    assert first < 0 > second
    assert first != second


def test_of_a_list_of_labels_the_first_is_summed_up_the_tree():
    assert above_in([(1, 0.5), (2, 0.2), (3, 0.1), (4, 0.05), (77, 0.15)], PATHS) == (
        ("硬件 > 屏幕", pytest.approx(0.7)),
        ("硬件", pytest.approx(0.8)),
    )
    assert above_in([(5, 0.9), (1, 0.1)], PATHS) == ()
    assert above_in([(77, 0.9), (1, 0.1)], PATHS) == ()
