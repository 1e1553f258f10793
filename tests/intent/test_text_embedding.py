"""Embeddings that need no model."""

import subprocess
import sys

import numpy as np
import pytest

from app.intent.text_embedding import BUCKETS, DIMENSION, bucket_weights, embed_texts

TEXTS = ["我的快递到哪里了", "快递到哪了", "怎么开发票", "Where is my parcel?", "where is my PARCEL?"]


def test_texts_that_share_sequences_are_near_and_case_does_not_matter():
    cosines = embed_texts(TEXTS) @ embed_texts(TEXTS).T
    assert cosines[0, 1] > 0.5 > abs(cosines[0, 2])
    assert cosines[3, 4] == pytest.approx(1.0)


def test_embeddings_have_length_one_and_a_text_without_characters_has_zeros():
    found = embed_texts([*TEXTS, "", " "])
    assert (found.shape, found.dtype) == ((7, DIMENSION), np.float32)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1.0] * 5 + [0.0] * 2)
    assert embed_texts([]).shape == (0, DIMENSION)


def test_a_text_has_the_same_embedding_alone_in_company_and_in_another_process():
    alone = embed_texts(TEXTS[:1])[0]
    assert embed_texts(TEXTS)[0].tolist() == alone.tolist()
    code = f"from app.intent.text_embedding import embed_texts; print(embed_texts([{TEXTS[0]!r}])[0].tobytes().hex())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == alone.tobytes().hex()


def test_weights_make_what_every_text_has_count_less():
    texts = [f"请问{word}" for word in ("发票", "物流", "退款", "换货", "优惠")]
    weights = bucket_weights(texts)
    assert weights.shape == (BUCKETS,)
    plain, weighed = embed_texts(texts), embed_texts(texts, weights)
    others = ~np.eye(5, dtype=bool)
    assert (weighed @ weighed.T)[others].mean() < (plain @ plain.T)[others].mean()
