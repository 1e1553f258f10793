"""Runs hold every text once, and cost no more than they must."""

import random
from collections.abc import Sequence

import pytest

from app.scorers.padding import MOST_ROWS, MOST_TOKENS, RUN_COST, runs


def cost(lengths: Sequence[int], cut: Sequence[Sequence[int]]) -> int:
    return sum(RUN_COST + len(run) * max(1, max(lengths[position] for position in run)) for run in cut)


def drawn(count: int, longest: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(1, longest) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 31, 33, 256])
def test_every_text_is_in_one_run(count: int) -> None:
    cut = runs(drawn(count, 64))

    assert sorted(position for run in cut for position in run) == list(range(count))
    assert all(cut)


def test_texts_of_one_length_run_together() -> None:
    assert len(runs([7] * MOST_ROWS)) == 1


def test_a_long_text_does_not_pad_the_short_ones() -> None:
    assert runs([5, 64, 5, 5]) == [[0, 2, 3], [1]]


@pytest.mark.parametrize("seed", range(5))
def test_no_other_cut_of_the_sorted_texts_is_cheaper(seed: int) -> None:
    lengths = drawn(9, 30, seed)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def cuts(rest: list[int]) -> list[list[list[int]]]:
        if not rest:
            return [[]]
        return [[rest[:size], *after] for size in range(1, len(rest) + 1) for after in cuts(rest[size:])]

    assert cost(lengths, runs(lengths)) == min(cost(lengths, cut) for cut in cuts(order))


def test_padding_is_a_small_part_of_what_is_computed() -> None:
    lengths = drawn(32, 64)
    tokens = sum(lengths)

    assert cost(lengths, [range(32)]) > 1.8 * tokens
    assert cost(lengths, runs(lengths)) < 1.35 * tokens


@pytest.mark.parametrize("longest", [1, 64, 512])
def test_a_run_is_bounded_in_texts_and_tokens(longest: int) -> None:
    lengths = [longest] * 100

    for run in runs(lengths):
        assert len(run) <= MOST_ROWS
        assert len(run) * longest <= MOST_TOKENS


def test_a_text_longer_than_a_run_may_be_runs_by_itself() -> None:
    assert sorted(runs([MOST_TOKENS + 1, 1])) == [[0], [1]]


def test_texts_without_a_token_run_too() -> None:
    assert sorted(position for run in runs([0, 0, 3]) for position in run) == [0, 1, 2]
