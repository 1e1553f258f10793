"""The served graph answers as the exported one does, whatever it is made of, and is the same bytes each time."""

import numpy as np
import onnx
import onnxruntime
import pytest

from app.scorers.onnx_encoder import INPUTS, OnnxEncoder
from app.scorers.onnx_graph import check_graph
from tests.pretrained import DIMENSION, bert, qwen
from trainer.encoders import integer_products
from trainer.encoders.attention_fusion import fuse_attention
from trainer.encoders.backbone import load_backbone
from trainer.encoders.graph_choice import Encoding
from trainer.encoders.onnx_export import export_graph
from trainer.encoders.quantisation import PRECISIONS, CannotQuantise, Served, fused, quantise

MAX_LENGTH = 24
TEXTS = ("", "退货", "手机开不了机", "hello", "怎么申请", "我要退货怎么申请" * 3, "地址在哪?", "充不进电")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """The graph and the tokenizer of an encoder and of a decoder."""
    folder = tmp_path_factory.mktemp("bases")
    bases = {"encoder": bert(folder / "encoder"), "decoder": qwen(folder / "decoder")}
    loaded = {name: load_backbone(base, max_length=MAX_LENGTH) for name, base in bases.items()}
    return {name: (export_graph(backbone), backbone.tokenizer) for name, backbone in loaded.items()}


def served_by(served: Served, tokenizer: bytes) -> OnnxEncoder:
    return Encoding(tokenizer, MAX_LENGTH, DIMENSION).encoder(served)


def kinds(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


def likeness(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The smallest cosine between two embeddings of one text."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / norms).min())


def test_an_encoders_attention_becomes_one_operator_with_the_same_answers(exported):
    graph, tokenizer = exported["encoder"]

    rewritten = fused(graph, max_length=MAX_LENGTH)

    assert kinds(rewritten).count("MultiHeadAttention") == kinds(graph).count("Softmax") > 0
    assert "Softmax" not in kinds(rewritten)
    before, after = (served_by(Served(g, False, "fp32"), tokenizer).embed(TEXTS) for g in (graph, rewritten))
    assert after == pytest.approx(before, abs=1e-5)


def test_a_decoder_keeps_its_attention(exported):
    graph, _ = exported["decoder"]

    assert fused(graph, max_length=MAX_LENGTH) is graph


def test_an_attention_that_looks_alike_but_answers_otherwise_is_left_as_it_is(exported):
    """What is added to the scores says more than which tokens are padding: it hides those that come later."""
    model = onnx.load_from_string(exported["encoder"][0])
    masked = next(n for n in model.graph.node if n.op_type == "Add" and "where" in n.input[1])
    hiding = onnx.numpy_helper.from_array(np.triu(np.full((MAX_LENGTH, MAX_LENGTH), -1e9, np.float32), 1), "later")
    model.graph.initializer.append(hiding)
    steps = [
        onnx.helper.make_node("Shape", [INPUTS[0]], ["length"], start=1, end=2),
        onnx.helper.make_node("Concat", ["length", "length"], ["corner"], axis=0),
        onnx.helper.make_node("Slice", ["later", "origin", "corner"], ["hidden"]),
        onnx.helper.make_node("Add", [masked.input[1], "hidden"], ["mask_and_later"]),
    ]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2, np.int64), "origin"))
    position = list(model.graph.node).index(masked)
    for step in reversed(steps):
        model.graph.node.insert(position, step)
    masked.input[1] = "mask_and_later"
    graph = model.SerializeToString()

    assert fuse_attention(onnx.load_from_string(graph)) > 0
    assert fused(graph, max_length=MAX_LENGTH) is graph


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_a_text_has_the_same_embedding_in_any_company(exported, base, precision):
    graph, tokenizer = exported[base]
    asked = served_by(quantise(fused(graph, max_length=MAX_LENGTH), precision), tokenizer)
    exact = served_by(Served(graph, False, "fp32"), tokenizer).embed(TEXTS)

    together = asked.embed(TEXTS)

    alone = np.vstack([asked.embed([text]) for text in TEXTS])
    assert np.abs(together - alone).max() <= (1e-6 if precision == "fp32" else 0.0)
    assert likeness(together, exact) > (0.99999 if precision == "fp32" else 0.99)


