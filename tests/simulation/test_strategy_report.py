"""What a replay of strategies says."""

import numpy as np
import pytest
from scipy import stats

from app.simulation.strategy_replay import Steps
from app.simulation.strategy_report import labels_to, lines, mean_curve, median_labels, report, worst_step

RANDOM = [Steps((100, 200, 300), (0.5, 0.7, 0.9)), Steps((100, 200, 300), (0.4, 0.8, 0.9))]
MIX = [Steps((100, 200, 300), (0.6, 0.9, 0.91)), Steps((100, 200, 300), (0.6, 0.75, 0.92))]


@pytest.mark.parametrize(
    ("accuracy", "labels"), [(0.3, 100.0), (0.5, 100.0), (0.6, 150.0), (0.7, 200.0), (0.75, 225.0), (0.95, None)]
)
def test_labels_are_counted_to_the_first_time_and_linearly_between_steps(accuracy, labels):
    assert labels_to(RANDOM[0], accuracy) == (None if labels is None else pytest.approx(labels))


def test_a_later_fall_takes_nothing_back():
    assert labels_to(Steps((10, 20, 30), (0.5, 0.9, 0.4)), 0.7) == pytest.approx(15.0)


def test_the_median_is_none_when_half_of_the_seeds_never_came_so_far():
    short = Steps((100,), (0.1,))
    assert median_labels([RANDOM[0], RANDOM[0], short], 0.7) == pytest.approx(200.0)
    assert median_labels([RANDOM[0], short], 0.7) is None


def test_the_interval_is_students():
    curve = mean_curve(RANDOM)
    low, high = stats.t.interval(0.95, 1, loc=0.75, scale=stats.sem([0.7, 0.8]))
    assert curve.mean[1] == pytest.approx(0.75)
    assert (curve.low[1], curve.high[1]) == (pytest.approx(max(0.0, low)), pytest.approx(min(1.0, high)))
    alone = mean_curve(RANDOM[:1])
    assert np.array_equal(alone.low, alone.high)


def test_the_worst_step_is_paired_and_leaves_the_first_out():
    assert worst_step(MIX, RANDOM) == pytest.approx(0.015)
    assert worst_step(RANDOM, MIX) == pytest.approx(-0.075)
    assert worst_step([Steps((100, 200), (0.5, 0.6))], [RANDOM[0]]) == pytest.approx(-0.1)
    assert worst_step([Steps((100,), (0.1,))], [RANDOM[0]]) == 0.0


def test_the_report_compares_with_random_where_it_was_played():
    found = report({"mix": MIX, "random": RANDOM}, 0.9)
    assert found["full_accuracy"] == 0.9
    mix, by_chance = found["strategies"]["mix"], found["strategies"]["random"]
    assert list(mix["labels_to"]) == ["90", "95", "98"]
    assert mix["over_random"]["90"] == round(median_labels(MIX, 0.81) / median_labels(RANDOM, 0.81), 3)
    assert mix["worst_step_over_random"] == pytest.approx(0.015)
    assert "over_random" not in by_chance
    assert "over_random" not in report({"mix": MIX}, 0.9)["strategies"]["mix"]
    assert report({"mix": MIX}, 1.0)["strategies"]["mix"]["labels_to"]["98"] is None


def test_the_table_has_a_line_for_each_strategy():
    table = lines(report({"mix": MIX, "random": RANDOM}, 1.0))
    assert table[0].split()[0] == "strategy"
    assert [line.split()[0] for line in table[1:]] == ["mix", "random"]
    assert "never" in table[1]
    assert "×)" in table[1]
