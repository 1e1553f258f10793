"""Labels that look wrong are told from those that do not, by the model, the way labels are mistaken, and near texts."""

import numpy as np
import pytest

from app.intent.arrays import FloatArray, IntArray
from app.intent.suspects import Labelled, confident_joint, find_suspects, nearest_labelled

LABELS = 5


def texts(count: int = 600, *, seed: int = 0, spread: float = 0.7) -> tuple[IntArray, FloatArray]:
    """True labels and what a fair model says: shape (count,) and (count, LABELS)."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % LABELS
    logits = rng.normal(scale=spread, size=(count, LABELS))
    logits[np.arange(count), truth] += 3.0
    odds = np.exp(logits)
    return truth, odds / odds.sum(axis=1, keepdims=True)


def flipped(truth: IntArray, rows: IntArray, by: int = 1) -> IntArray:
    given = truth.copy()
    given[rows] = (given[rows] + by) % LABELS
    return given


def test_confident_joint_counts_as_the_paper_does() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]])
    # Means: of label 0 (0.9 + 0.7 + 0.2) / 3 = 0.6, of label 1 0.8. The last text reaches neither.
    joint = confident_joint(probabilities, np.array([0, 0, 0, 1, 1]))

    assert joint.tolist() == [[2.0, 1.0], [0.0, 2.0]]


def test_a_label_without_a_confident_text_is_not_doubted() -> None:
    probabilities = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.1, 0.9, 0.0]])

    joint = confident_joint(probabilities, np.array([0, 0, 1]))

    assert joint.sum() == 3.0
    assert joint[2].sum() == joint[:, 2].sum() == 0.0


def test_flipped_labels_are_the_most_suspect() -> None:
    truth, probabilities = texts()
    wrong = np.random.default_rng(1).choice(len(truth), 60, replace=False)
    given = flipped(truth, wrong)

    found = find_suspects(Labelled(probabilities, given))

    assert (found.suspicion >= 0.0).all()
    assert (found.suspicion <= 1.0).all()
    most = np.argsort(-found.suspicion)[:60]
    assert np.isin(most, wrong).mean() > 0.9
    assert np.isin(np.flatnonzero(found.looks_wrong), wrong).mean() > 0.9
    assert np.isin(wrong, np.flatnonzero(found.looks_wrong)).mean() > 0.8
    assert (found.answers[found.looks_wrong] == truth[found.looks_wrong]).mean() > 0.9


def test_suspicion_adds_up_to_about_as_many_as_are_wrong() -> None:
    truth, probabilities = texts()
    given = flipped(truth, np.arange(0, 600, 12))

    suspicion = find_suspects(Labelled(probabilities, given)).suspicion

    assert 40 < suspicion.sum() < 75


def test_the_less_likely_the_given_label_the_more_suspect_it_is() -> None:
    truth, probabilities = texts()
    given = flipped(truth, np.arange(0, 600, 12))
    before = find_suspects(Labelled(probabilities, given)).suspicion[1]
    probabilities[1] = probabilities[1] * 0.5
    probabilities[1, (given[1] + 1) % LABELS] += 0.5

    assert find_suspects(Labelled(probabilities, given)).suspicion[1] > before


def test_a_mistake_that_is_often_made_is_more_suspect_than_one_that_is_not() -> None:
    truth, probabilities = texts(1000)
    # Whatever is wrong is label 0 given as 1. Two texts of label 1 and 3 look alike otherwise: half of label 0.
    given = truth.copy()
    given[np.flatnonzero(truth == 0)[:60]] = 1
    row = np.array([0.5, 0.01, 0.01, 0.01, 0.01])
    one, other = np.flatnonzero(truth == 1)[0], np.flatnonzero(truth == 3)[0]
    for place in (one, other):
        probabilities[place] = row
        probabilities[place, truth[place]] = 0.47

    suspicion = find_suspects(Labelled(probabilities, given)).suspicion

    assert suspicion[one] > suspicion[other]


def test_near_texts_vote_and_the_text_itself_does_not() -> None:
    truth, probabilities = texts(200, spread=0.1)
    given = flipped(truth, np.array([7]))
    # The model cannot tell; only the near texts can.
    probabilities[7] = 1.0 / LABELS
    near = np.eye(LABELS)[truth] + np.random.default_rng(0).normal(scale=0.02, size=(200, LABELS))

    with_votes = find_suspects(Labelled(probabilities, given, near))
    alone = find_suspects(Labelled(probabilities, given))

    assert with_votes.suspicion.argmax() == 7
    assert with_votes.answers[7] == truth[7]
    assert with_votes.suspicion[7] > alone.suspicion[7]


def two_labels(count: int = 200) -> tuple[IntArray, FloatArray, FloatArray]:
    """Texts of two labels that lie apart, with a third place where none is: labels, probabilities, embeddings."""
    truth = np.arange(count) % 2
    probabilities = np.where(np.arange(2) == truth[:, None], 0.95, 0.05)
    return truth, probabilities, np.eye(3)[truth]


def test_wrong_labels_do_not_vouch_for_each_other() -> None:
    truth, probabilities, embeddings = two_labels()
    # Ten texts that lie together, nine of them mislabelled in the same way; the model is less sure there.
    corner = np.flatnonzero(truth == 0)[:10]
    probabilities[corner], embeddings[corner] = (0.75, 0.25), (0.0, 0.0, 1.0)
    given = truth.copy()
    given[corner[:9]] = 1

    found = find_suspects(Labelled(probabilities, given, embeddings))

    assert (found.answers[corner[:9]] == 0).all()


def test_a_text_does_not_vote_for_its_own_label() -> None:
    truth, probabilities, embeddings = two_labels()
    probabilities[0], embeddings[0] = (0.55, 0.45), (0.0, 0.0, 1.0)
    given = truth.copy()
    given[0] = 1

    assert find_suspects(Labelled(probabilities, given, embeddings)).answers[0] == 0


def test_other_texts_are_judged_by_what_was_learned() -> None:
    truth, probabilities = texts()
    given = flipped(truth, np.arange(0, 600, 10))
    others, said = texts(100, seed=5)
    gold = flipped(others, np.array([3, 50]))

    found = find_suspects(Labelled(probabilities, given), Labelled(said, gold))

    assert found.suspicion.shape == (100,)
    assert set(np.argsort(-found.suspicion)[:2]) == {3, 50}
    assert {3, 50} <= set(np.flatnonzero(found.looks_wrong))


def test_a_wrong_label_among_others_is_seen_though_none_was_learned_from() -> None:
    truth, probabilities = texts(spread=0.1)
    others, said = texts(40, seed=5, spread=0.1)

    found = find_suspects(Labelled(probabilities, truth), Labelled(said, flipped(others, np.array([3]))))

    assert np.flatnonzero(found.looks_wrong).tolist() == [3]


def test_a_single_wrong_label_is_seen_beside_a_model_that_is_nearly_always_sure() -> None:
    truth, probabilities = texts(spread=0.01)
    probabilities[8] = np.where(np.arange(LABELS) == truth[8], 0.85, 0.0375)
    probabilities[np.arange(600) != 8] = np.where(np.arange(LABELS) == truth[np.arange(600) != 8, None], 0.996, 0.001)

    found = find_suspects(Labelled(probabilities, flipped(truth, np.array([8]))))

    assert np.flatnonzero(found.looks_wrong).tolist() == [8]


@pytest.mark.parametrize("n_labels", [1, 2])
def test_with_one_label_or_two_there_is_nothing_special(n_labels: int) -> None:
    given = np.arange(20) % n_labels
    probabilities = np.full((20, n_labels), 0.1 / max(1, n_labels - 1))
    probabilities[np.arange(20), given] = 1.0 if n_labels == 1 else 0.9
    assert not find_suspects(Labelled(probabilities, given)).looks_wrong.any()
    if n_labels == 2:
        given[0] = 1

        found = find_suspects(Labelled(probabilities, given))

        assert found.looks_wrong.tolist() == [True] + [False] * 19


def test_no_text_has_no_suspect() -> None:
    nothing = Labelled(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    truth, probabilities = texts(10)

    assert find_suspects(nothing).suspicion.shape == (0,)
    assert not find_suspects(nothing, Labelled(probabilities, truth)).looks_wrong.any()
    assert find_suspects(Labelled(probabilities, truth), nothing).answers.shape == (0,)


def test_the_same_texts_are_ranked_alike_each_time() -> None:
    truth, probabilities = texts()
    labelled = Labelled(probabilities, flipped(truth, np.arange(30)), probabilities)

    assert (find_suspects(labelled).suspicion == find_suspects(labelled).suspicion).all()


def test_nearest_labelled_leaves_out_the_text_itself_and_what_has_nothing_in_common() -> None:
    others = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])

    near = nearest_labelled(others[[0, 0]], others, np.array([0, -1]), 3)

    assert near == [[1], [0, 1]]
