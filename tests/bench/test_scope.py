"""The benchmark of unknown intents counts as its definition says, ties included."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bench.scope import auroc


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_auroc_is_the_share_of_pairs_in_the_right_order(digits: int) -> None:
    rng = np.random.default_rng(digits)
    positive = rng.random(500) < 0.2
    scores = (rng.normal(size=500) + positive).round(digits)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_auroc_of_a_perfect_and_of_a_useless_score() -> None:
    positive = np.array([False, False, True])
    assert auroc(np.array([0.1, 0.2, 0.3]), positive) == 1.0
    assert auroc(np.zeros(3), positive) == 0.5
