"""An encoder in ONNX form answers as numpy does, in any company, and refuses files that are not one."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.scorers import load_scorer
from app.scorers.artifact import (
    MANIFEST,
    ArtifactCorrupt,
    canonical_json,
    check_reference_answers,
    digest,
    read_manifest,
    verify,
)
from app.scorers.onnx import HEAD, OnnxModel, OnnxScorer, read_model, write_model
from app.scorers.onnx_encoder import ENCODER, GRAPH, TOKENIZER
from tests.scorers.encoders import (
    DIMENSION,
    LETTERS,
    MAX_LENGTH,
    by_hand,
    graph,
    settings,
    tokenizer,
    weights,
    write_artifact,
)
from tests.serving.artifacts import LABELS, TEXTS
from tests.trainer.specs import random_texts

PATHS = dict(enumerate(LABELS, 1))
EXAMPLES = [(10 * label + n, text, label) for label, path in PATHS.items() for n, text in enumerate(TEXTS[path])]
ODD = ["", " ", "ΩΩΩ", "\x00", "\ud800", "🙂", "hello?", "退" * 5_000, "x" * 20_000, "a b " * 5_000]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact of the form. Read only."""
    folder = tmp_path_factory.mktemp("encoder") / "artifact"
    write_artifact(folder, EXAMPLES, paths=PATHS)
    return folder


@pytest.fixture
def model(encoder: Path) -> OnnxModel:
    return read_model(encoder)


def scorer_of(model: OnnxModel, labels: int = 3, **options: int) -> OnnxScorer:
    return OnnxScorer.of(model, tuple(range(1, labels + 1)), 1.0, **options)


def test_embeddings_are_those_that_numpy_computes(encoder: Path) -> None:
    scorer = OnnxScorer.load(encoder)
    held = weights()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS]
    texts = ["退货", "hi", "无法开机!", "", "手" * 100]
    # Chinese is cut into characters; of a word in letters all pieces but the first are marked as such.
    marked = {"hi": ["h", "##i"]}

    for text, embedding in zip(texts, scorer.embed(texts), strict=True):
        inside = marked.get(text, list(text))[: MAX_LENGTH - 2]
        numbers = [pieces.index(p) if p in pieces else len(pieces) + LETTERS.index(p[2:]) for p in inside]
        np.testing.assert_allclose(embedding, by_hand(held, [2, *numbers, 3]), atol=1e-5)


def test_probabilities_are_the_head_on_the_embeddings(encoder: Path) -> None:
    scorer, held, temperature = OnnxScorer.load(encoder), read_model(encoder).head, read_manifest(encoder).temperature
    texts = random_texts(50)

    logits = (scorer.embed(texts).astype(np.float64) @ held["weights"] + held["bias"]) / temperature
    odds = np.exp(logits)

    np.testing.assert_allclose(scorer.probabilities(texts), odds / odds.sum(axis=1, keepdims=True), atol=1e-9)
    np.testing.assert_array_equal(scorer.judge(scorer.embed(texts)), scorer.probabilities(texts))


def test_hidden_layer_of_a_head_is_followed_by_relu(model: OnnxModel) -> None:
    rng = np.random.default_rng(0)
    sizes = {"hidden_weights": (DIMENSION, 5), "hidden_bias": (5,), "weights": (5, 3), "bias": (3,)}
    head = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    scorer = scorer_of(replace(model, settings=replace(model.settings, head="hidden"), head=head))
    [embedding] = scorer.embed(["退货"]).astype(np.float64)

    hidden = np.maximum(embedding @ head["hidden_weights"] + head["hidden_bias"], 0.0)
    odds = np.exp(hidden @ head["weights"] + head["bias"])

    np.testing.assert_allclose(scorer.probabilities(["退货"])[0], odds / odds.sum(), atol=1e-9)


def test_a_hidden_head_is_read_as_it_was_written(model: OnnxModel, tmp_path: Path) -> None:
    sizes = {"hidden_weights": (DIMENSION, 5), "hidden_bias": (5,), "weights": (5, 3), "bias": (3,)}
    head = {name: np.full(size, 0.5, np.float32) for name, size in sizes.items()}
    written = replace(model, settings=replace(model.settings, head="hidden"), head=head)
    write_model(tmp_path, written)

    found = read_model(tmp_path)

    assert found.settings == written.settings
    assert {name: array.tolist() for name, array in found.head.items()} == {n: a.tolist() for n, a in head.items()}


def test_answers_come_in_the_order_of_the_texts_whatever_their_lengths(encoder: Path) -> None:
    scorer = load_scorer(encoder)
    texts = [*random_texts(80), *ODD, *(text for _, text, _ in EXAMPLES)]
    alone = np.vstack([scorer.probabilities([text]) for text in texts])

    np.testing.assert_allclose(scorer.probabilities(texts), alone, atol=1e-6)
    np.testing.assert_allclose(scorer.probabilities(texts[::-1]), alone[::-1], atol=1e-6)


