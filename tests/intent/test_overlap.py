"""Which texts several people answer, and what their answers come to."""

import pytest

from app.intent.overlap import answers_wanted, majority
from app.intent.text import MaskedText, text_hash

HASHES = [text_hash(MaskedText(f"第{number}句")) for number in range(2_000)]


def test_the_hash_picks_the_share_that_is_wanted() -> None:
    picked = [key for key in HASHES if answers_wanted(key, 3, 0.25) == 3]
    assert 400 < len(picked) < 600
    assert {answers_wanted(key, 3, 0.25) for key in HASHES} == {1, 3}


def test_who_is_picked_at_a_share_is_picked_at_a_greater_one() -> None:
    few = {key for key in HASHES if answers_wanted(key, 2, 0.1) == 2}
    assert few < {key for key in HASHES if answers_wanted(key, 5, 0.4) == 5}


def test_the_ends_are_all_and_none() -> None:
    assert {answers_wanted(key, 3, 1.0) for key in HASHES} == {3}
    assert {answers_wanted(key, 3, 0.0) for key in HASHES} == {1}
    assert {answers_wanted(key, 1, 1.0) for key in HASHES} == {1}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("", None),
        ("a", "a"),
        ("ab", None),
        ("aab", "a"),
        ("aabb", None),
        ("abc", None),
        ("abaca", "a"),
        ("aabbc", None),
    ],
)
def test_a_majority_is_more_than_half(answers: str, expected: str | None) -> None:
    assert majority(list(answers)) == expected
