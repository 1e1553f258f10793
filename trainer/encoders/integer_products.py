"""Write a graph's products with stored matrices, and its tables of embeddings, with integers of eight bits.

A product x·W becomes  (q(x)·q(W)) · scale(x) · scale(W):  one scale for each column of W, found here, and one for x,
found at every run, either over all of x or for each row (token) by itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.encoders.onnx_outline import OWN_DOMAIN, Outline, keep_what_is_used

# Seven bits and a sign less one: 255·64·2 still fits 16 bits. With larger weights processors without VNNI saturate, and
# answer otherwise than those with it.
MOST_WEIGHT: Final = 64
# A table is only looked up, so that all of eight bits can be used.
MOST_ENTRY: Final = 127
# Smaller tables are not worth three more steps.
LEAST_TABLE: Final = 2**20
# Rounding takes a row's largest number to this, around `_MIDDLE`.
_MOST_INPUT: Final = 127
_MIDDLE: Final = 128
_TINY: Final = 1e-12


def use_integers(model: Any, *, by_token: bool) -> int:
    """Rewrite `model` in place and return how many products now run on integers.

    Args:
        by_token: each row of x has a scale of its own, as in LLM.int8() (Dettmers et al. 2022, section 2.1), so that
            one token with huge numbers, as decoders have, does not blur the others. Otherwise one scale for all of x.
    """
    outline = Outline.of(model)
    writer = _Writer(model)
    products = 0
    for node in list(model.graph.node):
        shape = outline.shape(node.input[1]) if node.op_type == "MatMul" else ()
        if len(shape) == 2 and (weights := outline.constant(node.input[1])) is not None and weights.dtype == np.float32:
            writer.product(node, weights, by_token=by_token)
            products += 1
        elif node.op_type == "Gather" and _is_table(outline, node):
            writer.look_up(node, outline.constant(node.input[0]))
        else:
            writer.nodes.append(node)
    if products:
        keep_what_is_used(model, writer.nodes)
    return products


def _is_table(outline: Outline, node: Any) -> bool:
    shape = outline.shape(node.input[0])
    table = len(shape) == 2 and shape[0] * shape[1] >= LEAST_TABLE and not outline.attribute(node, "axis")
    return table and outline.constants[node.input[0]].data_type == 1  # float32


class _Writer:
    """The new nodes in their order; an input that several products read is rounded once."""

    def __init__(self, model: Any) -> None:
        self.nodes: list[Any] = []
        self._model = model
        self._rounded: set[str] = set()

    def product(self, node: Any, weights: NDArray[np.float32], *, by_token: bool) -> None:
        """In place of `node`, the product of its first input with `weights` of shape (n_inputs, n_outputs)."""
        given, name = node.input[0], f"int8_{node.output[0]}"
        scales = _scales(weights, axis=0, most=MOST_WEIGHT)
        self._keep(f"{name}_weights", np.rint(weights / scales).astype(np.int8))
        self._keep(f"{name}_zeros", np.zeros(weights.shape[1], np.int8))
        self._keep(f"{name}_scales", scales)
        if by_token:
            self._round_by_token(given)
            stored = [f"{given}_int8", f"{name}_weights", "int8_step", f"{name}_scales", "int8_middle", f"{name}_zeros"]
            self._add("MatMulIntegerToFloat", stored, [f"{name}_product"], domain=OWN_DOMAIN)
            self._add("Mul", [f"{name}_product", f"{given}_largest"], node.output)
            return
        if given not in self._rounded:
            self._add("DynamicQuantizeLinear", [given], [f"{given}_int8", f"{given}_scale", f"{given}_zero"])
            self._rounded.add(given)
        # Standard steps, which ONNX Runtime joins to one where it can.
        stored = [f"{given}_int8", f"{name}_weights", f"{given}_zero", f"{name}_zeros"]
        self._add("MatMulInteger", stored, [f"{name}_product"])
        self._add("Cast", [f"{name}_product"], [f"{name}_cast"], to=1)
        self._add("Mul", [f"{given}_scale", f"{name}_scales"], [f"{name}_scale"])
        self._add("Mul", [f"{name}_cast", f"{name}_scale"], node.output)

    def look_up(self, node: Any, table: NDArray[np.float32] | None) -> None:
        """In place of `node`, rows of a table that has one scale for each of them."""
        assert table is not None, "a table is stored"
        rows, name = node.input[1], f"int8_{node.output[0]}"
        scales = _scales(table, axis=1, most=MOST_ENTRY)
        self._keep(f"{name}_table", np.rint(table / scales).astype(np.int8))
        self._keep(f"{name}_scales", scales)
        self._add("Gather", [f"{name}_table", rows], [f"{name}_entries"], axis=0)
        self._add("Gather", [f"{name}_scales", rows], [f"{name}_scale"], axis=0)
        self._add("Cast", [f"{name}_entries"], [f"{name}_cast"], to=1)
        self._add("Mul", [f"{name}_cast", f"{name}_scale"], node.output)

    def _round_by_token(self, given: str) -> None:
        if not self._rounded:
            self._keep("int8_step", np.float32(1.0 / _MOST_INPUT))
            self._keep("int8_middle", np.uint8(_MIDDLE))
            self._keep("int8_last", np.array([-1], dtype=np.int64))
            self._keep("int8_tiny", np.float32(_TINY))
        if given in self._rounded:
            return
        self._rounded.add(given)
        self._add("Abs", [given], [f"{given}_sizes"])
        self._add("ReduceMax", [f"{given}_sizes", "int8_last"], [f"{given}_most"], keepdims=1)
        # A row of zeros has no scale.
        self._add("Max", [f"{given}_most", "int8_tiny"], [f"{given}_largest"])
        self._add("Div", [given, f"{given}_largest"], [f"{given}_shares"])
        self._add("QuantizeLinear", [f"{given}_shares", "int8_step", "int8_middle"], [f"{given}_int8"])

    def _keep(self, name: str, array: Any) -> None:
        from onnx import numpy_helper

        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))

    def _add(self, kind: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), **attributes))


def _scales(array: NDArray[np.float32], *, axis: int, most: int) -> NDArray[np.float32]:
    """What one step stands for: of each column, shape (n_columns,), or with `axis` 1 of each row, shape (n_rows, 1)."""
    largest = np.abs(array).max(axis=axis, keepdims=axis == 1)
    scales: NDArray[np.float32] = (np.maximum(largest, _TINY) / most).astype(np.float32)
    return scales
