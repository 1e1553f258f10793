"""How well two models agree, and when the last ones agreed well enough to stop."""

import numpy as np
import pytest

from app.intent.stability import cohens_kappa, have_stabilised


def answers(*counts: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """From (first label, second label, times)."""
    first = [label for label, _, times in counts for _ in range(times)]
    second = [label for _, label, times in counts for _ in range(times)]
    return np.array(first), np.array(second)


def test_kappa_is_that_of_a_worked_example():
    # 20 times both yes, 15 times both no, 5 and 10 times apart: po = 0.7, pe = 0.5 (0.5 · 0.6 + 0.5 · 0.4).
    assert cohens_kappa(*answers((1, 1, 20), (1, 0, 5), (0, 1, 10), (0, 0, 15))) == pytest.approx(0.4)


def test_kappa_knows_the_ends():
    same, other = answers((3, 3, 4), (7, 7, 4))
    assert cohens_kappa(same, other) == 1.0
    assert cohens_kappa(*answers((3, 3, 5))) == 1.0, "one label alone: nothing was answered otherwise"
    assert cohens_kappa(*answers((3, 7, 5), (7, 3, 5))) == -1.0
    assert cohens_kappa(*answers((1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1))) == 0.0


def test_a_label_that_only_one_of_them_knows_counts_as_change():
    assert cohens_kappa(*answers((1, 1, 50), (2, 2, 40), (2, 9, 10))) < 0.9
    assert cohens_kappa(*answers((1, 1, 50), (2, 2, 40), (2, -1, 10))) < 0.9


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [1, 2])])
def test_kappa_of_nothing_is_refused(first, second):
    with pytest.raises(ValueError, match="answers against"):
        cohens_kappa(np.array(first, dtype=np.int64), np.array(second, dtype=np.int64))


def test_three_in_a_row_stop_and_the_newest_count():
    assert have_stabilised([0.2, 0.99, 0.995, 1.0])
    assert not have_stabilised([0.99, 0.995])
    assert not have_stabilised([1.0, 1.0, 0.989])
    assert not have_stabilised([1.0, 0.98, 1.0, 1.0])