def test_rows_are_probabilities_for_any_text(encoder: Path) -> None:
    answers = load_scorer(encoder).probabilities(ODD)

    assert answers.shape == (len(ODD), 3)
    assert answers.dtype == np.float64
    assert (answers >= 0.0).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1.0, atol=1e-12)


def test_no_texts_have_no_rows(encoder: Path) -> None:
    assert load_scorer(encoder).probabilities([]).shape == (0, 3)
    assert OnnxScorer.load(encoder).embed([]).shape == (0, DIMENSION)


def test_more_threads_give_the_same_answers(model: OnnxModel) -> None:
    texts = random_texts(64)

    np.testing.assert_allclose(
        scorer_of(model, threads=2).probabilities(texts), scorer_of(model).probabilities(texts), atol=1e-6
    )


def test_a_whole_artifact_proves_itself_and_is_the_same_twice(encoder: Path, tmp_path: Path) -> None:
    manifest = verify(encoder, digest(encoder))
    check_reference_answers(load_scorer(encoder), encoder)

    assert (manifest.recipe, manifest.scorer) == ("encoder", "onnx")
    assert {ENCODER, GRAPH, TOKENIZER, HEAD} < set(manifest.files)
    assert write_artifact(tmp_path / "again", EXAMPLES, paths=PATHS) == digest(encoder)


def test_it_learned_its_labels(encoder: Path) -> None:
    scorer = load_scorer(encoder)
    answers = scorer.probabilities([text for _, text, _ in EXAMPLES]).argmax(axis=1)

    assert [scorer.label_ids[column] for column in answers] == [label for *_, label in EXAMPLES]


def test_a_graph_that_rounds_over_its_neighbours_is_refused_unless_texts_run_alone(tmp_path: Path) -> None:
    """Dynamic int8 takes its scale over all that is run together: beside another text, a text's answer moves."""
    write_artifact(tmp_path / "together", EXAMPLES, paths=PATHS, neighbours=True)
    write_artifact(tmp_path / "alone", EXAMPLES, paths=PATHS, neighbours=True, alone=True)

    with pytest.raises(ArtifactCorrupt, match="texts beside it"):
        check_reference_answers(load_scorer(tmp_path / "together"), tmp_path / "together")
    check_reference_answers(load_scorer(tmp_path / "alone"), tmp_path / "alone", tolerance=1e-12)


def test_a_dropped_scorer_is_freed_at_once(model: OnnxModel) -> None:
    gc.disable()
    try:
        scorer = scorer_of(model)
        scorer.probabilities(["退货"])
        session, itself = weakref.ref(scorer._encoder._session), weakref.ref(scorer)
        del scorer
        assert session() is None
        assert itself() is None
    finally:
        gc.enable()


def test_versions_on_one_encoder_share_it_until_the_last_is_dropped(model: OnnxModel) -> None:
    first = scorer_of(model)
    other_head = {name: -array for name, array in model.head.items()}
    second = scorer_of(replace(model, head=other_head))
    assert second._encoder._session is first._encoder._session
    assert not np.allclose(first.probabilities(["退货"]), second.probabilities(["退货"]))
    session = weakref.ref(first._encoder._session)
    answers = second.probabilities(["退货"])
    del first
    assert session() is not None
    np.testing.assert_array_equal(second.probabilities(["退货"]), answers)
    del second
    assert session() is None


def test_a_version_on_an_open_encoder_loads_without_reading_it(encoder: Path, model: OnnxModel, tmp_path: Path) -> None:
    """A verified artifact whose graph has the hash of one that is open: only its head is read."""
    later = tmp_path / "later"
    shutil.copytree(encoder, later)
    write_model(later, replace(model, head={name: -array for name, array in model.head.items()}))
    (later / GRAPH).unlink()
    (later / TOKENIZER).unlink()
    with pytest.raises(ArtifactCorrupt, match="missing"):
        OnnxScorer.load(later)

    first = OnnxScorer.load(encoder)
    second = OnnxScorer.load(later)

    assert second._encoder is first._encoder
    assert not np.allclose(first.probabilities(["退货"]), second.probabilities(["退货"]))


def test_a_manifest_that_names_no_graph_finds_no_open_encoder(encoder: Path, tmp_path: Path) -> None:
    first = OnnxScorer.load(encoder)
    bare = tmp_path / "bare"
    shutil.copytree(encoder, bare)
    manifest = json.loads((bare / MANIFEST).read_bytes())
    del manifest["files"][GRAPH]
    (bare / MANIFEST).write_bytes(canonical_json(manifest))
    (bare / GRAPH).write_bytes(b"no graph")
    with pytest.raises(ArtifactCorrupt):
        OnnxScorer.load(bare)
    assert first.probabilities(["退货"]).shape == (1, 3)


def test_what_differs_in_bytes_settings_or_threads_is_another_encoder(model: OnnxModel) -> None:
    first = scorer_of(model)
    others = [
        scorer_of(replace(model, graph=graph(weights(seed=1)).SerializeToString())),
        scorer_of(replace(model, settings=replace(model.settings, max_length=model.settings.max_length - 1))),
        scorer_of(model, threads=2),
    ]
    assert len({id(one._encoder._session) for one in (first, *others)}) == 4


