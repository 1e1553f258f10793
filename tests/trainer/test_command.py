import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.scorers import load_scorer
from app.scorers.artifact import check_reference_answers, digest, read_out_of_fold, verify
from tests.trainer.specs import INTENTS, random_texts, train, write_spec
from trainer.__main__ import RECIPES, main

ROOT = Path(__file__).parent.parent.parent


def run_trainer(spec: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", "ngram", "--spec", str(spec), "--out", str(out)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_trainer_reports_progress_and_leaves_a_whole_artifact(tmp_path: Path) -> None:
    run = run_trainer(write_spec(tmp_path), tmp_path / "out")

    assert (run.returncode, run.stderr) == (0, "")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    progress = [line["progress"] for line in lines]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert all(line["stage"] for line in lines)
    verify(tmp_path / "out", lines[-1]["digest"])
    check_reference_answers(load_scorer(tmp_path / "out"), tmp_path / "out")


def test_the_same_spec_gives_the_same_artifact_in_every_process(tmp_path: Path) -> None:
    first = write_spec(tmp_path / "a")
    second = write_spec(tmp_path / "elsewhere")
    # Neither the order of the lines nor the seed of Python's hashes may show.
    lines = (second.parent / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    (second.parent / "examples.jsonl").write_text("\n".join(reversed(lines)) + "\n\n", encoding="utf-8")

    run_trainer(first, tmp_path / "out1", PYTHONHASHSEED="1")
    run_trainer(second, tmp_path / "out2", PYTHONHASHSEED="2")

    assert digest(tmp_path / "out1") == digest(tmp_path / "out2")


def test_another_seed_gives_another_artifact(tmp_path: Path) -> None:
    assert digest(train(tmp_path / "a", seed=0)) != digest(train(tmp_path / "b", seed=1))


def test_an_artifact_holds_no_path_and_no_time(tmp_path: Path) -> None:
    artifact = train(tmp_path)
    for file in artifact.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    os.utime(tmp_path / "spec" / "spec.json", (0, 0))
    assert main(["ngram", "--spec", str(tmp_path / "spec" / "spec.json"), "--out", str(tmp_path / "later")]) == 0
    assert digest(tmp_path / "later") == digest(artifact)


def test_manifest_says_what_was_trained(tmp_path: Path) -> None:
    artifact = train(tmp_path, {**INTENTS, "订单 > 发票": ("怎么开发票",)}, seed=5, config={"folds": 3})

    facts = verify(artifact, digest(artifact)).facts
    assert facts["seed"] == 5
    assert facts["config"]["folds"] == 3
    assert facts["labels"][1] == {"id": 2, "path": "订单 > 退款", "texts": 5}
    assert facts["left_out_labels"] == [{"id": 4, "path": "订单 > 发票", "texts": 1}]
    assert facts["counts"] == {"texts": 15, "left_out_texts": 1}
    assert (facts["taxonomy_digest"], facts["items_digest"]) == ("aa", "bb")
    assert set(facts["libraries"]) == {"numpy", "scipy", "jieba"}
    assert facts["normaliser_version"] == 1
    assert facts["code_revision"]


def test_a_label_with_one_text_is_left_out_of_the_answers(tmp_path: Path) -> None:
    artifact = train(tmp_path, {"a": ("one", "two"), "lonely": ("three",), "c": ("four", "five")})

    assert load_scorer(artifact).label_ids == (1, 3)
    assert read_out_of_fold(artifact).text_ids.tolist() == [101, 102, 104, 105]


def test_two_labels_with_two_texts_each_can_be_trained(tmp_path: Path) -> None:
    artifact = train(tmp_path, {"是": ("好的", "可以"), "否": ("不行", "不要")})

    answers = load_scorer(artifact).probabilities(["好的", "不行"])
    assert answers.argmax(axis=1).tolist() == [0, 1]
    # So few texts prove nothing: the answers may not be certain.
    assert answers.max() < 0.99


def test_151_labels_can_be_trained(tmp_path: Path) -> None:
    intents = {f"label {n}": [f"word{n} is here", f"please word{n}"] for n in range(151)}

    scorer = load_scorer(train(tmp_path, intents))

    assert len(scorer.label_ids) == 151
    assert scorer.probabilities([texts[0] for texts in intents.values()]).argmax(axis=1).tolist() == list(range(151))


def test_odd_texts_can_be_trained(tmp_path: Path) -> None:
    intents = {
        "long": ("退款" * 30_000, "x" * 60_000),
        "empty": ("", " "),
        "marks": ("？？？", "🙂🙂", "\x00"),
        "random": tuple(dict.fromkeys(random_texts(30))),
    }

    answers = load_scorer(train(tmp_path, intents)).probabilities(["", "退款", "🙂"])

    assert np.isfinite(answers).all()


def test_texts_without_any_common_feature_train_a_model_that_knows_nothing(tmp_path: Path) -> None:
    intents = {"a": ("甲", "乙"), "b": ("丙", "丁")}

    answers = load_scorer(train(tmp_path, intents, config={"max_features": 1})).probabilities(["甲", "丙"])

    np.testing.assert_allclose(answers, 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("intents", "said"),
    [
        ({}, "has 0|have 0"),
        ({"only": ("one", "two", "three")}, "have 1"),
        ({"a": ("one", "two"), "b": ("three",)}, "have 1"),
        ({"a": (), "b": ()}, "have 0"),
    ],
    ids=["no label", "one label", "one label with two texts", "no text"],
)
def test_fewer_than_two_trainable_labels_are_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], intents: Any, said: str
) -> None:
    spec = write_spec(tmp_path, intents)

    assert main(["ngram", "--spec", str(spec), "--out", str(tmp_path / "out")]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert "two labels with at least 2 texts" in sentence
    assert any(part in sentence for part in said.split("|"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"depth": 3}, "no setting 'depth'"),
        ({"folds": 1}, "folds must lie between 2 and 20"),
        ({"folds": "4"}, "same type|of the type"),
        ({"folds": True}, "same type|of the type"),
        ({"folds": 2.5}, "same type|of the type"),
        ({"strengths": []}, "strengths must be at least one number"),
        ({"strengths": [80, 5]}, "ascending"),
        ({"strengths": [0]}, "strengths must lie"),
        ({"strengths": ["a"]}, "same type|of the type"),
        ({"label_balance": 2}, "label_balance must lie"),
        ({"max_features": 0}, "max_features must lie"),
        ({"words_weight": float("nan")}, "words_weight must lie"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_used_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Any, said: str
) -> None:
    spec = write_spec(tmp_path, config=config)

    assert main(["ngram", "--spec", str(spec), "--out", str(tmp_path / "out")]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert any(part in sentence for part in said.split("|")), sentence
    assert not (tmp_path / "out").exists()


def test_a_whole_number_may_stand_for_a_fraction(tmp_path: Path) -> None:
    artifact = train(tmp_path, config={"words_weight": 1, "strengths": [5, 20.0], "word_pairs": False})

    assert verify(artifact, digest(artifact)).facts["config"]["words_weight"] == 1.0


def test_trainer_never_writes_into_a_folder_that_holds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")

    assert main(["ngram", "--spec", str(write_spec(tmp_path)), "--out", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]


def test_trainer_refuses_a_spec_of_another_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path, recipe="encoder")

    assert main(["ngram", "--spec", str(spec), "--out", str(tmp_path / "out")]) == 2
    assert "'encoder'" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_config_with_defaults(recipe: str) -> None:
    assert RECIPES[recipe]()[0]()


def test_a_library_that_cannot_be_loaded_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise ImportError("libx.so: failed to map segment from shared object")

    monkeypatch.setitem(RECIPES, "ngram", refuse)

    with pytest.raises(ImportError, match="failed to map segment"):
        main(["ngram", "--spec", str(write_spec(tmp_path)), "--out", str(tmp_path / "out")])
