"""Base models are found by name or folder, described by hash, and pulled whole or not at all."""

import json

import pytest

from app.artifacts import base_models
from app.artifacts.base_models import BaseModelUnusable, describe, find, listing, pull


@pytest.fixture
def model(tmp_path):
    return make(tmp_path / "elsewhere" / "tiny-bert")


def make(folder, **files):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "model.safetensors").write_bytes(b"weights")
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def test_a_model_is_found_by_its_folder_and_once_pulled_by_its_name(tmp_path, model):
    bases = tmp_path / "bases"
    assert find(str(model), bases) == model

    pulled = pull(str(model), bases)

    assert (pulled.name, pulled.kind, pulled.size) == ("tiny-bert", "bert", 29)
    assert find("tiny-bert", bases) == bases / "tiny-bert"
    assert [found.digest for found in listing(bases)] == [describe("x", model).digest]


def test_the_hash_is_of_every_file_that_counts(tmp_path, model):
    before = describe("a", model).digest
    (model / "README.md").write_text("words")
    assert describe("b", model).digest == before
    (model / "model.safetensors").write_bytes(b"Weights")
    assert describe("a", model).digest != before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody/nothing", "intentloop models pull nobody/nothing"),
        ("../elsewhere/tiny-bert", "no full path"),
        ("/nowhere/at/all", "no full path"),
        ("elsewhere/tiny-bert", "intentloop models pull elsewhere/tiny-bert"),
        ("", "no full path"),
    ],
)
def test_what_is_not_here_is_said_with_what_to_do(tmp_path, model, name, said):
    (tmp_path / "bases").mkdir()
    with pytest.raises(BaseModelUnusable, match=said):
        find(name, tmp_path / "bases")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
        (lambda folder: (folder / "config.json").write_text(" " * 2**21), "too large"),
    ],
)
def test_a_folder_from_which_nothing_can_be_trained_is_refused_and_not_pulled(tmp_path, model, break_it, said):
    break_it(model)
    with pytest.raises(BaseModelUnusable, match=said):
        find(str(model), tmp_path)
    with pytest.raises(BaseModelUnusable, match=said):
        pull(str(model), tmp_path / "bases")
    assert listing(tmp_path / "bases") == []
    assert list((tmp_path / "bases").iterdir()) == []


def test_what_a_hub_gives_is_kept_only_when_it_is_whole(tmp_path, monkeypatch):
    import huggingface_hub

    def give(name, *, local_dir, **_):
        make(local_dir)

    def break_off(name, *, local_dir, **_):
        local_dir.mkdir()
        raise ConnectionError("http://secret@somewhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert pull("owner/tiny", tmp_path).name == "owner/tiny"
    assert [model.name for model in listing(tmp_path)] == ["owner/tiny"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", break_off)
    with pytest.raises(BaseModelUnusable, match="ConnectionError") as caught:
        pull("owner/other", tmp_path)
    assert "secret" not in str(caught.value)
    assert [model.name for model in listing(tmp_path)] == ["owner/tiny"]


def test_a_hub_whose_package_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(BaseModelUnusable, match="pip install modelscope"):
        pull("owner/tiny", tmp_path, hub="modelscope")


def test_names_that_are_none_never_reach_a_hub(tmp_path):
    for name in ("a b", "a/b/c", "../x", "https://x/y", "-x"):
        with pytest.raises(BaseModelUnusable, match="name is"):
            pull(name, tmp_path)


def test_hidden_files_do_not_count(model):
    before = describe("a", model).digest
    (model / ".cache").mkdir()
    (model / ".cache" / "x.json").write_text("{}")
    assert describe("a", model).digest == before
    assert base_models.files(model) == [model / "config.json", model / "model.safetensors"]
