"""The recipe `head`: from texts and a base model to an artifact that serves without torch."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from app.artifacts.training_cache import ENCODERS
from app.scorers import load_scorer
from app.scorers.artifact import check_reference_answers, digest, read_manifest, read_out_of_fold, verify
from tests.pretrained import bert, qwen
from tests.trainer.specs import INTENTS, write_spec
from trainer import head
from trainer.__main__ import main
from trainer.encoders.kept_embeddings import FOLDER
from trainer.material import material_of
from trainer.spec import read_spec

FP32 = {"precision": "fp32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A cache with the export that every test would make alike; a test takes a copy."""
    folder = tmp_path_factory.mktemp("exported")
    train(folder, base, cache=folder / "cache", config=FP32)
    return folder / "cache"


@pytest.fixture
def cache(tmp_path: Path, exported: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "cache"))


def train(folder: Path, base: Path, *, cache: Path | None = None, out: str = "artifact", **fields: object) -> Path:
    spec = write_spec(
        folder / f"spec-{out}",
        recipe="head",
        base={"name": "tiny", "folder": str(base)},
        cache=str(cache) if cache else None,
        **fields,
    )
    assert main(["head", "--spec", str(spec), "--out", str(folder / out)]) == 0
    return folder / out


@pytest.mark.parametrize("make", [bert, qwen])
def test_an_artifact_is_whole_answers_its_texts_and_names_its_base(tmp_path: Path, make) -> None:
    artifact = train(tmp_path, make(tmp_path / "tiny"))

    verify(artifact, digest(artifact))
    scorer = load_scorer(artifact)
    check_reference_answers(scorer, artifact)
    # Fifteen texts promise nothing about one in twenty: it knows where they lie, and flags none.
    assert scorer.scope.threshold == np.inf  # type: ignore[attr-defined]
    manifest = read_manifest(artifact)
    assert manifest.facts["encoder"]["base"]["name"] == "tiny"
    texts = [text for texts in INTENTS.values() for text in texts]
    answered = np.array(manifest.label_ids)[scorer.probabilities(texts).argmax(axis=1)]
    assert (answered == np.repeat([1, 2, 3], 5)).mean() >= 0.8
    unseen = read_out_of_fold(artifact)
    assert unseen.probabilities.shape == (15, 3)
    assert (artifact.parent / "artifact.measured.json").exists()


def test_the_same_spec_gives_the_same_artifact_with_and_without_what_was_kept(
    tmp_path: Path, base: Path, cache: Path
) -> None:
    first = train(tmp_path, base, out="first", config=FP32)
    assert digest(train(tmp_path, base, out="second", cache=cache, config=FP32)) == digest(first)
    other = {**FP32, "head": {"strengths": [1.0]}}
    assert digest(train(tmp_path, base, out="other", cache=cache, config=other)) != digest(first)


def test_what_is_kept_spares_the_export_and_the_embeddings(
    tmp_path: Path, base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_export", lambda *_: pytest.fail("it was exported again"))
    [kept] = (cache / FOLDER).iterdir()
    before = kept.stat().st_mtime_ns

    train(tmp_path, base, cache=cache, config=FP32)

    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "report.json", "encoder.json"])
def test_a_damaged_export_is_not_taken_for_one(
    tmp_path: Path, base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    [kept] = (cache / ENCODERS).iterdir()
    (kept / name).write_bytes((kept / name).read_bytes()[:-20])
    monkeypatch.setattr(head, "_export", lambda *_: pytest.fail("it was exported again"))

    with pytest.raises(pytest.fail.Exception, match="exported again"):
        train(tmp_path, base, cache=cache, config=FP32)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base": None}, "names none"),
        ({"base": {"name": "x", "folder": "/nowhere"}}, "no config.json"),
        ({"base": {"name": "x"}}, "'folder'"),
        ({"config": {"pooling": "sum"}}, "pooling must be"),
        ({"config": {"max_length": 4}}, "max_length must lie"),
        ({"config": {"precision": "int4"}}, "precision must be"),
        ({"config": {"head": {"folds": 1}}}, "folds must lie"),
        ({"config": {"head": {"depth": 1}}}, "no setting 'depth'"),
        ({"config": {"head": 1}}, "head must be"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(tmp_path: Path, capsys, fields: dict, said: str) -> None:
    given = {"recipe": "head", "base": {"name": "tiny", "folder": str(tmp_path)}} | fields
    spec = write_spec(tmp_path / "spec", **given)

    assert main(["head", "--spec", str(spec), "--out", str(tmp_path / "out")]) == 2

    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_a_recipe_whose_packages_are_missing_says_which_command_brings_them(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = write_spec(tmp_path / "spec", recipe="head", base={"name": "tiny", "folder": str(base)})

    assert main(["head", "--spec", str(spec), "--out", str(tmp_path / "out")]) == 2
    assert "pip install torch==2.13.0 'intentloop[train]'" in capsys.readouterr().err


def test_labels_are_read_as_a_person_would_say_them(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path))
    assert head.names_of(spec, material_of(spec))[0] == "硬件故障 无法开机"
