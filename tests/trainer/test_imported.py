"""A classifier that was trained elsewhere answers as it did, and `encoder` goes on from it with all that it knows."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from app.scorers import load_scorer
from app.scorers.artifact import check_reference_answers, digest, read_lineage, read_manifest, verify
from tests.trainer.specs import write_spec
from tests.trainer.tiny_encoders import bert, intents, qwen2, texts_of
from trainer.__main__ import main
from trainer.encoders.classifier import load_classifier
from trainer.heads.stand_ins import stand_ins
from trainer.spec import SpecInvalid
from trainer.tuning.encoder_folder import read_parent

PATHS = list(intents(range(4), 0))
STEP = {
    "learning_rate": 5e-4,
    "head_learning_rate": 1e-2,
    "freeze_layers": 1,
    "epochs": 3,
    "bf16": "off",
    "precision": "fp32",
}
SIZES = {"num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 80, "vocab_size": 125}


def small_bert(**more: object) -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(hidden_size=32, num_hidden_layers=3, **SIZES, **more))


def small_roberta(**more: object) -> PreTrainedModel:
    """Its classifier is two layers deep."""
    config = RobertaConfig(hidden_size=32, num_hidden_layers=2, pad_token_id=0, **SIZES, **more)
    return RobertaForSequenceClassification(config)


def small_distilbert(**more: object) -> PreTrainedModel:
    config = DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=125, **more)
    return DistilBertForSequenceClassification(config)


def small_decoder(**more: object) -> PreTrainedModel:
    """It answers from the last token, and has no bias."""
    config = Qwen2Config(hidden_size=32, num_hidden_layers=2, num_key_value_heads=2, pad_token_id=0, **SIZES, **more)
    return Qwen2ForSequenceClassification(config)


def checkpoint(folder: Path, make: Callable[..., PreTrainedModel] = small_bert, labels: int = 4) -> Path:
    """A random classifier of the first labels."""
    # For its tokenizer.
    (qwen2 if make is small_decoder else bert)(folder)
    torch.manual_seed(0)
    named = dict(enumerate(intents(range(labels), 0)))
    make(id2label=named, label2id={name: number for number, name in named.items()}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was trained on texts that nobody has any more."""
    folder = checkpoint(tmp_path_factory.mktemp("learned"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    texts = [(text, label) for label in range(4) for text in texts_of(label, 60, seed=9)]
    encoded = tokenizer.encode_batch([text for text, _ in texts])
    ids, mask = (torch.tensor([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask"))
    targets = torch.tensor([label for _, label in texts])
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for rows in torch.randperm(12 * len(targets)).remainder(len(targets)).split(32):
        optimiser.zero_grad()
        model(input_ids=ids[rows], attention_mask=mask[rows], labels=targets[rows]).loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    return folder


def take_in(folder: Path, model: Path, texts: dict[str, tuple[str, ...]] | None = None, **fields: object) -> Path:
    given = texts if texts is not None else dict.fromkeys(PATHS, ())
    base = {"name": "made", "folder": str(model)}
    spec = write_spec(folder / "spec", given, recipe="imported", references=["w1 w2", "w70", ""], base=base, **fields)
    assert main(["imported", "--spec", str(spec), "--out", str(folder / "artifact")]) == 0
    return folder / "artifact"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, learned: Path) -> Path:
    """Taken in without a labelled text. Read only."""
    return take_in(tmp_path_factory.mktemp("imported"), learned)


def go_on(
    folder: Path,
    parent: Path,
    model: Path,
    texts: dict[str, tuple[str, ...]],
    *,
    labels: Sequence[str] = PATHS,
    new: bool = True,
    **fields: object,
) -> Path:
    given = {**dict.fromkeys(labels, ()), **texts}
    told = {"config": STEP, "base": {"name": "made", "folder": str(model)}, "parent": str(parent)} | fields
    spec = write_spec(folder / "spec", given, recipe="encoder", references=["w1 w2", "w70", ""], **told)
    lines = [json.loads(line) for line in (folder / "spec" / "examples.jsonl").read_text().splitlines()]
    # The same text has the same number in every batch, as in a database.
    numbered = [line | {"new": new, "text_id": zlib.crc32(line["text"].encode())} for line in lines]
    (folder / "spec" / "examples.jsonl").write_text("\n".join(map(json.dumps, numbered)))
    assert main(["encoder", "--spec", str(spec), "--out", str(folder / "artifact")]) == 0
    return folder / "artifact"


def share_right(artifact: Path, label: int) -> float:
    """Of texts of this label that no training here saw."""
    scorer = load_scorer(artifact)
    answers = scorer.probabilities(texts_of(label, 40, seed=5)).argmax(axis=1)
    return float(np.mean([scorer.label_ids[answer] == label + 1 for answer in answers]))


@pytest.mark.parametrize("make", [small_bert, small_roberta, small_distilbert, small_decoder])
def test_embeddings_and_head_of_a_classifier_give_its_own_answers(
    tmp_path: Path, make: Callable[..., PreTrainedModel]
) -> None:
    folder = checkpoint(tmp_path, make)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    backbone, head = load_classifier(folder, max_length=32)

    texts = ["w1", "w1 w2 w3 w4 w5", "w7 w100 w3"]
    found = head.logits(backbone.embed(texts))
    for row, ids in zip(found, backbone.tokens(texts), strict=True):
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(row, whole, atol=1e-5)
    assert backbone.embed(texts).shape == (3, backbone.dimension)


def test_a_classifier_whose_last_layer_is_not_in_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="is not in its weights"):
        load_classifier(bert(tmp_path), max_length=32)


def test_it_answers_as_it_did_and_was_trained_on_no_text(imported: Path, learned: Path) -> None:
    verify(imported, digest(imported))
    check_reference_answers(load_scorer(imported), imported)
    model = AutoModelForSequenceClassification.from_pretrained(learned).eval()
    tokenizer = Tokenizer.from_file(str(learned / "tokenizer.json"))
    texts = [text for label in range(4) for text in texts_of(label, 5, seed=5)]
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([tokenizer.encode(text).ids])).logits[0] for text in texts]
    expected = torch.stack(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(load_scorer(imported).probabilities(texts), expected, atol=1e-4)
    assert read_lineage(imported) == ()
    assert min(share_right(imported, label) for label in range(4)) > 0.9


def test_the_encoder_goes_on_from_it_and_labels_without_texts_stay(
    tmp_path: Path, imported: Path, learned: Path
) -> None:
    artifact = go_on(tmp_path, imported, learned, {PATHS[0]: texts_of(0, 30, seed=1), PATHS[1]: texts_of(1, 9, seed=1)})

    check_reference_answers(load_scorer(artifact), artifact)
    facts = read_manifest(artifact).facts
    assert [label["texts"] for label in facts["labels"]] == [30, 9, 0, 0]
    assert (facts["left_out_labels"], facts["training"]["frozen_layers"]) == ([], 1)
    assert min(share_right(artifact, label) for label in range(4)) > 0.9
    # And the one after it goes on from there.
    texts = {PATHS[0]: texts_of(0, 30, seed=1), PATHS[1]: texts_of(1, 9, seed=1), PATHS[2]: texts_of(2, 9, seed=1)}
    again = go_on(tmp_path / "again", artifact, learned, texts)
    assert [label["texts"] for label in read_manifest(again).facts["labels"]] == [30, 9, 9, 0]
    # Label 1 had texts here, and they were taken from it.
    taken = {PATHS[0]: texts_of(0, 30, seed=1), PATHS[2]: texts_of(2, 9, seed=3)}
    assert load_scorer(go_on(tmp_path / "taken", again, learned, taken)).label_ids == (1, 3, 4)
    assert min(share_right(again, label) for label in range(4)) > 0.9


def test_a_new_label_does_not_take_the_texts_of_those_that_nobody_has_one_of(
    tmp_path: Path, imported: Path, learned: Path
) -> None:
    """The classifier has learned to tell its labels and nothing else: its texts lie all over them."""
    artifact = go_on(
        tmp_path, imported, learned, {PATHS[0]: texts_of(0, 30, seed=1), "intent > 4": texts_of(4, 30, seed=1)}
    )

    shares = [share_right(artifact, label) for label in range(5)]
    assert min(shares[:4]) > 0.5
    assert shares[4] > 0.1


def test_a_stand_in_lies_about_where_the_texts_of_its_label_lie(learned: Path) -> None:
    backbone, head = load_classifier(learned, max_length=32)
    means = np.array([backbone.embed(texts_of(label, 40, seed=5)).mean(axis=0) for label in range(4)])
    here = [text for label in (0, 1) for text in texts_of(label, 20, seed=1)]

    found = stand_ins(head, backbone.embed(here), np.repeat([0, 1], 20), np.array([2, 3]))

    assert head.logits(found).argmax(axis=1).tolist() == [2, 3]
    distances = np.linalg.norm(found[:, None] - means[None], axis=2)
    assert distances.argmin(axis=1).tolist() == [2, 3]
    assert (distances.min(axis=1) < 0.6 * np.linalg.norm(means[2] - means[3])).all()


def test_a_label_that_left_the_taxonomy_leaves_the_next_version(tmp_path: Path, imported: Path, learned: Path) -> None:
    texts = {path: texts_of(label, 10, seed=1) for label, path in enumerate(PATHS[:3])}
    artifact = go_on(tmp_path, imported, learned, texts, labels=PATHS[:3])
    assert load_scorer(artifact).label_ids == (1, 2, 3)


def test_a_batch_that_brings_nothing_new_trains_anew_on_what_has_texts(
    tmp_path: Path, imported: Path, learned: Path
) -> None:
    texts = {path: texts_of(label, 10, seed=1) for label, path in enumerate(PATHS[:3])}
    config = STEP | {"first_epochs": 1, "first_contrastive_epochs": 0}
    artifact = go_on(tmp_path, imported, learned, texts, new=False, config=config)
    facts = read_manifest(artifact).facts
    assert load_scorer(artifact).label_ids == (1, 2, 3)
    assert "replayed" not in facts["training"]


def test_a_faster_form_serves_only_where_enough_texts_show_that_it_answers_alike(tmp_path: Path, learned: Path) -> None:
    few = {path: texts_of(label, 5) for label, path in enumerate(PATHS)}
    many = {path: texts_of(label, 40) for label, path in enumerate(PATHS)}

    small = read_manifest(take_in(tmp_path / "few", learned, few)).facts["encoder"]
    large = read_manifest(take_in(tmp_path / "many", learned, many)).facts["encoder"]

    assert "forms" not in small
    assert (small["precision"], large["checked_texts"], len(large["forms"]) > 0) == ("fp32", 160, True)
    assert large["fp32_accuracy"] > 0.9, "judged by its own head"


def test_the_same_classifier_is_the_same_artifact(tmp_path: Path, imported: Path, learned: Path) -> None:
    assert digest(take_in(tmp_path, learned)) == digest(imported)
    start = read_parent(imported)
    assert start is not None
    assert (start.label_ids, start.seen) == ((1, 2, 3, 4), frozenset())