# What is no encoder.


def test_encoder_that_gives_no_number_is_refused_and_never_answers(model: OnnxModel) -> None:
    held = weights()
    # Only one letter of the vocabulary is poisoned: the edges that are tried at the load do not meet it.
    held.tokens[4 + LETTERS.index("z")] = np.nan
    scorer = scorer_of(replace(model, graph=graph(held).SerializeToString()))
    with pytest.raises(ValueError, match="not a number"):
        scorer.probabilities(["z"])

    held.tokens[:] = np.inf
    with pytest.raises(ArtifactCorrupt):
        scorer_of(replace(model, graph=graph(held).SerializeToString()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a tokenizer"),
        (b"{}", "not a tokenizer"),
        (b"\xff\xfe", "not a tokenizer"),
        (b"[" * 100_000, "not a tokenizer"),
        (tokenizer()[:-100], "not a tokenizer"),
        (tokenizer().replace(b'"WordPiece"', b'"Oracle"'), "not a tokenizer"),
    ],
    ids=["empty", "no fields", "no UTF-8", "deep", "truncated", "unknown kind"],
)
def test_a_file_that_is_no_tokenizer_is_refused(model: OnnxModel, content: bytes, said: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=said):
        scorer_of(replace(model, tokenizer=content))


def without_ends(document: dict[str, Any]) -> None:
    document["post_processor"] = None


def with_a_token_beyond_the_graph(document: dict[str, Any]) -> None:
    document["model"]["vocab"]["☃"] = 10_000


@pytest.mark.parametrize("change", [without_ends, with_a_token_beyond_the_graph], ids=lambda change: change.__name__)
def test_a_tokenizer_that_does_not_fit_the_graph_is_refused(
    model: OnnxModel, change: Callable[[dict[str, Any]], None]
) -> None:
    document = json.loads(tokenizer())
    change(document)
    with pytest.raises(ArtifactCorrupt, match=r"no token|cannot be run"):
        scorer_of(replace(model, tokenizer=json.dumps(document).encode()))


def test_a_length_beyond_the_graph_is_refused_at_the_load(model: OnnxModel) -> None:
    """Otherwise only the first long question would find out."""
    with pytest.raises(ArtifactCorrupt, match="cannot be run"):
        scorer_of(replace(model, settings=replace(model.settings, max_length=MAX_LENGTH + 1)))


def test_an_embedding_of_another_size_is_refused(model: OnnxModel) -> None:
    head = {"weights": np.zeros((8, 3), np.float32), "bias": np.zeros(3, np.float32)}
    with pytest.raises(ArtifactCorrupt, match="one embedding"):
        scorer_of(replace(model, settings=replace(model.settings, dimension=8), head=head))


def test_a_head_with_another_number_of_labels_is_refused(encoder: Path, model: OnnxModel) -> None:
    with pytest.raises(ArtifactCorrupt, match="one column for each label"):
        scorer_of(model, labels=4)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("weights", np.zeros((DIMENSION + 1, 3), np.float32)),
        ("weights", np.zeros((DIMENSION, 2), np.float32)),
        ("weights", np.full((DIMENSION, 3), np.nan, np.float32)),
        ("weights", np.zeros((DIMENSION, 3), np.float64)),
        ("bias", np.zeros((3, 1), np.float32)),
        ("hidden_bias", np.zeros(3, np.float32)),
    ],
    ids=["rows", "columns", "not a number", "double", "two dimensions", "surplus"],
)
def test_a_head_that_no_training_writes_is_refused(
    model: OnnxModel, tmp_path: Path, name: str, array: np.ndarray
) -> None:
    write_model(tmp_path, replace(model, head={**model.head, name: array}))
    with pytest.raises(ArtifactCorrupt, match=HEAD):
        read_model(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 1},
        {"max_length": 513},
        {"max_length": 8.0},
        {"max_length": True},
        {"dimension": 0},
        {"dimension": 10**9},
        {"alone": "no"},
        {"head": "oracle"},
        {"head": ["linear"]},
        {"surplus": 1},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_settings_that_no_training_writes_are_refused(
    model: OnnxModel, tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_model(tmp_path, model)
    document = json.loads((tmp_path / ENCODER).read_bytes())
    (tmp_path / ENCODER).write_text(json.dumps(document | changes))
    with pytest.raises(ArtifactCorrupt, match=ENCODER):
        read_model(tmp_path)


def test_settings_may_not_be_left_out(model: OnnxModel, tmp_path: Path) -> None:
    write_model(tmp_path, model)
    (tmp_path / ENCODER).write_text("{}")
    with pytest.raises(ArtifactCorrupt, match=ENCODER):
        read_model(tmp_path)


def test_settings_are_read_as_they_were_written(model: OnnxModel, tmp_path: Path) -> None:
    told = settings(alone=True, precision="int8")
    write_model(tmp_path, replace(model, settings=told))
    assert read_model(tmp_path).settings == told
