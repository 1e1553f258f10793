import numpy as np
import pytest

from trainer.tuning.replay import choose_replay, even_quotas, hold_out, replay_count, stratified, weighted


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


TARGETS = np.repeat([0, 1, 2], [80, 15, 5])


def test_every_label_gives_the_same_number_as_far_as_it_has_texts() -> None:
    assert even_quotas(TARGETS, 15, rng()) == {0: 5, 1: 5, 2: 5}
    assert even_quotas(TARGETS, 40, rng()) == {0: 20, 1: 15, 2: 5}
    assert even_quotas(TARGETS, 1000, rng()) == {0: 80, 1: 15, 2: 5}
    assert sum(even_quotas(TARGETS, 2, rng()).values()) == 2
    assert even_quotas(np.empty(0, dtype=np.int64), 5, rng()) == {}


@pytest.mark.parametrize("wanted", [0, 1, 7, 100, 500])
def test_rows_are_drawn_once_each_and_ascend(wanted: int) -> None:
    rows = stratified(TARGETS, wanted, rng())

    assert len(rows) == min(wanted, 100)
    assert (np.diff(rows) > 0).all()


def test_the_same_generator_state_gives_the_same_rows() -> None:
    assert stratified(TARGETS, 20, rng(3)).tolist() == stratified(TARGETS, 20, rng(3)).tolist()
    assert stratified(TARGETS, 20, rng(3)).tolist() != stratified(TARGETS, 20, rng(4)).tolist()


def test_a_heavy_row_is_drawn_more_often_in_proportion_to_its_weight() -> None:
    weights = np.array([3.0, 1.0, 1.0, 1.0])
    drawn = [weighted(np.zeros(4, dtype=np.int64), weights, 1, rng(seed))[0] for seed in range(2000)]

    assert 0.45 < np.mean(np.array(drawn) == 0) < 0.55


def test_what_is_being_forgotten_or_is_hard_is_preferred_and_nothing_is_certain() -> None:
    targets = np.zeros(100, dtype=np.int64)
    losses = np.linspace(0.0, 5.0, 100)
    forgotten = np.arange(100) < 10
    drawn = np.concatenate([choose_replay(targets, losses, forgotten, 20, rng(seed)) for seed in range(300)])
    share = np.bincount(drawn, minlength=100) / 300

    assert share[:10].mean() > 1.5 * share[10:20].mean(), "right before and wrong now"
    assert share[80:].mean() > 1.5 * share[10:30].mean(), "high loss"
    assert share.max() < 1.0
    assert share.min() > 0.0


def test_replay_is_stratified_whatever_is_hard() -> None:
    losses = np.where(TARGETS == 0, 9.0, 0.1)

    rows = choose_replay(TARGETS, losses, np.zeros(100, dtype=bool), 15, rng())

    assert np.bincount(TARGETS[rows]).tolist() == [5, 5, 5]


def test_nothing_old_means_nothing_replayed() -> None:
    nothing = np.empty(0, dtype=np.int64)

    assert len(choose_replay(nothing, np.empty(0), np.empty(0, dtype=bool), 10, rng())) == 0


def test_the_ratio_counts_replayed_among_all() -> None:
    assert replay_count(100, 0.5) == 100
    assert replay_count(100, 0.0) == 0
    assert replay_count(30, 0.25) == 10


def test_held_out_texts_are_a_share_of_each_label_and_leave_two_of_it() -> None:
    targets = np.repeat(np.arange(20), 10)
    held = hold_out(targets, 0.15, 1000, rng())

    assert 20 <= len(held) <= 40
    assert (np.diff(held) > 0).all()
    assert np.bincount(targets[held], minlength=20).max() <= 2
    assert len(hold_out(np.array([0, 0, 1, 1]), 0.5, 1000, rng())) == 0
    assert len(hold_out(targets, 0.15, 7, rng())) <= 7
    assert len(hold_out(targets, 0.0, 7, rng())) == 0
