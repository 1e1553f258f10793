"""An ONNX file that reaches outside, never ends, or is none is refused, and never a crash."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from app.scorers.artifact import ArtifactCorrupt
from app.scorers.onnx_encoder import OnnxEncoder
from app.scorers.onnx_graph import MOST_PARTS, check_graph
from tests.scorers.encoders import graph, settings, tokenizer, weights

GOOD = graph(weights()).SerializeToString()


def load(content: bytes) -> OnnxEncoder:
    return OnnxEncoder(settings(), content, tokenizer())


def elsewhere(tensor: TensorProto, location: str = "/etc/passwd") -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def in_the_initializers(model: ModelProto) -> None:
    elsewhere(model.graph.initializer[0])


def by_its_name_alone(model: ModelProto) -> None:
    """Without the mark that the bytes are external."""
    entry = model.graph.initializer[1].external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def by_its_mark_alone(model: ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def constant(name: str) -> tuple[NodeProto, TensorProto]:
    node = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.zeros(4, np.float32)))
    return node, node.attribute[0].t


def in_an_attribute(model: ModelProto) -> None:
    node, tensor = constant("c")
    elsewhere(tensor)
    model.graph.node.append(node)


def in_a_branch(model: ModelProto) -> None:
    node, tensor = constant("c")
    elsewhere(tensor)
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])])
    model.graph.node.append(helper.make_node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch))


def in_a_list(model: ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    attribute = AttributeProto(name="value", type=AttributeProto.TENSORS)
    elsewhere(attribute.tensors.add())
    node.attribute.append(attribute)
    model.graph.node.append(node)


def in_a_sparse_tensor(model: ModelProto) -> None:
    elsewhere(model.graph.sparse_initializer.add().values)


def in_a_function(model: ModelProto) -> None:
    node, tensor = constant("c")
    elsewhere(tensor)
    function = helper.make_function("", "Own", [], ["c"], [node], [helper.make_opsetid("", 17)])
    model.functions.append(function)


@pytest.mark.parametrize(
    "change",
    [
        in_the_initializers,
        by_its_name_alone,
        by_its_mark_alone,
        in_an_attribute,
        in_a_branch,
        in_a_list,
        in_a_sparse_tensor,
        in_a_function,
    ],
    ids=lambda change: change.__name__,
)
def test_a_tensor_in_another_file_is_refused(change: Callable[[ModelProto], None]) -> None:
    model = graph(weights())
    change(model)
    with pytest.raises(ArtifactCorrupt, match="another file"):
        check_graph(model.SerializeToString())


def test_nothing_beside_the_artifact_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the graph names is there, with the right bytes, where the process stands."""
    model = graph(weights())
    tensor = model.graph.initializer[0]
    (tmp_path / "tokens.bin").write_bytes(tensor.raw_data)
    elsewhere(tensor, "tokens.bin")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ArtifactCorrupt, match="another file"):
        load(model.SerializeToString())


@pytest.mark.parametrize("loop", ["Loop", "Scan"])
def test_a_graph_that_may_never_end_is_refused(loop: str) -> None:
    model = graph(weights())
    model.graph.node.append(helper.make_node(loop, ["one"], ["d"]))
    with pytest.raises(ArtifactCorrupt, match="loops"):
        check_graph(model.SerializeToString())


def test_an_operator_of_somebody_else_is_refused() -> None:
    model = graph(weights())
    model.graph.node.append(helper.make_node("Gelu", ["one"], ["d"], domain="evil.example"))
    with pytest.raises(ArtifactCorrupt, match="does not come with"):
        check_graph(model.SerializeToString())


def test_an_operator_that_nobody_knows_is_refused() -> None:
    model = graph(weights())
    model.graph.node[3].op_type = "Adding"
    with pytest.raises(ArtifactCorrupt, match="cannot be loaded"):
        load(model.SerializeToString())


def test_a_tensor_that_claims_to_be_huge_is_refused() -> None:
    model = graph(weights())
    model.graph.initializer[0].dims[:] = [2**40, 2**20]
    with pytest.raises(ArtifactCorrupt, match="cannot be loaded"):
        load(model.SerializeToString())


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "sentence_embedding"])
def test_a_graph_with_other_inputs_or_outputs_is_refused(name: str) -> None:
    model = graph(weights())
    content = model.SerializeToString().replace(name.encode(), b"x" * len(name))
    with pytest.raises(ArtifactCorrupt, match="does not"):
        load(content)


def test_a_graph_with_more_parts_than_any_encoder_is_refused() -> None:
    model = graph(weights())
    content = model.SerializeToString()
    # An empty node is four bytes: tag and length in the model's field `graph`, then tag and length of the node.
    with pytest.raises(ArtifactCorrupt, match="more parts"):
        check_graph(content + b"\x3a\x02\x0a\x00" * MOST_PARTS)


def test_graphs_inside_graphs_end() -> None:
    content = b""
    for _ in range(40):
        inner = b"\x32" + _length(content) + content  # attribute.g
        attribute = b"\x2a" + _length(inner) + inner  # node.attribute
        content = b"\x0a" + _length(attribute) + attribute  # graph.node
    with pytest.raises(ArtifactCorrupt):
        check_graph(b"\x3a" + _length(content) + content)


def _length(content: bytes) -> bytes:
    size, encoded = len(content), b""
    while size >= 0x80:
        encoded += bytes([size & 0x7F | 0x80])
        size >>= 7
    return encoded + bytes([size])


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x3b", b"{}"])
def test_a_file_that_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactCorrupt):
        check_graph(content)


def test_the_good_graph_passes() -> None:
    load(GOOD)


def test_damaged_graphs_answer_or_are_refused_and_never_break_the_process() -> None:
    """No digest stands before them here: whatever loads must still be told apart by its answers."""
    draw, outcomes = random.Random(0), {"refused": 0, "loaded": 0}
    for _ in range(300):
        content = bytearray(GOOD)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        for _ in range(draw.randint(1, 4)):
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        try:
            load(bytes(content)).embed(["退货", "hello"])
        except (ArtifactCorrupt, ValueError):
            outcomes["refused"] += 1
        else:
            outcomes["loaded"] += 1
    assert outcomes["refused"] > 50
    assert outcomes["loaded"] > 50, "loaded is not correct: digest and reference answers are what finds these"
