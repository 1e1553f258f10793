"""Whoever is asked reads why, in one sentence that repeats nothing of what was asked."""

from typing import Any

import numpy as np
import pytest

from app.intent.selection_mix import STRATEGIES, Chosen, Pool
from app.intent.selection_reasons import LONGEST, reason

LABELS = ("售后 > 退款", "售后 > 换货", "物流")


@pytest.mark.parametrize(
    ("strategy", "facts", "told"),
    [
        ("margin", {"labels": [0, 1], "probabilities": [0.41, 0.38]}, "unsure between 退款 0.41 and 换货 0.38"),
        ("confusion", {"labels": [1, 0], "probabilities": [0.5, 0.3]},
         "between 换货 0.50 and 退款 0.30, which are often confused"),
        ("typical", {"cluster": 2, "cluster_size": 14}, "typical of 14 questions that are alike"),
        ("typical", {"cluster": 2, "cluster_size": 1}, "unlike the other questions"),
        ("rare", {"label": 0, "label_count": 3}, "may be 退款, which has only 3 examples"),
        ("rare", {"label": 0, "label_count": 1}, "may be 退款, which has only 1 example"),
        ("rare", {"label": 0, "label_count": 0}, "may be 退款, which has no example"),
        ("suspect", {"label": 0, "probability": 0.93, "neighbour_labels": [2, 0, 2, 1], "disagreeing": False},
         "its nearest labelled questions say 物流, the model 退款 (0.93)"),
        ("suspect", {"label": 0, "probability": 0.93, "neighbour_labels": [-1], "disagreeing": False},
         "its nearest labelled questions say a label that the model does not have, the model 退款 (0.93)"),
        ("suspect", {"label": 0, "probability": 0.93, "neighbour_labels": [0], "disagreeing": True},
         "the rules say something else than the model 退款 (0.93)"),
        ("far", {"cosine": 0.21, "nearest_label": 2},
         "far from every labelled question: the nearest is 物流, 0.21 alike"),
        ("far", {"cosine": 0.21, "nearest_label": -1}, "far from every labelled question"),
        ("far", {"cosine": None, "nearest_label": None}, "far from every labelled question: there is none yet"),
        ("random", {}, "drawn at random from the questions that wait"),
    ],
)  # fmt: skip
def test_a_reason_says_what_the_strategy_saw(strategy: str, facts: dict[str, Any], told: str) -> None:
    chosen = Chosen(0, strategy, 0.5, None, facts)
    assert reason(chosen, LABELS, 1) == told
    assert reason(chosen, LABELS, 12) == f"{told}; asked 12 times"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_a_reason_for_each_text_that_it_may_choose(strategy: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    odds = rng.random((12, 3))
    pool = Pool(odds / odds.sum(axis=1, keepdims=True), vectors[:12], np.ones(12, dtype=np.int64), vectors[12:],
                np.array([0, 1, 2, -1, 0, 1, 0, 0]), [(0, 1)], np.arange(12) % 2 == 0)  # fmt: skip
    facts = STRATEGIES[strategy](pool, 5, rng).facts
    labels = [f"{'层' * 80} > {'很长的标签' * 40}{number}" for number in range(3)]
    for row in range(12):
        assert 10 < len(reason(Chosen(row, strategy, 0.5, None, facts(row)), labels, 1000)) <= LONGEST
