"""Every strategy of the table keeps its word, and each prefers what it is for."""

import numpy as np
import pytest

from app.intent.clusters import unit_rows
from app.intent.strategies import STRATEGIES, WITHOUT_MODEL, Pool
from tests.intent.pools import crowd, pool_of

PLACES = ["empty", "one text", "one label", "nothing known", "all known alike", "many"]


def made(place: str) -> Pool:
    rng = np.random.default_rng(3)
    n_texts = {"empty": 0, "one text": 1}.get(place, 60)
    n_labels = 1 if place == "one label" else 4
    n_known = 0 if place == "nothing known" else 12
    embeddings, known = unit_rows(rng.normal(size=(n_texts, 8))), unit_rows(rng.normal(size=(n_known, 8)))
    if place == "all known alike":
        embeddings, known = np.repeat(known[:1], n_texts, axis=0), np.repeat(known[:1], n_known, axis=0)
    return Pool(
        rng.dirichlet(np.ones(n_labels), n_texts),
        embeddings,
        rng.integers(1, 500, n_texts),
        known,
        rng.integers(-1, n_labels, n_known),
        confusions=((0, 1), (2, 3)) if n_labels == 4 else (),
        disagreeing=rng.random(n_texts) < 0.2,
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_scores_each_text_between_zero_and_one_and_tells_facts(name, place):
    pool = made(place)
    scored = STRATEGIES[name](pool, 10, np.random.default_rng(0))
    assert scored.scores.shape == (pool.size,)
    assert ((scored.scores >= 0.0) & (scored.scores <= 1.0)).all()
    for row in np.flatnonzero(scored.scores > 0.0):
        assert isinstance(dict(scored.facts(int(row))), dict)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_gives_the_same_scores_for_the_same_seed(name):
    pool = made("many")
    first, again = (STRATEGIES[name](pool, 10, np.random.default_rng(5)).scores for _ in range(2))
    assert first.tolist() == again.tolist()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "random"])
def test_a_text_that_is_asked_more_often_comes_before_its_equal(name):
    pool = pool_of(
        probabilities=[[0.55, 0.44, 0.01], [0.55, 0.44, 0.01], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05]],
        embeddings=[[1.0, 0.2], [1.0, 0.3], [1.0, 1.0], [-1.0, 0.1]],
        counts=[1, 400, 1, 1],
        known=[[0.1, 1.0]] * 3,
        known_labels=[1, 2, 2],
        confusions=((0, 1),),
    )
    scores = STRATEGIES[name](pool, 1, np.random.default_rng(0)).scores
    assert scores[1] > scores[0] > 0.0


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in WITHOUT_MODEL])
def test_a_strategy_that_needs_a_model_asks_for_nothing_where_the_model_has_one_label(name):
    pool = pool_of(probabilities=[[1.0]] * 5, known=[[1.0, 0.0]], known_labels=[0])
    scores = STRATEGIES[name](pool, 2, np.random.default_rng(0)).scores
    if name == "far":  # of the embeddings alone
        assert scores.shape == (5,)
    else:
        assert scores.tolist() == [0.0] * 5


def test_cluster_margin_takes_one_doubt_of_each_kind_before_a_second_of_any():
    embeddings, kinds = crowd([8, 8, 8])
    doubt = np.linspace(0.5, 0.9, 24)  # the first kind is the least sure throughout
    pool = pool_of(probabilities=np.stack([doubt, 1.0 - doubt], axis=1), embeddings=embeddings)
    scores = STRATEGIES["cluster_margin"](pool, 3, np.random.default_rng(0)).scores
    assert sorted(kinds[np.argsort(-scores)[:3]]) == [0, 1, 2]
    plain = STRATEGIES["margin"](pool, 3, np.random.default_rng(0)).scores
    assert set(kinds[np.argsort(-plain)[:3]]) == {0}


def test_cluster_margin_leaves_alone_what_the_model_is_sure_of_however_far_it_lies():
    embeddings, kinds = crowd([100, 100, 3])
    best = np.where(kinds == 2, 0.999, 0.6)
    pool = pool_of(probabilities=np.stack([best, 1.0 - best], axis=1), embeddings=embeddings)
    scores = STRATEGIES["cluster_margin"](pool, 10, np.random.default_rng(0)).scores
    assert scores[kinds == 2].max() < np.sort(scores)[-100]


