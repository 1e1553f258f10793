"""Where texts lie, and what a version answers to them, come from one code for every form of artifact."""

from pathlib import Path

import numpy as np
import pytest

from app.scorers import load_scorer
from app.scorers.artifact import Scorer
from app.scorers.placing import answers_and_places, places
from tests.scorers.encoders import write_artifact
from tests.serving.artifacts import LABELS
from tests.trainer.specs import random_texts

EXAMPLES = [(number, text, number % 3 + 1) for number, text in enumerate(random_texts(30))]
TEXTS = ("手机开不了机", "手机开不了机了", "我要退货", "", "where is my parcel")


def _scorer(form: str, artifact: Path, folder: Path) -> Scorer:
    if form == "ngram":
        return load_scorer(artifact)
    write_artifact(folder, EXAMPLES, paths=dict(enumerate(LABELS, 1)))
    return load_scorer(folder)


@pytest.mark.parametrize("form", ["ngram", "onnx"])
def test_texts_have_the_versions_answers_and_directions(form: str, artifact: Path, tmp_path: Path) -> None:
    scorer = _scorer(form, artifact, tmp_path)
    answers, found = answers_and_places(scorer, TEXTS)
    np.testing.assert_array_equal(answers, scorer.probabilities(TEXTS))
    np.testing.assert_array_equal(found, places(scorer, TEXTS))
    assert (found.shape[0], found.dtype) == (len(TEXTS), np.float32)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths[lengths > 0], 1.0, atol=1e-5)
    alone = np.vstack([places(scorer, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, found, atol=1e-5)


def test_without_a_model_texts_lie_by_their_characters(artifact: Path) -> None:
    answers, found = answers_and_places(None, TEXTS)
    assert answers.shape == (len(TEXTS), 0)
    np.testing.assert_array_equal(found, load_scorer(artifact).embed(TEXTS))  # type: ignore[attr-defined]
    likeness = found @ found.T
    assert likeness[0, 1] > 0.6 > 0.3 > likeness[0, 2]


def test_a_scorer_without_embeddings_gives_answers_all_the_same() -> None:
    class Plain:
        label_ids = (1, 2)

        def probabilities(self, texts: list[str]) -> np.ndarray:
            return np.full((len(texts), 2), 0.5)

    answers, found = answers_and_places(Plain(), TEXTS)  # type: ignore[arg-type]
    assert answers.shape == (5, 2)
    np.testing.assert_array_equal(found, places(None, TEXTS))