@pytest.mark.parametrize("precision", PRECISIONS[:2])
def test_a_graph_for_single_texts_gives_no_number_to_one_that_is_padded(exported, precision):
    served = quantise(fused(exported["encoder"][0], max_length=MAX_LENGTH), precision)
    session = onnxruntime.InferenceSession(served.graph)
    ids = np.arange(6, dtype=np.int64)[None]
    whole, padded = np.ones_like(ids), np.array([[1, 1, 1, 1, 0, 0]])

    assert np.isfinite(session.run(None, dict(zip(INPUTS, (ids, whole), strict=True)))[0]).all()
    assert not np.isfinite(session.run(None, dict(zip(INPUTS, (ids, padded), strict=True)))[0]).any()


@pytest.mark.parametrize("base", ["encoder", "decoder"])
def test_the_same_graph_gives_the_same_bytes_that_can_be_served_anywhere(exported, base):
    graph, _ = exported[base]
    for precision in PRECISIONS:
        served = quantise(fused(graph, max_length=MAX_LENGTH), precision)

        assert served == quantise(fused(graph, max_length=MAX_LENGTH), precision)
        check_graph(served.graph)
        domains = {node.domain for node in onnx.load_from_string(served.graph).graph.node}
        assert domains <= {"", "com.microsoft"}


def test_every_weight_leaves_room_for_a_sum_in_sixteen_bits(exported):
    """Two products of an input (up to 255) with a weight are added in sixteen bits where a processor has no VNNI."""
    model = onnx.load_from_string(quantise(exported["encoder"][0], "int8").graph)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [held[node.input[1]].astype(int) for node in model.graph.node if node.op_type == "MatMulInteger"]

    assert weights
    assert max(np.abs(array).max() for array in weights) * 255 * 2 < 2**15


def test_a_token_with_huge_numbers_does_not_blur_the_others_when_each_has_its_own_scale():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(16, 8)).astype(np.float32)
    rows = rng.normal(size=(1, 5, 16)).astype(np.float32)
    rows[0, 0] *= 10_000.0
    shape = ["texts", "tokens", 16]
    outline = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["given", "matrix"], ["found"])],
        "product",
        [onnx.helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("found", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )

    def worst(*, by_token: bool) -> float:
        model = onnx.helper.make_model(outline, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        assert integer_products.use_integers(model, by_token=by_token) == 1
        [found] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"given": rows})
        return float(np.abs(found[0, 1:] - rows[0, 1:] @ matrix).max())

    assert worst(by_token=True) < 0.2 < 1.0 < worst(by_token=False)


def test_a_large_table_of_embeddings_is_kept_in_eight_bits(exported, monkeypatch):
    graph, tokenizer = exported["encoder"]
    plain = quantise(graph, "int8")
    monkeypatch.setattr(integer_products, "LEAST_TABLE", 64)

    smaller = quantise(graph, "int8")

    assert len(smaller.graph) < len(plain.graph)
    ours, theirs = (served_by(served, tokenizer).embed(TEXTS) for served in (smaller, plain))
    assert likeness(ours, theirs) > 0.99


def test_a_graph_without_products_is_refused_in_a_sentence():
    given = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["a", "b"]) for name in INPUTS]
    found = onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["a", "b"])
    node = onnx.helper.make_node("Cast", [INPUTS[0]], ["sentence_embedding"], to=1)
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "none", given, [found])).SerializeToString()

    with pytest.raises(CannotQuantise, match="no product"):
        quantise(graph)
    with pytest.raises(ValueError, match="int8-by-token"):
        quantise(graph, "int4")


def test_what_cannot_be_served_after_all_is_refused_in_a_sentence(exported, monkeypatch):
    monkeypatch.setattr(integer_products, "OWN_DOMAIN", "com.elsewhere")
    with pytest.raises(CannotQuantise, match="does not come with ONNX Runtime"):
        quantise(exported["encoder"][0], "int8-by-token")
    monkeypatch.setattr(integer_products, "OWN_DOMAIN", "")
    with pytest.raises(CannotQuantise, match="cannot be run"):
        quantise(exported["encoder"][0], "int8-by-token")
