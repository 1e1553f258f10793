import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from app.scorers import load_scorer
from app.scorers.artifact import check_reference_answers, digest, read_manifest, verify
from tests.trainer.tiny_encoders import bert, texts_of
from trainer.__main__ import main

NUMBERS = (
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--lr",
    "5e-4",
    "--head-lr",
    "1e-2",
    "--replay-ratio",
    "0.5",
    "--precision",
    "fp32",
)


def data(path: Path, labels: Sequence[int], count: int, seed: int = 0) -> Path:
    lines = [
        json.dumps({"text": text, "label": f"intent > {label}"})
        for label in labels
        for text in texts_of(label, count, seed)
    ]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def arguments(model: Path, out: Path, new: Path, *more: str) -> list[str]:
    return ["encoder", "--new-data", str(new), "--model-path", str(model), "--output-path", str(out), *more]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """What a first call wrote, from a base model and new texts alone. Read only."""
    folder = tmp_path_factory.mktemp("earlier")
    new = data(folder / "new.jsonl", range(3), 12)
    numbers = (
        "--epochs",
        "5",
        "--lr",
        "2e-3",
        "--head-lr",
        "1e-2",
        "--bf16",
        "off",
        "--freeze-layers",
        "0",
        "--precision",
        "fp32",
    )
    assert main(arguments(base, folder / "out", new, *numbers)) == 0
    return folder / "out"


def test_the_command_trains_without_a_database_and_prints_how_far_it_is(
    tmp_path: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = data(tmp_path / "new.jsonl", [3, 0], 8, seed=1), data(tmp_path / "old.jsonl", range(3), 12)
    given = arguments(earlier, tmp_path / "out", new, "--old-data", str(old), *NUMBERS, "--freeze-layers", "1")

    assert main(given) == 0

    told = capsys.readouterr().out
    assert "epoch 2 of 2: loss" in told
    assert told.splitlines()[-1].startswith("[100 %] out holds the artifact ")
    verify(tmp_path / "out", told.split()[-1])
    check_reference_answers(load_scorer(tmp_path / "out"), tmp_path / "out")
    facts = read_manifest(tmp_path / "out").facts
    assert facts["training"]["frozen_layers"] == 1
    assert facts["training"]["replayed"] == facts["training"]["new"]
    assert (facts["config"]["epochs"], facts["config"]["batch_size"], facts["config"]["learning_rate"]) == (2, 8, 5e-4)


def test_labels_are_written_beside_the_artifact_and_keep_their_ids(earlier: Path) -> None:
    listed = json.loads((earlier / "labels.json").read_bytes())["labels"]

    assert listed == [{"id": number + 1, "path": f"intent > {number}"} for number in range(3)]
    assert load_scorer(earlier).label_ids == (1, 2, 3)


def test_a_classification_checkpoint_is_gone_on_from_with_a_head_fitted_to_the_old_texts(
    tmp_path: Path, base: Path
) -> None:
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(base, num_labels=3)
    checkpoint = bert(tmp_path / "checkpoint")
    BertForSequenceClassification(config).save_pretrained(checkpoint)
    new, old = data(tmp_path / "new.jsonl", [3, 1], 8, seed=1), data(tmp_path / "old.jsonl", range(3), 12)
    numbers = ("--old-data", str(old), *NUMBERS, "--freeze-layers", "2")

    assert main(arguments(checkpoint, tmp_path / "out", new, *numbers)) == 0

    facts = read_manifest(tmp_path / "out").facts
    assert facts["training"]["frozen_layers"] == 2
    assert facts["training"]["replayed"] > 0
    assert load_scorer(tmp_path / "out").label_ids == (1, 2, 3, 4)
    assert digest(tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 of new.jsonl is not JSON"),
        ("[1]", "not an object"),
        ('{"text": "secret words"}', "needs a text and a label"),
        ('{"text": 5, "label": "a"}', "needs a text and a label"),
        ('{"text": "secret words", "labels": ["a", 1]}', "needs a text and a label"),
        ('{"text": " ", "label": "secret words"}', "is empty"),
        ("", "holds no labelled text"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    (tmp_path / "new.jsonl").write_text(line)

    assert main(arguments(base, tmp_path / "out", tmp_path / "new.jsonl")) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.count("\n") == 1
    assert "secret" not in sentence
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_trained_from_is_one_sentence(
    tmp_path: Path, base: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = data(tmp_path / "new.jsonl", range(2), 4)
    (tmp_path / "empty").mkdir()
    cases = {
        "holds no config.json": arguments(tmp_path / "empty", tmp_path / "out", new),
        "not empty": arguments(base, earlier, new),
        "epochs must lie": arguments(base, tmp_path / "out", new, "--epochs", "0"),
        "replay_ratio must lie": arguments(base, tmp_path / "out", new, "--replay-ratio", "1.5"),
        "cannot be read": arguments(base, tmp_path / "out", tmp_path / "none.jsonl"),
    }
    for said, given in cases.items():
        assert main(given) == 2
        assert said in capsys.readouterr().err, said
