"""Serve an encoder in ONNX form with a small head on its embeddings: onnxruntime and tokenizers, and no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray
from app.intent.scope import ARRAYS, Scope, arrays_of, scope_of
from app.scorers.artifact import (
    ArtifactCorrupt,
    canonical_json,
    read_arrays,
    read_content,
    read_document,
    read_manifest,
)
from app.scorers.onnx_graph import check_graph
from app.scorers.padding import runs

ENCODER = "encoder.json"
GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
HEAD = "head.npz"
SCOPE = "scope.npz"

# The graph's own names: token ids and mask of shape (n_texts, n_tokens) in, embeddings (n_texts, dimension) out.
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"

MAX_TOKENIZER_BYTES = 64 * 2**20
MOST_LENGTH = 512
MOST_DIMENSION = 16_384
# Arrays of each kind of head; a hidden layer is followed by ReLU.
HEADS: Mapping[str, tuple[str, ...]] = {
    "linear": ("weights", "bias"),
    "hidden": ("hidden_weights", "hidden_bias", "weights", "bias"),
}


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How the graph is to be asked.

    Args:
        max_length: tokens of a text that are read, 2 to 512; the rest is cut off.
        dimension: numbers in one embedding.
        alone: each text is a run of its own. For graphs whose answer to a text depends on its neighbours, as with
            int8 whose scale is taken over all that is run together.
        precision: of the graph's weights, for people: `fp32`, `int8`.
        head: a key of `HEADS`.
    """

    max_length: int
    dimension: int
    alone: bool
    precision: str
    head: str = "linear"


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """Everything that turns a text into probabilities.

    Args:
        graph: the bytes of a self-contained ONNX file.
        tokenizer: the bytes of a `tokenizer.json`.
        head: the arrays that `HEADS` names, float32; `weights` has the shape (dimension or hidden, n_labels).
        scope: what it has labels for; None where nobody fitted that.
    """

    settings: EncoderSettings
    graph: bytes
    tokenizer: bytes
    head: Mapping[str, NDArray[np.float32]]
    scope: Scope | None = None


def write_model(folder: Path, model: OnnxModel) -> None:
    """Write the four files of this form, and the scope, into `folder`; the manifest then says `"scorer": "onnx"`."""
    (folder / ENCODER).write_bytes(canonical_json(asdict(model.settings)))
    (folder / GRAPH).write_bytes(model.graph)
    (folder / TOKENIZER).write_bytes(model.tokenizer)
    arrays: dict[str, Any] = {name: np.ascontiguousarray(array) for name, array in model.head.items()}
    np.savez(folder / HEAD, allow_pickle=False, **arrays)
    if model.scope is not None:
        kept: dict[str, Any] = dict(arrays_of(model.scope))
        np.savez(folder / SCOPE, allow_pickle=False, **kept)


def read_model(folder: Path) -> OnnxModel:
    """Read what `write_model` wrote.

    Raises:
        ArtifactCorrupt: a file is damaged, or the files do not belong together.
    """
    settings = _settings(read_document(folder / ENCODER))
    head = read_arrays(folder / HEAD, HEADS[settings.head])
    _check_head(settings, head)
    graph = read_content(folder / GRAPH)
    check_graph(graph)
    scope = _read_scope(folder, settings.dimension, len(head["bias"]))
    return OnnxModel(settings, graph, read_content(folder / TOKENIZER, MAX_TOKENIZER_BYTES), head, scope)


def _read_scope(folder: Path, dimension: int, n_labels: int) -> Scope | None:
    if not (folder / SCOPE).exists():
        return None
    try:
        return scope_of(read_arrays(folder / SCOPE, ARRAYS), n_labels=n_labels, dimension=dimension)
    except ArtifactCorrupt:
        raise
    except ValueError as error:
        raise ArtifactCorrupt(f"{SCOPE} does not belong to this encoder and head: {error}") from error


@dataclass(frozen=True, eq=False)
class _Encoder:
    """What makes embeddings of texts, proved to fit together."""

    tokenizer: Any
    session: Any


# Versions on the same frozen encoder share it: a flip between them then loads a head, and memory holds one graph. By
# the hash of what was read, so that other bytes are another encoder; gone with the last scorer that holds it.
_encoders: WeakValueDictionary[tuple[object, ...], _Encoder] = WeakValueDictionary()


