"""Groups that no label fits are found among noise; what is labelled, small or rare is left alone."""

import numpy as np
import pytest

from app.intent.clusters import nearest, unit_rows
from app.intent.scenario_groups import DEFAULT_CUT, find_scenarios, fit_cut
from app.intent.scenarios import MOST_TEXTS

RNG = np.random.default_rng(7)
DIMENSION = 32
CENTRES = unit_rows(RNG.standard_normal((4, DIMENSION)))


def crowd(centre, size, spread=0.1):
    """Texts around a direction; two of them are at a cosine of about 1 / (1 + 32 · spread²)."""
    return unit_rows(centre + spread * RNG.standard_normal((size, DIMENSION)))


def noise(size):
    return unit_rows(RNG.standard_normal((size, DIMENSION)))


def found(embeddings, counts=None, labelled=None, **options):
    counts = np.ones(len(embeddings), dtype=np.int64) if counts is None else np.asarray(counts)
    near = np.full(len(embeddings), -1.0) if labelled is None else nearest(embeddings, labelled)[1]
    return find_scenarios(embeddings, counts, near, **options)


def test_two_crowds_are_found_and_the_noise_is_left_alone():
    groups = found(np.vstack([crowd(CENTRES[0], 20), noise(60), crowd(CENTRES[1], 12)]))
    assert [sorted(group.members) for group in groups] == [list(range(20)), list(range(80, 92))]
    assert all(group.cohesion > 0.8 and group.novelty > 0.5 for group in groups)


def test_a_crowd_beside_labelled_texts_is_nothing_new():
    labelled = np.vstack([crowd(CENTRES[0], 50), noise(50)])
    groups = found(np.vstack([crowd(CENTRES[0], 20), crowd(CENTRES[1], 20)]), labelled=labelled)
    assert [sorted(group.members) for group in groups] == [list(range(20, 40))]


def test_a_group_needs_five_texts_and_ten_questions():
    texts = np.vstack([crowd(CENTRES[0], 4), crowd(CENTRES[1], 6), crowd(CENTRES[2], 5)])
    counts = [50] * 4 + [1] * 6 + [6, 1, 1, 1, 1]
    [group] = found(texts, counts)
    assert sorted(group.members) == [10, 11, 12, 13, 14]
    assert group.questions == 10


def test_texts_that_were_only_imported_count_once_each():
    [group] = found(crowd(CENTRES[0], 10), [0] * 10)
    assert group.questions == 0
    assert found(crowd(CENTRES[0], 9), [0] * 9) == []


def test_what_is_asked_most_comes_first_and_the_middle_of_a_crowd_before_its_edge():
    edge = unit_rows(CENTRES[1:2] + 0.18 * RNG.standard_normal((1, DIMENSION)))
    texts = np.vstack([crowd(CENTRES[0], 15), edge, crowd(CENTRES[1], 10, 0.05)])
    groups = found(texts, [1] * 15 + [3] * 11)
    assert [group.questions for group in groups] == [33, 15]
    assert groups[0].members[-1] == 15


def test_equal_texts_and_texts_without_a_direction_hurt_nobody():
    assert found(np.zeros((30, DIMENSION))) == []
    [group] = found(np.vstack([np.repeat(CENTRES[:1], 12, axis=0), np.zeros((10, DIMENSION))]))
    assert sorted(group.members) == list(range(12))
    assert group.cohesion == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("size", [0, 1, 4])
def test_too_few_texts_are_no_scenario(size):
    assert found(crowd(CENTRES[0], size)) == []


def test_more_texts_than_may_be_grouped_are_refused():
    with pytest.raises(ValueError, match="4000"):
        found(np.zeros((MOST_TEXTS + 1, 2)))


def test_the_cut_is_the_one_at_which_labelled_texts_fall_into_their_labels():
    tight = np.vstack([crowd(centre, 30, 0.05) for centre in CENTRES])
    loose = np.vstack([crowd(centre, 30, 0.17) for centre in CENTRES])
    labels = np.repeat([3, 8, 9, 12], 30)
    cuts = [fit_cut(texts, labels, np.random.default_rng(0)) for texts in (tight, loose)]
    assert 0.2 <= cuts[0] < cuts[1] <= 0.6
    groups = found(loose, cut=cuts[1])
    assert len(groups) == 4
    assert sum(len(group.members) for group in groups) >= 110


@pytest.mark.parametrize("labels", [[], [1], [1, 1, 1], [1, 1, 2]])
def test_without_two_labels_of_two_texts_the_cut_is_the_default(labels):
    assert fit_cut(noise(len(labels)), labels, np.random.default_rng(0)) == DEFAULT_CUT
