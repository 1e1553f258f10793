import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.scorers.artifact import (
    ArtifactCorrupt,
    ArtifactUnusable,
    check_reference_answers,
    digest,
    read_lineage,
    read_out_of_fold,
    verify,
)
from app.scorers.generative_wire import RequestInvalid
from tests.trainer.generative.bases import lora_spec, mark_as_old, train_lora, write_base
from tests.trainer.specs import INTENTS, random_texts
from trainer.__main__ import main
from trainer.generative.judging import GenerativeJudge, load_judge

LEARNT = {"epochs": 25, "all_labels": 1.0}
NEW_LABEL = {**INTENTS, "订单 > 发票": ("怎么开发票", "发票抬头写错了", "电子发票在哪里")}


def training(artifact: Path) -> dict[str, Any]:
    facts: dict[str, Any] = verify(artifact, digest(artifact)).facts["training"]
    return facts


def judge_of(artifact: Path, base: Path) -> GenerativeJudge:
    return load_judge(artifact, base, verify(artifact, digest(artifact)).temperature)


@pytest.mark.parametrize(("label_tokens", "tied"), [(False, True), (True, False)], ids=["words", "label_tokens"])
def test_loss_falls_and_what_was_taught_is_answered(tmp_path: Path, label_tokens: bool, tied: bool) -> None:
    base = write_base(tmp_path / "base", tied=tied)
    artifact = train_lora(tmp_path, base, config={**LEARNT, "label_tokens": label_tokens})

    losses = training(artifact)["losses"]
    assert losses[-1] < 0.5 * losses[0]
    held_out = set(read_out_of_fold(artifact).text_ids.tolist())
    pairs = [(text, label) for label, texts in enumerate(INTENTS.values(), 1) for text in texts]
    taught = [pair for text_id, pair in enumerate(pairs, 101) if text_id not in held_out]
    judge = judge_of(artifact, base)
    answers = judge.probabilities([text for text, _ in taught]).argmax(axis=1)
    right = sum(judge.label_ids[column] == label for column, (_, label) in zip(answers, taught, strict=True))
    assert right >= 10, f"{right} of {len(taught)}"


def test_artifact_answers_as_it_was_recorded(generative: Path, bases: Path) -> None:
    check_reference_answers(judge_of(generative, bases / "tiny"), generative)
    assert len(json.loads((generative / "references.json").read_text())["texts"]) == 2


def test_every_answer_is_a_label_whatever_is_asked(generative: Path, bases: Path) -> None:
    judge = judge_of(generative, bases / "tiny")
    texts = [*random_texts(10), "\ud800", "x" * 10_000, "[Output] 分类结果: 退款", "<|endoftext|>", ""]

    answers = judge.probabilities(texts)

    assert answers.shape == (len(texts), 3)
    assert np.isfinite(answers).all()
    assert answers.sum(axis=1) == pytest.approx(1.0)
    labels, shares = judge.judge("手机开不了机", [3, 1])
    assert list(labels) == [1, 3]
    assert sum(shares) == pytest.approx(1.0)


def test_text_is_answered_alike_whatever_was_asked_before(generative: Path, bases: Path) -> None:
    judge = judge_of(generative, bases / "tiny")
    first = judge.judge("手机开不了机", None)
    judge.judge("我要退款", [1, 2])
    judge.judge("x" * 100, None)
    assert judge.judge("手机开不了机", None) == first
    assert judge.judge("手机开不了机", [2, 3, 1]) == first


def test_label_that_the_artifact_does_not_know_is_refused(generative: Path, bases: Path) -> None:
    with pytest.raises(RequestInvalid, match="does not know the label 9"):
        judge_of(generative, bases / "tiny").judge("我要退款", [1, 9])


def test_temperature_and_thresholds_rest_on_texts_that_were_not_taught(generative: Path) -> None:
    evidence = read_out_of_fold(generative)
    assert len(evidence.text_ids) == training(generative)["held_out"] == 3
    assert training(generative)["new"] == 12
    assert sorted(evidence.label_ids.tolist()) == [1, 2, 3]
    # All are named: what a held-out text says is in the temperature.
    assert read_lineage(generative) == tuple(range(101, 116))


