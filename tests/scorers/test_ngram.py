import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.scorers import load_scorer
from app.scorers.artifact import ArtifactCorrupt, read_arrays, read_manifest
from app.scorers.ngram import VOCABULARY, WEIGHTS, read_model
from bench.ngram_scorer import sklearn_pipeline
from tests.trainer.specs import INTENTS, random_texts, train

ARRAYS = ("document_weights", "weights", "bias")


def test_scorer_answers_what_scikit_learn_answers_with_the_same_model(artifact: Path) -> None:
    texts = [*random_texts(300), "", " ", "ΩΩΩ", "手机" * 200, *(text for texts in INTENTS.values() for text in texts)]
    pipeline = sklearn_pipeline(read_model(artifact), read_manifest(artifact).temperature)

    np.testing.assert_allclose(
        load_scorer(artifact).probabilities(texts), pipeline.predict_proba(texts), atol=1e-5, rtol=0.0
    )


def test_a_batch_answers_each_text_as_if_it_were_alone(artifact: Path) -> None:
    scorer, texts = load_scorer(artifact), random_texts(100)

    alone = np.vstack([scorer.probabilities([text]) for text in texts])

    assert (scorer.probabilities(texts) == alone).all()
    assert (scorer.probabilities(texts[::-1]) == alone[::-1]).all()


def test_rows_are_probabilities(artifact: Path) -> None:
    answers = load_scorer(artifact).probabilities(random_texts(100))

    assert answers.shape == (100, 3)
    assert answers.dtype == np.float64
    assert (answers >= 0.0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1.0, atol=1e-12)


def test_no_texts_have_no_rows(artifact: Path) -> None:
    assert load_scorer(artifact).probabilities([]).shape == (0, 3)


@pytest.mark.parametrize("text", ["", " ", "ΩΩΩ", "㐂㐂", "\x00", "\ud800", "🙂"])
def test_a_text_without_a_known_feature_is_answered_from_the_bias(artifact: Path, text: str) -> None:
    temperature = read_manifest(artifact).temperature
    odds = np.exp(read_model(artifact).bias.astype(np.float64) / temperature)

    np.testing.assert_allclose(load_scorer(artifact).probabilities([text])[0], odds / odds.sum(), atol=1e-12)


@pytest.mark.parametrize("text", ["手机开不了机", "parcel late ", "x" * 9, "退"])
def test_a_text_of_60_kb_has_an_answer(artifact: Path, text: str) -> None:
    answers = load_scorer(artifact).probabilities([text * (60_000 // len(text))])

    assert np.isfinite(answers).all()


def test_what_was_learned_is_answered(artifact: Path) -> None:
    scorer = load_scorer(artifact)
    for label, texts in enumerate(INTENTS.values()):
        assert (scorer.probabilities(texts).argmax(axis=1) == label).all()


def test_letter_case_makes_no_difference(artifact: Path) -> None:
    answers = load_scorer(artifact).probabilities(["Where Is My PARCEL", "where is my parcel"])

    assert (answers[0] == answers[1]).all()


def test_a_model_without_chinese_answers_chinese_questions(tmp_path: Path) -> None:
    artifact = train(tmp_path, {"a": ("hello there", "good morning"), "b": ("bye now", "see you later")})

    assert not read_model(artifact).settings.dictionary
    assert np.isfinite(load_scorer(artifact).probabilities(["你好", "hello 你好"])).all()


def rewrite_arrays(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    arrays = read_arrays(folder / WEIGHTS, ARRAYS)
    change(arrays)
    np.savez(folder / WEIGHTS, allow_pickle=False, **arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(weights=arrays["weights"][:-1]),
        lambda arrays: arrays.update(weights=arrays["weights"][:, :-1]),
        lambda arrays: arrays.update(weights=arrays["weights"].astype(np.float64)),
        lambda arrays: arrays.update(bias=arrays["bias"][:, None]),
        lambda arrays: arrays["weights"].__setitem__((0, 0), np.nan),
        lambda arrays: arrays["document_weights"].__setitem__(0, 0.0),
        lambda arrays: arrays.pop("bias"),
        lambda arrays: arrays.update(surplus=arrays["bias"]),
    ],
)
def test_weights_that_do_not_fit_are_refused(artifact: Path, tmp_path: Path, change: Any) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    rewrite_arrays(copy, change)

    with pytest.raises(ArtifactCorrupt):
        load_scorer(copy)


def test_fewer_columns_than_labels_are_refused(artifact: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))

    def drop_label(arrays: dict[str, Any]) -> None:
        arrays.update(weights=np.ascontiguousarray(arrays["weights"][:, :-1]), bias=arrays["bias"][:-1])

    rewrite_arrays(copy, drop_label)

    with pytest.raises(ArtifactCorrupt, match="column for each label"):
        load_scorer(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("blocks"),
        lambda document: document["blocks"].pop(),
        lambda document: document["settings"].update(unknown=1),
        lambda document: document["settings"].update(sequence_length="2"),
        lambda document: document["settings"].update(word_part_length=10**9),
        lambda document: document["blocks"][0].update(weight="heavy"),
        lambda document: document["blocks"][0].update(weight=-1.0),
        lambda document: document["blocks"][0]["features"].append("one too many"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(artifact: Path, tmp_path: Path, change: Any) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    document = json.loads((copy / VOCABULARY).read_text(encoding="utf-8"))
    change(document)
    (copy / VOCABULARY).write_text(json.dumps(document), encoding="utf-8")

    with pytest.raises(ArtifactCorrupt):
        load_scorer(copy)
