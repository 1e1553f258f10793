"""Run an encoder in ONNX form: texts in, embeddings out; versions that stand on the same encoder share it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from app.scorers.artifact import ArtifactCorrupt, Manifest, read_content, read_document
from app.scorers.onnx_graph import check_graph
from app.scorers.padding import runs

ENCODER = "encoder.json"
GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"

# The graph's own names: token ids and mask of shape (n_texts, n_tokens) in, embeddings (n_texts, dimension) out.
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"

MAX_TOKENIZER_BYTES = 64 * 2**20
MOST_LENGTH = 512
MOST_DIMENSION = 16_384


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How the graph is to be asked.

    Args:
        max_length: tokens of a text that are read, 2 to 512; the rest is cut off.
        dimension: numbers in one embedding.
        alone: each text is a run of its own. For graphs whose answer to a text depends on its neighbours, as with
            int8 whose scale is taken over all that is run together.
        precision: of the graph's weights, for people: `fp32`, `int8`.
        head: the kind of head that stands on it.
    """

    max_length: int
    dimension: int
    alone: bool
    precision: str
    head: str = "linear"


def read_settings(folder: Path) -> EncoderSettings:
    """The settings in `encoder.json`.

    Raises:
        ArtifactCorrupt: it holds none that a training writes.
    """
    try:
        settings = EncoderSettings(**read_document(folder / ENCODER))
    except TypeError as error:
        raise ArtifactCorrupt(f"{ENCODER} does not hold the settings of an encoder") from error
    lengths = ((settings.max_length, 2, MOST_LENGTH), (settings.dimension, 1, MOST_DIMENSION))
    if not all(type(value) is int and low <= value <= high for value, low, high in lengths):
        raise ArtifactCorrupt(f"{ENCODER} holds a length that no training writes")
    if type(settings.alone) is not bool or type(settings.precision) is not str:
        raise ArtifactCorrupt(f"{ENCODER} names a way of running that this service does not know")
    return settings


class OnnxEncoder:
    """A graph and its tokenizer, proved to fit together. Safe to ask from several threads; freed when it is dropped."""

    def __init__(self, settings: EncoderSettings, graph: bytes, tokenizer: bytes, *, threads: int = 1) -> None:
        """`threads`: how many compute one run.

        Raises:
            ArtifactCorrupt: graph, tokenizer and settings are none, or do not belong together.
        """
        check_graph(graph)
        self._settings = settings
        self._tokenizer = _open_tokenizer(tokenizer, settings.max_length)
        self._session = _open_session(graph, threads)
        self._all_count = np.ones((1, settings.max_length), dtype=np.int64)
        self._check_bounds()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings, shape (n_texts, dimension), in the order of `texts`.

        Raises:
            ValueError: the graph gave something that is not a number.
        """
        tokens = self._tokens(texts)
        embeddings = np.empty((len(texts), self._settings.dimension), dtype=np.float32)
        if self._settings.alone:
            for position, ids in enumerate(tokens):
                embeddings[position] = self._run_alone(ids)
        else:
            for run in runs([len(ids) for ids in tokens]):
                embeddings[run] = self._run([tokens[position] for position in run])
        if not np.isfinite(embeddings).all():
            raise ValueError("the encoder gave something that is not a number")
        return embeddings

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        # Half of a surrogate pair has no UTF-8, which the tokenizer needs.
        whole = [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(whole)]

    def _run(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        longest = max(map(len, tokens))
        token_ids = np.zeros((len(tokens), longest), dtype=np.int64)
        mask = np.zeros_like(token_ids)
        for row, ids in enumerate(tokens):
            token_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        answer: NDArray[np.float32] = self._session.run([OUTPUT], {INPUTS[0]: token_ids, INPUTS[1]: mask})[0]
        return answer

    def _run_alone(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Of one text, shape (1, dimension): with as little around the run as can be, for its cost is a tenth of it."""
        token_ids = np.array([ids], dtype=np.int64)
        given = {INPUTS[0]: token_ids, INPUTS[1]: self._all_count[:, : len(ids)]}
        answer: NDArray[np.float32] = self._session.run([OUTPUT], given)[0]
        return answer

    def _check_bounds(self) -> None:
        """Run what lies at the edges: the empty text, and the longest text made of the last token."""
        [empty] = self._tokens([""])
        if not empty:
            raise ArtifactCorrupt(f"{TOKENIZER} gives an empty text no token")
        longest = [max(self._tokenizer.get_vocab(True).values())] * self._settings.max_length
        # A graph that is made for one text a run need not know what padding is.
        asked = ([empty], [longest]) if self._settings.alone else ([empty], [longest, empty])
        try:
            for rows in asked:
                answer = self._run(rows)
                shape = (len(rows), self._settings.dimension)
                if answer.shape != shape or not np.isfinite(answer).all():
                    raise ArtifactCorrupt(f"{GRAPH} does not give one embedding of {ENCODER}'s size for each text")
        except ArtifactCorrupt:
            raise
        except Exception as error:  # onnxruntime's errors share no class of their own.
            raise ArtifactCorrupt(f"{GRAPH} cannot be run on what {TOKENIZER} gives ({_kind(error)})") from error