def test_typical_goes_to_the_middle_of_a_crowd_that_has_no_label_yet():
    embeddings, kinds = crowd([30, 30, 2])
    pool = pool_of(embeddings=embeddings, known=embeddings[kinds == 0][:1], known_labels=[0])
    scored = STRATEGIES["typical"](pool, 2, np.random.default_rng(0))
    first = int(np.argmax(scored.scores))
    assert kinds[first] == 1, "the first crowd has a label, the third is no crowd"
    assert scored.facts(first)["cluster_size"] >= 30


def test_representative_goes_to_the_middle_of_every_cluster():
    embeddings, kinds = crowd([20, 20, 20])
    scores = STRATEGIES["representative"](pool_of(embeddings=embeddings), 3, np.random.default_rng(0)).scores
    assert sorted(kinds[np.argsort(-scores)[:3]]) == [0, 1, 2]


def test_confusion_asks_what_lies_between_two_named_labels_and_nothing_without_a_pair():
    probabilities = [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]]
    scored = STRATEGIES["confusion"](pool_of(probabilities=probabilities, confusions=((0, 1),)), 1, None)
    assert scored.scores.tolist() == pytest.approx([0.0, 1.0, 0.2])
    assert scored.facts(1) == {"labels": [0, 1], "probabilities": [0.5, 0.5]}
    assert not STRATEGIES["confusion"](pool_of(probabilities=probabilities), 1, None).scores.any()


def test_rare_asks_for_the_label_with_the_fewest_texts_and_nothing_where_all_have_as_many():
    probabilities = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    pool = pool_of(probabilities=probabilities, known=[[1.0, 0.0]] * 13, known_labels=[0] * 8 + [1] * 4 + [2])
    scored = STRATEGIES["rare"](pool, 1, None)
    assert np.argsort(-scored.scores).tolist() == [2, 1, 0]
    assert scored.facts(2) == {"label": 2, "label_count": 1}
    even = pool_of(probabilities=probabilities, known=[[1.0, 0.0]] * 3, known_labels=[0, 1, 2])
    assert not STRATEGIES["rare"](even, 1, None).scores.any()


def test_suspect_asks_about_sure_answers_that_the_nearest_labels_or_the_rules_deny():
    known = [[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5
    pool = pool_of(
        probabilities=[[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.95, 0.05]],
        embeddings=[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]],
        known=known,
        known_labels=[0] * 5 + [1] * 5,
    )
    scored = STRATEGIES["suspect"](pool, 1, None)
    assert scored.scores.tolist() == pytest.approx([0.9, 0.0, 0.6, 0.0])
    assert scored.facts(0)["neighbour_labels"] == [1] * 5
    ruled = Pool(
        pool.probabilities,
        pool.embeddings,
        pool.counts,
        pool.known,
        pool.known_labels,
        disagreeing=np.array([False, False, False, True]),
    )
    assert STRATEGIES["suspect"](ruled, 1, None).scores[3] == pytest.approx(0.95)


def test_suspect_takes_a_label_that_the_model_does_not_have_for_a_denial():
    pool = pool_of(
        probabilities=[[0.9, 0.1]], embeddings=[[1.0, 0.0]], known=[[1.0, 0.0]] * 5, known_labels=[-1, -1, -1, 0, 0]
    )
    assert STRATEGIES["suspect"](pool, 1, None).scores.tolist() == pytest.approx([0.9 * 0.6])


def test_far_rises_with_the_distance_from_the_nearest_label_and_names_it():
    pool = pool_of(embeddings=[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], known=[[1.0, 0.0]], known_labels=[1])
    scored = STRATEGIES["far"](pool, 1, None)
    assert scored.scores.tolist() == pytest.approx([0.0, 1.0, 1.0])
    assert scored.facts(1) == {"cosine": pytest.approx(0.0), "nearest_label": 1}
