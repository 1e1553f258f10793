"""The figures of a simulation."""

import random

import pytest
from sklearn.metrics import accuracy_score, f1_score

from app.simulation.curve import Curve, Point, Scores, scores, summary


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed):
    rng = random.Random(seed)
    truth = [rng.choice("abcd") for _ in range(200)]
    answers = [rng.choice("abcd") if rng.random() < 0.4 else label for label in truth]
    found = scores(truth, answers)
    assert found.accuracy == pytest.approx(accuracy_score(truth, answers))
    assert found.macro_f1 == pytest.approx(f1_score(truth, answers, average="macro"))


def test_no_answer_is_wrong_and_no_label():
    assert scores(["a", "a", "b", "b"], ["a", None, "b", "b"]) == Scores(0.75, pytest.approx((2 / 3 + 1) / 2))
    assert scores(["a"], [None]) == Scores(0.0, 0.0)


def test_a_label_that_is_never_true_costs_the_label_it_was_given_for_and_is_none_itself():
    assert scores(["a", "a", "b"], ["a", "other", "b"]) == Scores(pytest.approx(2 / 3), pytest.approx((2 / 3 + 1) / 2))


@pytest.mark.parametrize(("truth", "answers"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_scores_refuse_lists_that_do_not_fit(truth, answers):
    with pytest.raises(ValueError, match="true labels against"):
        scores(truth, answers)


def test_summary_has_the_members_of_the_design_and_the_last_measurement():
    curve = Curve([Point(100, Scores(0.5, 0.4), "v1"), Point(200, Scores(0.75555, 0.7), "v2")])
    assert summary(curve, labels=220, versions=3, failed_requests=1) == {
        "accuracy": 0.7556,
        "macro_f1": 0.7,
        "labels": 220,
        "versions": 3,
        "failed_requests": 1,
        "curve": [[100, 0.5], [200, 0.7556]],
    }
    assert summary(Curve(), labels=0, versions=0, failed_requests=0)["accuracy"] == 0.0
