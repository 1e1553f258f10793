"""Quick fits answer as the recipes do, but for what they leave out."""

import numpy as np
import pytest

from app import sample
from app.intent.text import MaskedText
from app.scorers import load_scorer
from trainer.heads.dense_head import HeadSettings, fit_head
from trainer.ngram import NgramConfig, train_ngram
from trainer.plain_fits import NgramFits, head_probabilities
from trainer.spec import Example, Label, Spec

ROWS = sample.questions()[:260]
NAMES = sorted({row.label for row in ROWS})


@pytest.mark.parametrize("max_features", [30_000, 400])
def test_an_ngram_fit_is_the_recipes_at_its_strength_on_the_labelled_texts_alone(tmp_path, max_features):
    targets = np.array([NAMES.index(row.label) for row in ROWS])
    rows = np.flatnonzero(targets < 6)[::2]
    config = NgramConfig(max_features=max_features)
    found = NgramFits([row.text for row in ROWS], config).probabilities(rows, targets[rows])

    examples = tuple(Example(int(row) + 1, MaskedText(ROWS[row].text), int(targets[row])) for row in rows)
    spec = Spec("ngram", tuple(Label(number, NAMES[number]) for number in range(6)), examples, (), {}, 0, "", "")
    out = tmp_path / "artifact"
    out.mkdir()
    train_ngram(spec, NgramConfig(max_features=max_features, strengths=(20.0,)), out, lambda *_: None)
    answered = load_scorer(out).probabilities([row.text for row in ROWS])
    assert found.shape == answered.shape
    # Calibration divides all logits of a text alike: the order of its labels stays.
    assert found.argmax(axis=1).tolist() == answered.argmax(axis=1).tolist()


def test_a_head_fit_is_the_recipes_linear_head_at_its_strength():
    rng = np.random.default_rng(0)
    targets = rng.integers(5, size=200)
    embeddings = (np.eye(16)[targets] + rng.normal(scale=0.5, size=(200, 16))).astype(np.float32)
    rows = np.arange(80)
    found = head_probabilities(embeddings, rows, targets[rows])
    recipe = fit_head(
        embeddings[rows], targets[rows], 5, HeadSettings(kind="linear", strengths=(20.0,)), 0, lambda *_: None
    )
    assert found.sum(axis=1) == pytest.approx(np.ones(200))
    assert found.argmax(axis=1).tolist() == recipe.logits(embeddings).argmax(axis=1).tolist()


def test_columns_are_those_of_the_labels_that_are_there():
    texts = [row.text for row in ROWS[:30]]
    found = NgramFits(texts).probabilities(np.arange(4), np.array([0, 1, 0, 1]))
    assert found.shape == (30, 2)
