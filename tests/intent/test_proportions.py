"""Wilson's interval: the textbook's, inside [0, 1], and all of it when nothing is known."""

import pytest

from app.intent.proportions import wilson


@pytest.mark.parametrize(
    ("right", "counted", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_one_of_newcombe_1998(right: int, counted: int, low: float, high: float) -> None:
    assert wilson(right, counted) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0