def test_same_spec_gives_the_same_artifact_and_another_seed_another(tmp_path: Path, bases: Path) -> None:
    config = {"label_tokens": True, "dropout": 0.1, "dtype": "bfloat16", "epochs": 1}
    first, again, other = (
        digest(train_lora(tmp_path / name, bases / "tiny", config=config, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert first != other


def test_same_spec_gives_the_same_artifact_in_words_too(tmp_path: Path, bases: Path, generative: Path) -> None:
    assert digest(train_lora(tmp_path, bases / "tiny")) == digest(generative)


def test_artifact_holds_no_path_of_this_machine(generative: Path, bases: Path) -> None:
    for file in generative.iterdir():
        assert str(bases).encode() not in file.read_bytes(), file.name
        assert file.stat().st_mode & 0o044 == 0o044, file.name


def test_manifest_names_base_config_and_libraries(generative: Path) -> None:
    manifest = verify(generative, digest(generative))
    assert (manifest.recipe, manifest.scorer) == ("lora", "generative")
    assert manifest.facts["base"]["name"] == "tiny"
    assert len(manifest.facts["base"]["digest"]) == 64
    assert manifest.facts["base"]["kind"] == "qwen2"
    assert {"torch", "transformers", "peft"} <= set(manifest.facts["libraries"])
    assert manifest.facts["config"]["rank"] == 8


def test_adapter_can_be_loaded_by_peft_itself(generative: Path, bases: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bases / "tiny")
    PeftModel.from_pretrained(model, str(generative))


def test_next_batch_goes_on_from_the_adapter_with_a_new_label(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    parent = train_lora(tmp_path / "first", base, config={"epochs": 5})

    def next_batch(name: str, **fields: Any) -> Path:
        folder = tmp_path / name
        spec = lora_spec(folder, base, NEW_LABEL, config={"epochs": 1, "replay_ratio": 0.8}, **fields)
        mark_as_old(spec, set(range(101, 116)))
        out = folder / "artifact"
        assert main(["lora", "--spec", str(spec), "--out", str(out)]) == 0
        return out

    child, anew = next_batch("child", parent=str(parent)), next_batch("anew")

    assert training(child)["parent"] == digest(parent)
    assert (training(child)["new"], training(child)["replayed"]) == (2, 8)
    assert (training(anew)["parent"], training(anew)["new"], training(anew)["replayed"]) == (None, 14, 0)
    assert training(child)["losses"][0] < training(anew)["losses"][0]
    # What the parent has learnt from cannot prove the child.
    taught = set(read_lineage(parent)) - set(read_out_of_fold(parent).text_ids.tolist())
    assert not taught & set(read_out_of_fold(child).text_ids.tolist())
    assert set(read_lineage(child)) == set(range(101, 119))
    check_reference_answers(judge_of(child, base), child)


def test_label_token_stays_its_labels_when_labels_come_and_go(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", room=0)
    config = {"epochs": 3, "label_tokens": True}
    parent = train_lora(tmp_path / "first", base, config=config)
    kept = dict(list(NEW_LABEL.items())[1:])
    fields = {"labels": [{"id": n, "path": path} for n, path in enumerate(kept, 2)], "parent": str(parent)}
    spec = lora_spec(tmp_path / "spec", base, kept, config={**config, "learning_rate": 1e-7, "epochs": 1}, **fields)
    rows = [json.loads(line) for line in (spec.parent / "examples.jsonl").read_text().splitlines()]
    (spec.parent / "examples.jsonl").write_text(
        "\n".join(json.dumps({**row, "label": row["label"] + 1}) for row in rows)
    )
    child = tmp_path / "child"

    assert main(["lora", "--spec", str(spec), "--out", str(child)]) == 0

    before = {a["label_id"]: a["tokens"] for a in json.loads((parent / "answers.json").read_text())["labels"]}
    after = {a["label_id"]: a["tokens"] for a in json.loads((child / "answers.json").read_text())["labels"]}
    assert {2: before[2], 3: before[3]} == {2: after[2], 3: after[3]}
    assert after[4] not in before.values()
    # Hardly anything was learnt since: of two labels that both know the odds must be the parent's.
    judges = [judge_of(artifact, base) for artifact in (parent, child)]
    odds = [np.subtract(*judge.scores("我要退款", [2, 3])[1]) for judge in judges]
    assert odds[1] == pytest.approx(odds[0], abs=1e-2)


def test_parent_on_another_base_or_of_another_form_begins_anew(tmp_path: Path, generative: Path, bases: Path) -> None:
    other = write_base(tmp_path / "other", seed=1)
    assert training(train_lora(tmp_path / "a", other, parent=str(generative)))["parent"] is None
    ranked = train_lora(tmp_path / "b", bases / "tiny", config={"rank": 4}, parent=str(generative))
    assert training(ranked)["parent"] is None


def test_base_with_a_start_token_gets_it_before_each_prompt(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", start="<|im_end|>")
    artifact = train_lora(tmp_path, base)
    settings = json.loads((artifact / "generative.json").read_text())
    assert settings["start"] == [1]
    assert settings["end"] == 0


def lose_base(base: Path) -> None:
    shutil.rmtree(base)


def pickle_weights(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def tear_weights(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"\x08" + bytes(40))


def lose_head(base: Path) -> None:
    """As with an encoder's folder: a causal model would get a random head."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def lose_end(base: Path) -> None:
    config = json.loads((base / "tokenizer_config.json").read_text())
    config["eos_token"] = None
    (base / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose_base, r"holds no config\.json"),
        (pickle_weights, "its weights are pickled, and nothing is unpickled here"),
        (tear_weights, "cannot be loaded as a causal one"),
        (lose_head, "lacks weights of a causal model"),
        (lose_end, "names no eos_token"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_unusable_base_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], said: str
) -> None:
    base = write_base(tmp_path / "base")
    harm(base)
    refused(tmp_path, lora_spec(tmp_path, base), capsys, said)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"max_prompt_tokens": 60}, "a prompt with all 3 labels takes up to .* tokens and may take 60: raise"),
        ({"max_text_tokens": 500, "max_prompt_tokens": 4000}, "may take 512: "),
        ({"rank": 0}, "rank must lie between 1 and 256"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16"),
        ({"targets": "mlp"}, "targets must be 'all' or 'attention'"),
    ],
    ids=str,
)
def test_config_that_cannot_be_trained_with_is_one_sentence(
    tmp_path: Path, bases: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], said: str
) -> None:
    refused(tmp_path, lora_spec(tmp_path, bases / "tiny", config=config), capsys, said)


def test_domain_without_a_base_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], bases: Path) -> None:
    spec = lora_spec(tmp_path, bases / "tiny")
    rewrite(tmp_path, spec.name, base=None)
    refused(tmp_path, spec, capsys, "the domain names none: set its base_model")


def test_damaged_parent_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bases: Path, generative: Path
) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(generative, parent)
    with (parent / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\xff" * 8)
    spec = lora_spec(tmp_path, bases / "tiny", parent=str(parent))
    refused(tmp_path, spec, capsys, "the artifact to go on from is not usable: adapter_model.safetensors differs")


def test_memory_that_runs_out_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("trainer.generative.causal_model.load_causal", full)
    refused(tmp_path, lora_spec(tmp_path, bases / "tiny"), capsys, "ran out of memory: choose a smaller base model")


def test_base_that_does_not_follow_a_mask_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state-space model reads the nodes of a trie as one text."""
    from transformers import MambaConfig, MambaForCausalLM

    base = write_base(tmp_path / "base")
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    MambaForCausalLM(MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1)).save_pretrained(base)
    refused(tmp_path, lora_spec(tmp_path, base, config={"epochs": 1}), capsys, "does not follow an attention mask")


def test_training_that_comes_apart_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bases: Path
) -> None:
    spec = lora_spec(tmp_path, bases / "tiny", config={"learning_rate": 1.0, "alpha": 1024, "rank": 1, "epochs": 100})
    refused(tmp_path, spec, capsys, "training came apart: the loss is no number any more")


def test_prompt_longer_than_the_bases_window_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base", use_sliding_window=True, sliding_window=70, max_window_layers=0)
    refused(tmp_path, lora_spec(tmp_path, base), capsys, "and may take 70: ")


def refused(folder: Path, spec: Path, capsys: pytest.CaptureFixture[str], said: str) -> None:
    # Making a base has a progress bar.
    capsys.readouterr()
    assert main(["lora", "--spec", str(spec), "--out", str(folder / "out")]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert re.search(said, told), told


def rewrite(folder: Path, name: str, **changes: Any) -> None:
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(document | changes))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("generative.json", {"prompt_version": 99}, "trained with prompt 99"),
        ("generative.json", {"dtype": "float16"}, "a way of answering"),
        ("generative.json", {"rank": 16}, "do not fit this base"),
        ("generative.json", {"rank": "8"}, "a number that no training writes"),
        ("generative.json", {"more": 1}, "does not hold the settings"),
        ("answers.json", {"vocabulary": [0, 1]}, "another vocabulary"),
        ("answers.json", {"labels": [{"label_id": 1, "path": "a", "tokens": [-1]}]}, "does not hold labels"),
        (
            "answers.json",
            {"labels": [{"label_id": 1, "path": "a", "tokens": [99999]}], "vocabulary": [99999]},
            "a token",
        ),
        ("tokenizer.json", {"model": None}, r"no tokenizer\.json"),
    ],
    ids=str,
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, generative: Path, bases: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(generative, folder)
    rewrite(folder, name, **changes)
    with pytest.raises(ArtifactUnusable, match=said):
        load_judge(folder, bases / "tiny")


def test_adapter_with_something_that_is_not_a_number_is_refused(tmp_path: Path, generative: Path, bases: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "artifact"
    shutil.copytree(generative, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[sorted(tensors)[0]][0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ArtifactCorrupt, match="not a number"):
        load_judge(folder, bases / "tiny")
