"""Between batches embeddings are kept, and only those of new texts are computed."""

import numpy as np
import pytest

from trainer.encoders.kept_embeddings import FOLDER, embeddings_of


class Encoder:
    """Counts what it is asked; the embedding of a text is its length, four times."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        return np.array([[len(text)] * 4 for text in texts], dtype=np.float32)


def ask(encoder, cache, *texts, name="a"):
    return embeddings_of(texts, encoder, encoder=name, dimension=4, cache=cache)


def test_only_new_texts_are_computed_and_every_text_has_its_own(tmp_path):
    encoder = Encoder()
    ask(encoder, tmp_path, "one", "three")
    found, computed = ask(encoder, tmp_path, "three", "fifteen", "one")

    assert found[:, 0].tolist() == [5, 7, 3]
    assert computed == 1
    assert encoder.asked == ["one", "three", "fifteen"]


def test_another_encoder_and_no_cache_compute_all(tmp_path):
    encoder = Encoder()
    ask(encoder, tmp_path, "one")
    assert ask(encoder, tmp_path, "one", name="b")[1] == 1
    assert ask(encoder, None, "one")[1] == 1


def test_a_text_that_is_no_longer_trained_on_is_not_kept(tmp_path):
    encoder = Encoder()
    ask(encoder, tmp_path, "one", "secret")
    ask(encoder, tmp_path, "one")
    assert ask(encoder, tmp_path, "one", "secret")[1] == 1


@pytest.mark.parametrize("damage", [slice(40), slice(0), slice(100, None)])
def test_a_damaged_file_is_computed_anew(tmp_path, damage):
    encoder = Encoder()
    ask(encoder, tmp_path, "one")
    [file] = (tmp_path / FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[damage])

    found, computed = ask(encoder, tmp_path, "one")

    assert (found[0, 0], computed) == (3, 1)
    assert ask(encoder, tmp_path, "one")[1] == 0
