"""Groups of embeddings, and the near ones among them."""

import numpy as np
import pytest

from app.intent import clusters
from app.intent.clusters import cluster, nearest, nearest_few, typicality, unit_rows
from tests.intent.pools import crowd


def test_clusters_are_the_crowds_that_are_there():
    embeddings, kinds = crowd([40, 25, 60])
    found = cluster(embeddings, 3, np.random.default_rng(0))
    assert [len(set(found[kinds == kind])) for kind in range(3)] == [1, 1, 1]
    assert len(set(found)) == 3


@pytest.mark.parametrize(("n_texts", "n_clusters"), [(0, 5), (1, 5), (3, 5), (5, 1), (4, 4)])
def test_few_texts_make_no_more_clusters_than_texts(n_texts, n_clusters):
    found = cluster(unit_rows(np.random.default_rng(0).normal(size=(n_texts, 4))), n_clusters, np.random.default_rng(0))
    assert found.shape == (n_texts,)
    assert ((found >= 0) & (found < max(1, min(n_texts, n_clusters)))).all()


def test_equal_texts_fall_into_one_cluster():
    found = cluster(np.tile(unit_rows(np.array([[1.0, 2.0]])), (9, 1)), 4, np.random.default_rng(0))
    assert len(set(found)) == 1


def test_a_sample_fits_the_centres_and_every_text_gets_one(monkeypatch):
    monkeypatch.setattr(clusters, "MOST_FITTED", 50)
    embeddings, kinds = crowd([400, 400])
    found = cluster(embeddings, 2, np.random.default_rng(0))
    assert len(set(found[kinds == 0])) == len(set(found[kinds == 1])) == 1


def test_the_nearest_are_those_of_the_whole_table(monkeypatch):
    monkeypatch.setattr(clusters, "_COMPARED_AT_ONCE", 7 * 20)
    rng = np.random.default_rng(0)
    vectors, others = unit_rows(rng.normal(size=(30, 5))), unit_rows(rng.normal(size=(20, 5)))
    cosines = vectors @ others.T
    places, best = nearest(vectors, others)
    assert places.tolist() == cosines.argmax(axis=1).tolist()
    assert best == pytest.approx(cosines.max(axis=1))
    few, values = nearest_few(vectors, others, 4)
    assert few.tolist() == np.argsort(-cosines, axis=1)[:, :4].tolist()
    assert values == pytest.approx(-np.sort(-cosines, axis=1)[:, :4])
    assert nearest_few(vectors, others[:2], 4)[0].shape == (30, 2)


def test_typicality_is_highest_in_the_middle_of_a_crowd_and_nothing_alone():
    embeddings = unit_rows(np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [1.0, 0.9], [0.0, 1.0]]))
    found = typicality(embeddings, np.array([0, 0, 0, 0, 1]))
    assert found.argmax() == 0 or found[0] == pytest.approx(found.max(), abs=0.02)
    assert found[3] == found[:4].min()
    assert found[4] == 0.0


def test_typicality_of_a_large_cluster_is_that_of_a_part_of_it(monkeypatch):
    embeddings, _ = crowd([300], spread=0.3)
    whole = typicality(embeddings, np.zeros(300, dtype=np.int64))
    monkeypatch.setattr(clusters, "MOST_COMPARED", 100)
    part = typicality(embeddings, np.zeros(300, dtype=np.int64))
    assert np.corrcoef(whole, part)[0, 1] > 0.9
