from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from app.intent.arrays import IntArray
from trainer.tuning.interpolation import choose_mixture, mixed

TRUTH = np.array([0, 0, 1, 1, 2, 2])
BEFORE = np.array([0, 0, 1, 1, 0, 0])
EVERYWHERE = np.ones(6, dtype=bool)


def said(answers: Mapping[float, list[int]]) -> Callable[[float], IntArray]:
    def answer(share: float) -> IntArray:
        return np.array(answers[share])

    return answer


def test_weights_are_mixed_one_by_one() -> None:
    before, after = {"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([1.0, 4.0])}

    assert mixed(before, after, 0.25)["a"].tolist() == [0.25, 2.5]
    assert mixed(before, after, 1.0)["a"] is after["a"]


def test_a_mixture_that_takes_back_flips_at_no_loss_is_taken() -> None:
    answers = {1.0: [1, 0, 1, 1, 2, 2], 0.75: [0, 0, 1, 1, 2, 2], 0.5: [0, 0, 1, 1, 0, 0]}

    found = choose_mixture(said(answers), BEFORE, TRUTH, EVERYWHERE)

    assert (found.share, found.negative_flips, found.negative_flips_before) == (0.75, 0, 1)
    assert found.macro_f1 >= found.macro_f1_before


def test_a_mixture_that_loses_macro_f1_is_not_taken() -> None:
    answers = {1.0: [1, 0, 1, 1, 2, 2], 0.75: [0, 0, 1, 1, 0, 0], 0.5: [0, 0, 1, 1, 0, 0]}

    assert choose_mixture(said(answers), BEFORE, TRUTH, EVERYWHERE).share == 1.0


def test_without_a_flip_nothing_is_mixed() -> None:
    asked = []

    def answer(share: float) -> IntArray:
        asked.append(share)
        return TRUTH

    assert choose_mixture(answer, BEFORE, TRUTH, EVERYWHERE).share == 1.0
    assert asked == [1.0]


def test_macro_f1_is_judged_on_the_texts_that_were_held_out() -> None:
    held = np.array([False, False, False, False, True, True])
    answers = {1.0: [1, 0, 1, 1, 2, 2], 0.75: [0, 0, 1, 1, 2, 0], 0.5: [0, 0, 0, 0, 2, 2]}

    assert choose_mixture(said(answers), BEFORE, TRUTH, held).share == 1.0


@pytest.mark.parametrize("seed", range(50))
def test_negative_flips_never_rise_and_macro_f1_never_falls_against_the_new_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, before = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    answers = {share: rng.integers(0, 3, 30).tolist() for share in (1.0, 0.75, 0.5)}

    found = choose_mixture(said(answers), before, truth, rng.random(30) < 0.5)

    assert found.negative_flips <= found.negative_flips_before
    assert found.macro_f1 >= found.macro_f1_before
    assert found.negative_flips == int(((before == truth) & (np.array(answers[found.share]) != truth)).sum())
