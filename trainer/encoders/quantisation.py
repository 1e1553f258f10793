"""Make the graph that is served from an exported one: attention as one operator, integers of eight bits, and proof.

Integers need a scale for what they stand for. One that is found at every run over all texts of a batch makes an answer
depend on its neighbours, so that the forms with integers run each text by itself (`EncoderSettings.alone`): their
answers are then the same in any company by construction, and there is no padding to compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.scorers.artifact import ArtifactCorrupt
from app.scorers.onnx_encoder import INPUTS, OUTPUT
from app.scorers.onnx_graph import check_graph
from trainer.encoders.attention_fusion import forget_padding, fuse_attention
from trainer.encoders.integer_products import use_integers

# The fastest first, as measured with MiniLM on one thread: 6.0, 5.1 and 2.9 times as fast as torch at one text a run.
PRECISIONS: Final = ("int8", "int8-by-token", "fp32")
# Between the graph as exported and with fused attention, of one number, as a share of the largest.
MOST_DIFFERENCE: Final = 1e-5
_TEXTS: Final = 3


class CannotQuantise(Exception):
    """The graph has nothing that could run on integers, or what came out cannot be run. The message says which."""


@dataclass(frozen=True, slots=True)
class Served:
    """A graph as it will be served.

    Args:
        graph: a self-contained ONNX file.
        alone: each text must be a run of its own, as `EncoderSettings.alone` says to the scorer.
        precision: one of `PRECISIONS`.
    """

    graph: bytes
    alone: bool
    precision: str


def fused(graph: bytes, *, max_length: int) -> bytes:
    """The graph with its attention as one operator, or `graph` itself where that cannot be or answers otherwise.

    Args:
        graph: fp32, as `trainer.encoders.onnx_export` writes it.
        max_length: tokens of the longest text that will be read; the answers are compared up to there.
    """
    import onnx

    model = onnx.load_from_string(graph)
    if not fuse_attention(model):
        return graph
    rewritten: bytes = model.SerializeToString(deterministic=True)
    return rewritten if _same_answers(graph, rewritten, max_length) else graph


def quantise(graph: bytes, precision: str = PRECISIONS[0]) -> Served:
    """The graph in one of `PRECISIONS`. The same bytes in give the same bytes out.

    Raises:
        CannotQuantise: no product in it has a stored matrix, or the result is not a graph that can be served.
    """
    import onnx

    if precision not in PRECISIONS:
        raise ValueError(f"there is no precision {precision!r}; there are: {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return Served(graph, alone=False, precision=precision)
    model = onnx.load_from_string(graph)
    if not use_integers(model, by_token=precision == "int8-by-token"):
        raise CannotQuantise("the graph has no product with a stored matrix")
    forget_padding(model)
    rewritten: bytes = model.SerializeToString(deterministic=True)
    try:
        check_graph(rewritten)
        ids, mask = next(_samples(graph, 1))
        found = _ask(rewritten, ids[:1], mask[:1])
    except ArtifactCorrupt as error:
        raise CannotQuantise(f"the graph with integers cannot be served: {error}") from error
    except Exception as error:  # onnxruntime's errors share no class of their own.
        raise CannotQuantise(f"the graph with integers cannot be run ({type(error).__name__})") from error
    if not np.isfinite(found).all():
        raise CannotQuantise("the graph with integers gives something that is not a number")
    return Served(rewritten, alone=True, precision=precision)


def _same_answers(graph: bytes, rewritten: bytes, max_length: int) -> bool:
    """Ask both at several lengths, with padding: a mask that is read otherwise shows only there."""
    try:
        check_graph(rewritten)
        for ids, mask in _samples(graph, max_length):
            expected, found = _ask(graph, ids, mask), _ask(rewritten, ids, mask)
            most = MOST_DIFFERENCE * max(1e-6, float(np.abs(expected).max()))
            if expected.shape != found.shape or not np.abs(expected - found).max() <= most:
                return False
    except Exception:  # A graph that cannot be run is not the same one, whatever the runtime says about it.
        return False
    return True


def _samples(graph: bytes, max_length: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Token ids and masks, shape (n_texts, n_tokens): whole texts, halves of them, and single tokens side by side."""
    rng = np.random.default_rng(0)
    size = _vocabulary(graph)
    for length in sorted({1, 2, min(13, max_length), max_length}):
        ids = rng.integers(size, size=(_TEXTS, length))
        mask = np.ones_like(ids)
        mask[1, max(1, length // 2) :] = 0
        mask[2, 1:] = 0
        yield ids * mask, mask


def _vocabulary(graph: bytes) -> int:
    """How many tokens the graph knows: the rows of the tables that the token ids look into."""
    import onnx

    model = onnx.load_from_string(graph)
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    tables = [node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[1] == INPUTS[0]]
    return min((rows[table] for table in tables if table in rows), default=2)


def _ask(graph: bytes, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))[0]
    return answer
