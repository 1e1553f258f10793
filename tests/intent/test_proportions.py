"""Wilson's interval: the textbook's, inside [0, 1], and all of it when nothing is known."""

import pytest

from app.intent.proportions import clopper_pearson_upper, wilson


@pytest.mark.parametrize(
    ("right", "counted", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_one_of_newcombe_1998(right: int, counted: int, low: float, high: float) -> None:
    assert wilson(right, counted) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0


@pytest.mark.parametrize(("wrong", "counted"), [(0, 149), (1, 236), (3, 500), (40, 41), (7, 20)])
def test_the_upper_bound_is_the_share_at_which_so_few_are_just_unlikely(wrong, counted):
    from scipy.stats import binom

    bound = clopper_pearson_upper(wrong, counted)
    assert binom.cdf(wrong, counted, bound) == pytest.approx(0.05)
    assert clopper_pearson_upper(wrong, counted, 0.99) > bound > wrong / counted


def test_nothing_counted_and_nothing_right_may_be_all_wrong():
    assert clopper_pearson_upper(0, 0) == 1.0
    assert clopper_pearson_upper(5, 5) == 1.0
