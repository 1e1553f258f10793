"""Texts that share what they say are near, even where they share no word; and nothing is left to chance."""

import numpy as np

from app.intent.latent_semantics import DIMENSION, latent_embeddings

FEES = [f"退运费{word}" for word in ("怎么算", "谁来出", "要多少", "什么时候到", "能退吗", "在哪看")]
WEATHER = [f"天气{word}" for word in ("怎么样", "冷不冷", "会下雨吗", "热吗", "预报", "如何")]


def test_texts_of_one_subject_are_near_and_rows_have_length_one():
    embeddings = latent_embeddings(FEES + WEATHER, 4)
    similar = embeddings @ embeddings.T
    assert embeddings.shape == (12, 4)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    within = min(similar[:6, :6].min(), similar[6:, 6:].min())
    assert within > similar[:6, 6:].max()


def test_words_that_meet_in_other_texts_bring_texts_together():
    # The first and the last share no character; the texts between them use the words of both alike.
    texts = ["快递慢", *(f"快递慢物流差{mark}" for mark in "甲乙丙丁"), "物流差", "天晴", "天晴了", "今天晴"]
    similar = (embeddings := latent_embeddings(texts, 2)) @ embeddings.T
    assert similar[0, 5] > 0.9
    assert similar[0, 6] < 0.3


def test_the_same_texts_have_the_same_embeddings():
    assert (latent_embeddings(FEES + WEATHER) == latent_embeddings(FEES + WEATHER)).all()


def test_what_shares_nothing_has_no_direction():
    assert latent_embeddings([]).shape[0] == 0
    assert not latent_embeddings(["独"]).any()
    embeddings = latent_embeddings([*FEES, "独木"])
    assert embeddings.shape[1] <= DIMENSION
    assert not embeddings[-1].any()
