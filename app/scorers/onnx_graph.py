"""Read an ONNX file's outline without trusting it, and refuse what would reach beyond its own bytes or never end.

ONNX Runtime opens the files that a tensor names, relative to wherever the process stands. So the file is walked here
first, by its wire format alone: headers are read, the numbers of the tensors are stepped over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.scorers.artifact import ArtifactCorrupt

MOST_PARTS = 50_000
MOST_DEPTH = 16
# By kind of message: the numbers of the fields that hold further messages, from onnx.proto.
_PARTS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OP_TYPE, _DOMAIN = 4, 7
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# An encoder needs none of them, and only they can run for ever.
_LOOPS = {b"Loop", b"Scan"}
_DOMAINS = {b"", b"ai.onnx", b"com.microsoft"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_graph(content: bytes) -> None:
    """Refuse a file that names other files, loops, or asks for operators that do not come with ONNX Runtime.

    Raises:
        ArtifactCorrupt: it does, or it is not the outline of an ONNX file at all.
    """
    waiting: list[tuple[str, memoryview, int]] = [("model", memoryview(content), 0)]
    parts = graphs = 0
    while waiting:
        kind, message, depth = waiting.pop()
        parts += 1
        graphs += kind == "graph"
        if parts > MOST_PARTS or depth > MOST_DEPTH:
            raise ArtifactCorrupt("the ONNX graph has more parts than any encoder")
        for number, value in _fields(message):
            inner = _PARTS[kind].get(number)
            if inner is None:
                _check_field(kind, number, value)
            elif isinstance(value, memoryview):
                waiting.append((inner, value, depth + 1))
    if not graphs:
        raise ArtifactCorrupt("the ONNX file holds no graph")


def _check_field(kind: str, number: int, value: int | memoryview) -> None:
    if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
        raise ArtifactCorrupt("the ONNX graph keeps a tensor in another file")
    if kind == "node" and number == _OP_TYPE and bytes(_held(value)) in _LOOPS:
        raise ArtifactCorrupt("the ONNX graph loops")
    if kind == "node" and number == _DOMAIN and bytes(_held(value)) not in _DOMAINS:
        raise ArtifactCorrupt("the ONNX graph asks for an operator that does not come with ONNX Runtime")


def _held(value: int | memoryview) -> memoryview:
    if isinstance(value, int) or len(value) > 255:
        raise ArtifactCorrupt("the ONNX graph holds a name that is none")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message in their order: a number for a varint, the bytes for what has a length."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire = key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire in (_BYTES, _FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            if wire == _BYTES:
                size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise ArtifactCorrupt("the ONNX file is damaged")
        if position > len(message):
            raise ArtifactCorrupt("the ONNX file ends too early")
        yield key >> 3, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64 and position < len(message):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ArtifactCorrupt("the ONNX file is damaged")
