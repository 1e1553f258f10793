from collections import Counter

import numpy as np
import pytest

from trainer.generative.lessons import carve, choose_replay, nearness

TARGETS = np.array([0] * 20 + [1] * 10 + [2] * 2, dtype=np.int64)
TEXT_IDS = list(range(101, 133))


def held(**changes: object) -> list[int]:
    options = {"share": 0.2, "most": 100, "seen": frozenset(), **changes}
    return carve(TEXT_IDS, TARGETS, **options).tolist()  # type: ignore[arg-type]


def test_every_label_gives_its_share_and_keeps_the_rest() -> None:
    assert Counter(TARGETS[held()].tolist()) == {0: 4, 1: 2, 2: 1}
    assert Counter(TARGETS[held(share=0.5)].tolist()) == {0: 10, 1: 5, 2: 1}


def test_what_was_learnt_before_is_never_held_out() -> None:
    before = set(held())
    ids = {TEXT_IDS[row] for row in before}
    after = held(seen=frozenset(ids))
    assert not before & set(after)
    assert held(seen=frozenset(TEXT_IDS)) == []


def test_a_text_that_was_held_out_stays_so_when_others_come() -> None:
    some = carve(TEXT_IDS[:20], TARGETS[:20], share=0.2, most=100, seen=frozenset()).tolist()
    ids = {TEXT_IDS[row] for row in some}
    later = carve(TEXT_IDS, TARGETS, share=0.2, most=100, seen=frozenset(set(TEXT_IDS[:20]) - ids)).tolist()
    assert ids <= {TEXT_IDS[row] for row in later}


def test_a_bound_takes_from_the_labels_evenly() -> None:
    assert Counter(TARGETS[held(share=0.5, most=5)].tolist()) == {0: 2, 1: 2, 2: 1}


def test_replay_takes_its_ratio_and_labels_in_turn() -> None:
    rows = np.arange(32)
    chosen = choose_replay(rows, TARGETS, 6, 0.5, np.random.default_rng(0))
    assert Counter(TARGETS[chosen].tolist()) == {0: 2, 1: 2, 2: 2}
    assert len(choose_replay(rows, TARGETS, 4, 0.8, np.random.default_rng(0))) == 16
    assert len(choose_replay(rows, TARGETS, 4, 0.0, np.random.default_rng(0))) == 0
    assert len(choose_replay(rows, TARGETS, 1000, 0.5, np.random.default_rng(0))) == 32


def test_without_new_texts_all_old_ones_are_replayed() -> None:
    assert len(choose_replay(np.arange(32), TARGETS, 0, 0.5, np.random.default_rng(0))) == 32


def test_replay_is_another_with_another_seed_and_the_same_with_the_same() -> None:
    first, again, other = (
        choose_replay(np.arange(32), TARGETS, 6, 0.5, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_neighbours_in_the_taxonomy_are_the_likelier_negatives() -> None:
    weights = nearness(["a > x > 1", "a > x > 2", "a > y", "b"])
    assert weights.diagonal().tolist() == [0.0] * 4
    assert weights[0, 1] > weights[0, 2] > weights[0, 3] > 0
    assert weights == pytest.approx(weights.T)
