"""The benchmark of labels judges what it replayed."""

import numpy as np
import pytest

from app.simulation.strategy_replay import Steps
from bench.labels import SETS, judge, replay_set
from bench.small_text_strategies import BREAKING_TIES
from tests.simulation.test_strategy_replay import ground

FULL = 1.0
GIVEN = SETS[0]


def runs(*labels_to_95):
    return [Steps((labels, 1_000), (0.95, 1.0)) for labels in labels_to_95]


def test_a_mix_that_saves_enough_labels_holds_and_one_that_does_not_fails():
    found = {"random": runs(900, 1_000, 1_100), "mix": runs(400, 500, 900), BREAKING_TIES: runs(500, 600, 700)}
    figures, bars = judge(GIVEN, found, FULL)
    assert figures["smp2017-ecdt.over_random"] == 0.5
    assert figures["smp2017-ecdt.over_small_text"] == round(500 / 600, 3)
    assert all(bar.holds for bar in bars.values())

    figures, bars = judge(GIVEN, {**found, "mix": runs(700, 700, 700)}, FULL)
    assert {name for name, bar in bars.items() if not bar.holds} == {
        "smp2017-ecdt.over_random",
        "smp2017-ecdt.over_small_text",
    }


def test_the_best_of_small_text_counts():
    found = {"random": runs(1_000), "mix": runs(450), BREAKING_TIES: runs(600), "contrastive": runs(400)}
    _, bars = judge(GIVEN, found, FULL)
    assert not bars["smp2017-ecdt.over_small_text"].holds


def test_a_step_below_random_fails():
    found = {"random": [Steps((1, 2), (0.2, 0.96))], "mix": [Steps((1, 2), (0.2, 0.95))], BREAKING_TIES: runs(9)}
    _, bars = judge(GIVEN, found, FULL)
    assert bars["smp2017-ecdt.worst_step"].value == pytest.approx(-1.0)
    assert not bars["smp2017-ecdt.worst_step"].holds


def test_a_mix_that_never_comes_so_far_fails():
    _, bars = judge(GIVEN, {"random": runs(900), "mix": [Steps((1, 900), (0.1, 0.5))], BREAKING_TIES: runs(9)}, FULL)
    assert not bars["smp2017-ecdt.over_random"].holds


def test_a_set_is_replayed_with_every_seed_and_the_best_other_strategy():
    def first(pool, wanted, _rng):
        return list(range(wanted))

    def doubtful(pool, wanted, _rng):
        return np.argsort(pool.probabilities.max(axis=1))[:wanted].tolist()

    found, full = replay_set(ground(), 10, (0, 1), {BREAKING_TIES: first, "least_confidence": doubtful})
    assert {"random", "mix", BREAKING_TIES} <= set(found)
    assert {len(of_name) for of_name in found.values()} == {2}
    for by_chance, mix in zip(found["random"], found["mix"], strict=True):
        assert mix.labels == by_chance.labels
        assert by_chance.accuracies[-1] >= 0.95 * full


def test_small_text_asks_for_texts_that_wait_and_breaking_ties_for_the_least_margin():
    pytest.importorskip("small_text")
    from app.intent.selection import margin
    from bench.small_text_strategies import choosers
    from tests.intent.test_selection_mix import many

    pool = many(n_texts=80)
    for name, choose in choosers().items():
        rows = choose(pool, 10, np.random.default_rng(0))
        assert len(set(rows)) == 10, name
        assert set(rows) <= set(range(80)), name
    rows = choosers()[BREAKING_TIES](pool, 10, np.random.default_rng(0))
    assert set(rows) == set(np.argsort(-margin(pool.probabilities))[:10].tolist())
