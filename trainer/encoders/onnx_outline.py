"""Ask an ONNX graph who makes and who reads its values, and throw away what nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of ONNX Runtime's own operators; its release 1 is the only one.
OWN_DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Outline:
    """The nodes of a graph by the values between them, and its constants, which are read when they are asked for."""

    makers: dict[str, Any]
    readers: dict[str, list[Any]]
    constants: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> Outline:
        """Of an `onnx.ModelProto`, as it is now."""
        makers = {name: node for node in model.graph.node for name in node.output}
        readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return cls(makers, readers, {tensor.name: tensor for tensor in model.graph.initializer})

    def maker(self, value: str, kind: str) -> Any | None:
        """The node that makes a value, if it is of this kind."""
        node = self.makers.get(value)
        return node if node is not None and node.op_type == kind else None

    def only_reader(self, value: str, kind: str) -> Any | None:
        """The node that reads a value, if there is one alone and it is of this kind."""
        nodes = self.readers.get(value, [])
        return nodes[0] if len(nodes) == 1 and nodes[0].op_type == kind else None

    def constant(self, value: str) -> NDArray[Any] | None:
        """A value that is stored in the graph."""
        from onnx import numpy_helper

        tensor = self.constants.get(value)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def shape(self, value: str) -> tuple[int, ...]:
        """Of a stored value; () where it is not stored."""
        tensor = self.constants.get(value)
        return () if tensor is None else tuple(tensor.dims)

    def last_length(self, shape: str) -> int | None:
        """The last number of a shape that is stored, or put together with a stored end."""
        joined = self.maker(shape, "Concat")
        numbers = self.constant(joined.input[-1] if joined is not None else shape)
        return int(numbers.reshape(-1)[-1]) if numbers is not None and numbers.size else None

    @staticmethod
    def attribute(node: Any, name: str) -> Any:
        """One of a node's attributes, None where it has none of this name."""
        from onnx import helper

        return next((helper.get_attribute_value(held) for held in node.attribute if held.name == name), None)


def keep_what_is_used(model: Any, nodes: Iterable[Any]) -> None:
    """Make `nodes` the graph's own, in their order, less those that lead to no output, with the constants they read."""
    from onnx import helper

    wanted = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    # Copied before they are dropped: the graph owns the memory.
    kept, constants = [_copy(node) for node in reversed(kept)], [_copy(tensor) for tensor in constants]
    for field, values in ((model.graph.node, kept), (model.graph.initializer, constants)):
        del field[:]
        field.extend(values)
    # What it says about values that are gone would be wrong.
    del model.graph.value_info[:]
    if OWN_DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(OWN_DOMAIN, 1))


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
