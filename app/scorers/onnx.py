"""Serve an encoder in ONNX form with a small head on its embeddings: onnxruntime and tokenizers, and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray
from app.intent.scope import ARRAYS, Scope, arrays_of, scope_of
from app.scorers.artifact import ArtifactCorrupt, canonical_json, read_arrays, read_manifest
from app.scorers.onnx_encoder import (
    ENCODER,
    GRAPH,
    TOKENIZER,
    EncoderSettings,
    OnnxEncoder,
    load_encoder,
    read_contents,
    read_settings,
    shared_encoder,
)

HEAD = "head.npz"
SCOPE = "scope.npz"
# Arrays of each kind of head; a hidden layer is followed by ReLU.
HEADS: Mapping[str, tuple[str, ...]] = {
    "linear": ("weights", "bias"),
    "hidden": ("hidden_weights", "hidden_bias", "weights", "bias"),
}


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
        ArtifactCorrupt: a file is damaged, or settings and head do not belong together.
    """
    settings = read_settings(folder)
    head, scope = _read_head(folder, settings)
    return OnnxModel(settings, *read_contents(folder), head, scope)


def _read_head(folder: Path, settings: EncoderSettings) -> tuple[Mapping[str, NDArray[np.float32]], Scope | None]:
    if settings.head not in tuple(HEADS):
        raise ArtifactCorrupt(f"{ENCODER} names a head that this service does not know")
    arrays = read_arrays(folder / HEAD, HEADS[settings.head])
    _check_head(settings, arrays)
    return arrays, _read_scope(folder, settings.dimension, len(arrays["bias"]))


def _check_head(settings: EncoderSettings, head: Mapping[str, NDArray[Any]]) -> None:
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in head.values()):
        raise ArtifactCorrupt(f"{HEAD} holds a number that no training writes")
    width = settings.dimension
    for prefix in ("hidden_", "") if settings.head == "hidden" else ("",):
        weights, bias = head[f"{prefix}weights"], head[f"{prefix}bias"]
        if bias.ndim != 1 or weights.shape != (width, bias.shape[0]):
            raise ArtifactCorrupt(f"the arrays of {HEAD} do not fit each other or the encoder")
        width = bias.shape[0]


def _read_scope(folder: Path, dimension: int, n_labels: int) -> Scope | None:
    if not (folder / SCOPE).exists():
        return None
    try:
        return scope_of(read_arrays(folder / SCOPE, ARRAYS), n_labels=n_labels, dimension=dimension)
    except ArtifactCorrupt:
        raise
    except ValueError as error:
        raise ArtifactCorrupt(f"{SCOPE} does not belong to this encoder and head: {error}") from error


class OnnxScorer:
    """Answers texts from an encoder and a head. Safe to ask from several threads; freed when it is dropped."""

    def __init__(
        self,
        encoder: OnnxEncoder,
        head: Mapping[str, NDArray[np.float32]],
        label_ids: tuple[int, ...],
        temperature: float,
        *,
        scope: Scope | None = None,
    ) -> None:
        """Of parts that fit each other but for the labels.

        Raises:
            ArtifactCorrupt: the head has not one column for each label.
        """
        if head["bias"].shape != (len(label_ids),):
            raise ArtifactCorrupt(f"{HEAD} does not have one column for each label of the manifest")
        self._encoder = encoder
        self._label_ids = label_ids
        self._temperature = temperature
        self._scope = scope
        self._head = {name: array.astype(np.float64) for name, array in head.items()}

    @classmethod
    def of(cls, model: OnnxModel, label_ids: tuple[int, ...], temperature: float, *, threads: int = 1) -> OnnxScorer:
        """A scorer of a model in memory. `threads`: how many compute one run.

        Raises:
            ArtifactCorrupt: its parts do not belong together.
        """
        encoder = shared_encoder(model.settings, model.graph, model.tokenizer, threads=threads)
        return cls(encoder, model.head, label_ids, temperature, scope=model.scope)

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> OnnxScorer:
        """Load an artifact that was verified.

        Raises:
            ArtifactCorrupt: a file is damaged, or the files do not belong together.
        """
        manifest, settings = read_manifest(folder), read_settings(folder)
        head, scope = _read_head(folder, settings)
        encoder = load_encoder(folder, manifest, settings, threads=threads)
        return cls(encoder, head, manifest.label_ids, manifest.temperature, scope=scope)

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
        return self._encoder.embed(texts)

    def judge(self, embeddings: NDArray[np.float32]) -> FloatArray:
        """The head's calibrated probabilities for embeddings, shape (n_texts, n_labels); rows sum to 1."""
        values: FloatArray = embeddings.astype(np.float64)
        if "hidden_weights" in self._head:
            values = np.maximum(values @ self._head["hidden_weights"] + self._head["hidden_bias"], 0.0)
        scaled = (values @ self._head["weights"] + self._head["bias"]) / self._temperature
        odds: FloatArray = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        answers: FloatArray = odds / odds.sum(axis=1, keepdims=True)
        return answers
