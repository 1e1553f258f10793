import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
    """What a first call wrote, from a classification checkpoint with old and new texts. Read only."""
    folder = tmp_path_factory.mktemp("earlier")
    checkpoint = bert(folder / "checkpoint")
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig.from_pretrained(base, num_labels=3)).save_pretrained(checkpoint)
    new, old = data(folder / "new.jsonl", [2, 1], 8, seed=1), data(folder / "old.jsonl", range(3), 12)
    numbers = ("--old-data", str(old), *NUMBERS, "--freeze-layers", "2")
    assert main(arguments(checkpoint, folder / "out", new, *numbers)) == 0
    return folder / "out"


def test_a_classification_checkpoint_is_gone_on_from_with_a_head_fitted_to_the_old_texts(earlier: Path) -> None:
    facts = read_manifest(earlier).facts

    verify(earlier, digest(earlier))
    assert facts["training"]["frozen_layers"] == 2
    assert facts["training"]["replayed"] == facts["training"]["new"] > 0
    assert load_scorer(earlier).label_ids == (1, 2, 3)


def test_a_classification_checkpoint_that_names_labels_of_the_files_is_gone_on_from_with_its_own_head(
    tmp_path: Path, base: Path
) -> None:
    """Also its labels of which the files have no text."""
    named = dict(enumerate([f"intent > {number}" for number in (4, 2, 0)]))
    checkpoint = bert(tmp_path / "checkpoint")
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig.from_pretrained(base, id2label=named))
    model.save_pretrained(checkpoint)
    new = data(tmp_path / "new.jsonl", [2, 0, 1], 8, seed=1)
    numbers = (*NUMBERS, "--freeze-layers", "2", "--lr", "1e-7", "--head-lr", "1e-6", "--max-length", "32")

    assert main(arguments(checkpoint, tmp_path / "out", new, *numbers)) == 0

    facts = read_manifest(tmp_path / "out").facts
    assert [label["path"] for label in facts["labels"]] == ["intent > 4", "intent > 2", "intent > 0", "intent > 1"]
    assert [label["texts"] for label in facts["labels"]] == [0, 8, 8, 8]
    head = np.load(tmp_path / "out" / "head.npz")["weights"]
    np.testing.assert_allclose(head[:, :3], model.classifier.weight.detach().numpy().T, atol=1e-3)


def test_labels_are_written_beside_the_artifact(earlier: Path) -> None:
    listed = json.loads((earlier / "labels.json").read_bytes())["labels"]

    assert listed == [{"id": number + 1, "path": f"intent > {number}"} for number in range(3)]


def test_an_earlier_output_is_gone_on_from_and_the_command_prints_how_far_it_is(
    tmp_path: Path, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In the order of their paths, the new label comes before the known ones.
    fresh = data(tmp_path / "new.jsonl", [3, 0], 8, seed=2).read_text().replace("intent > 3", "another")
    (tmp_path / "new.jsonl").write_text(fresh)
    old = data(tmp_path / "old.jsonl", range(3), 12)
    given = ("--old-data", str(old), *NUMBERS, "--freeze-layers", "1")

    assert main(arguments(earlier, tmp_path / "out", tmp_path / "new.jsonl", *given)) == 0

    told = capsys.readouterr().out
    assert "epoch 2 of 2: loss" in told
    assert told.splitlines()[-1].startswith("[100 %] out holds the artifact ")
    verify(tmp_path / "out", told.split()[-1])
    check_reference_answers(load_scorer(tmp_path / "out"), tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "labels.json").read_bytes())["labels"]
    assert [label["path"] for label in listed] == ["intent > 0", "intent > 1", "intent > 2", "another"]
    facts = read_manifest(tmp_path / "out").facts
    assert facts["training"]["frozen_layers"] == 1
    assert (facts["config"]["epochs"], facts["config"]["batch_size"], facts["config"]["learning_rate"]) == (2, 8, 5e-4)


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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_one_sentence(
    tmp_path: Path,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("trainer.by_hand.train_from", fail)

    assert main(arguments(base, tmp_path / "out", data(tmp_path / "new.jsonl", range(2), 4))) == 2
    assert "--batch-size" in capsys.readouterr().err


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