# By all that an embedding depends on. Gone with the last scorer that holds it.
_Key = tuple[str, str, EncoderSettings, int]
_open: WeakValueDictionary[_Key, OnnxEncoder] = WeakValueDictionary()


def shared_encoder(settings: EncoderSettings, graph: bytes, tokenizer: bytes, *, threads: int = 1) -> OnnxEncoder:
    """The encoder of these bytes: the one that is open in this process, or opened now.

    Versions on the same frozen encoder share it, so that memory holds one graph however many of them are loaded.

    Raises:
        ArtifactCorrupt: graph, tokenizer and settings are none, or do not belong together.
    """
    key = _key(settings, hashlib.sha256(graph).hexdigest(), hashlib.sha256(tokenizer).hexdigest(), threads)
    known = _open.get(key)
    if known is None:
        known = _open[key] = OnnxEncoder(settings, graph, tokenizer, threads=threads)
    return known


def load_encoder(folder: Path, manifest: Manifest, settings: EncoderSettings, *, threads: int = 1) -> OnnxEncoder:
    """The encoder of a verified artifact; its files are not read once more where it is open already.

    That is most of a flip between two heads on one encoder: the graph is some hundred times as large as the head, and
    what reads and parses it takes the processor from the requests, and leaves holes in the memory.

    Raises:
        ArtifactCorrupt: a file is damaged, or the files do not belong together.
    """
    # What is open is known by the hash of its own bytes, so a manifest that lies finds another's encoder at worst.
    graph, tokenizer = (manifest.files.get(name, (0, ""))[1] for name in (GRAPH, TOKENIZER))
    known = _open.get(_key(settings, graph, tokenizer, threads))
    if known is not None:
        return known
    return shared_encoder(settings, *read_contents(folder), threads=threads)


def read_contents(folder: Path) -> tuple[bytes, bytes]:
    """Graph and tokenizer.

    Raises:
        ArtifactCorrupt: one is missing, too large, or not a plain file.
    """
    return read_content(folder / GRAPH), read_content(folder / TOKENIZER, MAX_TOKENIZER_BYTES)


def _key(settings: EncoderSettings, graph: str, tokenizer: str, threads: int) -> _Key:
    return graph, tokenizer, replace(settings, head=""), threads


def _open_tokenizer(content: bytes, max_length: int) -> Any:
    from tokenizers import Tokenizer

    # Its own pool of threads would work beside ours on the same cores, and dies in a forked process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
    except Exception as error:  # tokenizers raises bare Exception.
        raise ArtifactCorrupt(f"{TOKENIZER} is not a tokenizer ({_kind(error)})") from error
    return tokenizer


def _open_session(graph: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes the core from the next worker.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena would keep the memory of the largest run for ever, and was no faster.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class of their own.
        raise ArtifactCorrupt(f"{GRAPH} cannot be loaded ({_kind(error)})") from error
    wanted = dict.fromkeys(INPUTS, "tensor(int64)")
    if {given.name: given.type for given in session.get_inputs()} != wanted:
        raise ArtifactCorrupt(f"{GRAPH} does not take {' and '.join(INPUTS)}")
    if {given.name: given.type for given in session.get_outputs()} != {OUTPUT: "tensor(float)"}:
        raise ArtifactCorrupt(f"{GRAPH} does not give {OUTPUT}")
    return session


def _kind(error: Exception) -> str:
    """The class alone: the message may be long, and quote what was read."""
    return type(error).__name__