def _key_of(model: OnnxModel, threads: int) -> tuple[object, ...]:
    settings = replace(model.settings, head="")
    return (hashlib.sha256(model.graph).digest(), hashlib.sha256(model.tokenizer).digest(), settings, threads)


class OnnxScorer:
    """Answers texts from an encoder and a head. Safe to ask from several threads; freed when it is dropped."""

    def __init__(self, model: OnnxModel, label_ids: tuple[int, ...], temperature: float, *, threads: int = 1) -> None:
        """`threads`: how many compute one run.

        Raises:
            ArtifactCorrupt: graph, tokenizer and settings do not belong together.
        """
        if model.head["bias"].shape != (len(label_ids),):
            raise ArtifactCorrupt(f"{HEAD} does not have one column for each label of the manifest")
        self._label_ids = label_ids
        self._temperature = temperature
        self._settings = model.settings
        self._scope = model.scope
        self._head = {name: array.astype(np.float64) for name, array in model.head.items()}
        self._all_count = np.ones((1, model.settings.max_length), dtype=np.int64)
        key = _key_of(model, threads)
        known = _encoders.get(key)
        self._encoder = known or _Encoder(
            _open_tokenizer(model.tokenizer, model.settings.max_length), _open_session(model.graph, threads)
        )
        self._tokenizer, self._session = self._encoder.tokenizer, self._encoder.session
        if known is None:
            self._check_bounds()
            _encoders[key] = self._encoder

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> OnnxScorer:
        """Load an artifact that was verified.

        Raises:
            ArtifactCorrupt: a file is damaged, or the files do not belong together.
        """
        manifest = read_manifest(folder)
        return cls(read_model(folder), manifest.label_ids, manifest.temperature, threads=threads)

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The label of each column of `probabilities`."""
        return self._label_ids

    @property
    def scope(self) -> Scope | None:
        """What the artifact has labels for, by embedding and probabilities."""
        return self._scope

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """Calibrated probabilities, shape (n_texts, n_labels); rows sum to 1."""
        return self.judge(self.embed(texts))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The encoder's embeddings, shape (n_texts, dimension), in the order of `texts`.

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

    def judge(self, embeddings: NDArray[np.float32]) -> FloatArray:
        """The head's calibrated probabilities for embeddings, shape (n_texts, n_labels); rows sum to 1."""
        values: FloatArray = embeddings.astype(np.float64)
        if self._settings.head == "hidden":
            values = np.maximum(values @ self._head["hidden_weights"] + self._head["hidden_bias"], 0.0)
        scaled = (values @ self._head["weights"] + self._head["bias"]) / self._temperature
        odds: FloatArray = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        answers: FloatArray = odds / odds.sum(axis=1, keepdims=True)
        return answers

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


def _settings(document: Mapping[str, Any]) -> EncoderSettings:
    try:
        settings = EncoderSettings(**document)
    except TypeError as error:
        raise ArtifactCorrupt(f"{ENCODER} does not hold the settings of an encoder") from error
    lengths = ((settings.max_length, 2, MOST_LENGTH), (settings.dimension, 1, MOST_DIMENSION))
    if not all(type(value) is int and low <= value <= high for value, low, high in lengths):
        raise ArtifactCorrupt(f"{ENCODER} holds a length that no training writes")
    if type(settings.alone) is not bool or settings.head not in tuple(HEADS):
        raise ArtifactCorrupt(f"{ENCODER} names a head or a way of running that this service does not know")
    return settings


def _check_head(settings: EncoderSettings, head: Mapping[str, NDArray[Any]]) -> None:
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in head.values()):
        raise ArtifactCorrupt(f"{HEAD} holds a number that no training writes")
    width = settings.dimension
    for prefix in ("hidden_", "") if settings.head == "hidden" else ("",):
        weights, bias = head[f"{prefix}weights"], head[f"{prefix}bias"]
        if bias.ndim != 1 or weights.shape != (width, bias.shape[0]):
            raise ArtifactCorrupt(f"the arrays of {HEAD} do not fit each other or the encoder")
        width = bias.shape[0]


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
