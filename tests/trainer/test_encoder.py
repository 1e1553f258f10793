import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.scorers import load_scorer
from app.scorers.artifact import check_reference_answers, digest, read_lineage, read_manifest, read_out_of_fold, verify
from app.scorers.onnx import OnnxScorer
from tests.trainer.specs import write_spec
from tests.trainer.tiny_encoders import bert, intents, texts_of
from trainer.__main__ import main
from trainer.encoders.backbone import Backbone
from trainer.heads.linear_head import LinearHead
from trainer.tuning.encoder_folder import read_parent

FAST = {
    "first_contrastive_epochs": 1,
    "first_epochs": 6,
    "first_learning_rate": 2e-3,
    "head_learning_rate": 1e-2,
    "learning_rate": 5e-4,
    "patience": 6,
    "bf16": "off",
    "precision": "fp32",
}
OLD, NEW = 24, 6


def spec_of(
    folder: Path, model: Path, *, new: int = 0, labels: int = 4, parent: Path | None = None, **fields: Any
) -> Path:
    """A spec with `OLD` texts of each of the first four labels, and `new` more of each of `labels`."""
    texts = {
        path: (*(texts_of(label, OLD) if label < 4 else ()), *texts_of(label, new, seed=1))
        for label, path in enumerate(intents(range(labels), 0))
    }
    told = {"config": FAST, "base": {"name": "tiny", "folder": str(model)}} | fields
    if parent is not None:
        told["parent"] = str(parent)
    path = write_spec(folder, texts, recipe="encoder", references=["w1 w2", "w70", ""], **told)
    # As a domain numbers them: new texts get higher numbers than those that are known.
    lines = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    known = {text for label in range(4) for text in texts_of(label, OLD)}
    for number, line in enumerate(sorted(lines, key=lambda line: line["text"] not in known), 101):
        line["text_id"], line["new"] = number, line["text"] not in known
    (folder / "examples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return path


def train(spec: Path, out: Path) -> Path:
    assert main(["encoder", "--spec", str(spec), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A first version with four labels. Read only."""
    folder = tmp_path_factory.mktemp("first")
    return train(spec_of(folder, base), folder / "artifact")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, base: Path, first: Path) -> Path:
    """The step after it, with a fifth label. Read only."""
    folder = tmp_path_factory.mktemp("second")
    spec = spec_of(folder, base, new=NEW, labels=5, parent=first, cache=str(folder / "cache"))
    return train(spec, folder / "artifact")


def backbone_of(artifact: Path) -> tuple[Backbone, LinearHead]:
    start = read_parent(artifact)
    assert start is not None
    return start.backbone(64), start.head


def accuracy(artifact: Path, labels: int) -> float:
    asked = [(label, text) for label in range(labels) for text in texts_of(label, 10, seed=9)]
    answers = load_scorer(artifact).probabilities([text for _, text in asked]).argmax(axis=1)
    return float((answers == [label for label, _ in asked]).mean())


@pytest.mark.parametrize("version", ["first", "second"])
def test_an_artifact_is_whole_and_answers_as_torch_does(version: str, request: pytest.FixtureRequest) -> None:
    artifact = request.getfixturevalue(version)
    scorer = load_scorer(artifact)
    verify(artifact, digest(artifact))
    check_reference_answers(scorer, artifact)
    assert isinstance(scorer, OnnxScorer)
    texts = [*texts_of(0, 5, seed=3), "w1", "", "ΩΩ"]
    backbone, head = backbone_of(artifact)

    expected = head.logits(backbone.embed(texts)) / read_manifest(artifact).temperature
    odds = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(scorer.probabilities(texts), odds / odds.sum(axis=1, keepdims=True), atol=1e-4)


def test_a_first_version_learns_and_calibrates_on_texts_that_it_never_saw(first: Path) -> None:
    out_of_fold, lineage = read_out_of_fold(first), read_lineage(first)

    assert accuracy(first, 4) > 0.8
    assert len(lineage) == 4 * OLD
    assert 4 <= len(out_of_fold.text_ids) <= 24
    assert set(out_of_fold.text_ids) < set(lineage)
    epochs = read_manifest(first).facts["training"]["epochs"]
    assert epochs[-1]["loss"] < epochs[0]["loss"]


def test_a_step_goes_on_from_its_parent(first: Path, second: Path) -> None:
    facts = read_manifest(second).facts
    assert facts["training"]["frozen_layers"] == 2
    # New labels have fewer texts: what is held out of six is one, or none.
    assert 0 < facts["training"]["new"] <= 5 * NEW
    assert facts["training"]["replayed"] == facts["training"]["new"]
    assert facts["encoder"]["base"] == read_manifest(first).facts["encoder"]["base"]
    before, after = (backbone_of(folder)[0].state_dict() for folder in (first, second))

    assert {name for name in before if not torch.equal(before[name], after[name])} <= {
        name for name in before if ".layer.2." in name
    }


def test_a_step_grows_the_head_for_a_new_label(second: Path) -> None:
    assert load_scorer(second).label_ids == (1, 2, 3, 4, 5)
    assert accuracy(second, 5) > 0.7


def test_what_was_held_out_once_stays_held_out(first: Path, second: Path) -> None:
    before, after = set(read_out_of_fold(first).text_ids), set(read_out_of_fold(second).text_ids)

    assert before < after
    assert all(text_id > 100 + 4 * OLD for text_id in after - before)


def test_the_same_batch_gives_the_same_hash_with_a_warm_cache_and_without_any(
    tmp_path: Path, base: Path, first: Path, second: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(second.parent / "cache", cache)
    assert [path.suffix for path in (cache / "activations").iterdir()] == [".safetensors"]
    warm = train(spec_of(tmp_path, base, new=NEW, labels=5, parent=first, cache=str(cache)), tmp_path / "warm")

    assert digest(warm) == digest(second)


@pytest.mark.parametrize("version", ["first", "second"])
def test_its_scope_is_judged_by_texts_that_it_never_saw(version: str, request: pytest.FixtureRequest) -> None:
    artifact = request.getfixturevalue(version)
    scorer = load_scorer(artifact)
    assert isinstance(scorer, OnnxScorer)
    assert scorer.scope is not None
    held = len(read_out_of_fold(artifact).text_ids)
    # Nothing is promised by fewer than nineteen held-out texts; with more, at most one in twenty is flagged.
    assert np.isinf(scorer.scope.threshold) == (held < 19)
    texts = texts_of(0, 10, seed=5)
    near = scorer.scope.score(scorer.embed(texts), scorer.probabilities(texts))
    strange = ["w70 w71 w72", "w69 w73 w74 w75"]
    far = scorer.scope.score(scorer.embed(strange), scorer.probabilities(strange))
    assert np.median(far) > np.median(near)


def test_a_version_trained_once_more_on_all_texts_is_judged_by_its_twin(tmp_path: Path, base: Path) -> None:
    config = FAST | {"first_refit": True, "held_out": 0.3}
    folder = train(spec_of(tmp_path, base, config=config), tmp_path / "artifact")
    scorer = load_scorer(folder)
    assert read_manifest(folder).facts["training"]["refitted"]
    assert isinstance(scorer, OnnxScorer)
    assert scorer.scope is not None
    # Held-out texts that it was trained on would all lie near; new ones must not all be flagged.
    texts = [text for label in range(4) for text in texts_of(label, 10, seed=5)]
    scores = scorer.scope.score(scorer.embed(texts), scorer.probabilities(texts))
    assert np.isfinite(scorer.scope.threshold)
    assert (scores > scorer.scope.threshold).mean() < 0.3


def test_an_artifact_holds_no_path(first: Path, second: Path, base: Path) -> None:
    for file in [*first.iterdir(), *second.iterdir()]:
        content = file.read_bytes()
        assert str(base).encode() not in content, file.name
        assert str(first.parent).encode() not in content, file.name


def refusal(spec: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["encoder", "--spec", str(spec), "--out", str(out)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1, sentence
    assert "w1" not in sentence
    return sentence


def test_without_a_base_it_says_what_to_set(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "base_model" in refusal(spec_of(tmp_path, base, base=None), tmp_path / "out", capsys)
    missing = {"name": "tiny", "folder": str(tmp_path / "nowhere")}
    assert "config.json" in refusal(spec_of(tmp_path, base, base=missing), tmp_path / "out2", capsys)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.safetensors", b"\x80\x04K\x01.", "damaged"),
        ("config.json", b"{", "not JSON"),
        ("head.npz", b"PK\x03\x04", "head.npz"),
        ("memory.npz", b"", "memory.npz"),
        ("pooling.json", b'{"mode": "eval", "normalise": true}', "pooling"),
        ("manifest.json", b"[]", "manifest.json"),
    ],
)
def test_a_corrupt_parent_is_one_sentence(
    tmp_path: Path, base: Path, first: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes, said: str
) -> None:
    parent = shutil.copytree(first, tmp_path / "parent")
    (parent / file).write_bytes(content)
    spec = spec_of(tmp_path, base, new=NEW, parent=parent)

    assert said in refusal(spec, tmp_path / "out", capsys)


def test_pickled_weights_are_refused(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    spec = spec_of(tmp_path, base, base={"name": "tiny", "folder": str(pickled)})

    assert "pickled" in refusal(spec, tmp_path / "out", capsys)


def test_too_many_frozen_layers_are_one_sentence(
    tmp_path: Path, base: Path, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(tmp_path, base, new=NEW, parent=first, config=FAST | {"freeze_layers": 8})

    assert "the encoder has 3 layers" in refusal(spec, tmp_path / "out", capsys)


def test_a_parent_of_another_recipe_or_base_is_not_gone_on_from(tmp_path: Path, first: Path) -> None:
    other = shutil.copytree(first, tmp_path / "other")
    # No other recipe leaves its weights to be trained on.
    manifest = json.loads((other / "manifest.json").read_bytes())
    del manifest["files"]["pooling.json"]
    (other / "manifest.json").write_text(json.dumps(manifest | {"recipe": "head", "scorer": "onnx"}))

    assert read_parent(other) is None
