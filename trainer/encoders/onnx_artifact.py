"""Write an artifact of the `onnx` form: encoder, head, evidence, and the answers by which it is recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.scope import Scope
from app.scorers.artifact import seal, write_references
from app.scorers.onnx import OnnxModel, OnnxScorer, read_model, write_model
from app.scorers.onnx_encoder import OnnxEncoder, shared_encoder
from trainer.encoders.served_encoder import ServedEncoder
from trainer.logistic import softmax
from trainer.material import Material, facts_of, write_evidence
from trainer.spec import Spec

LIBRARIES = ("numpy", "scipy", "onnxruntime", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head on embeddings, and what it is worth.

    Args:
        kind: a key of `app.scorers.onnx.HEADS`, which names the `arrays`.
        logits: of models that had not seen the text, shape (n_rows, n_labels), for `rows` of the material.
        temperature: fitted on those logits.
    """

    kind: str
    arrays: Mapping[str, NDArray[np.float32]]
    logits: FloatArray
    rows: IntArray | None
    temperature: float


def encoder_alone(encoder: ServedEncoder) -> OnnxEncoder:
    """The encoder by itself, to be asked for embeddings by the code that will serve it.

    Raises:
        ArtifactCorrupt: graph, tokenizer and settings do not belong together.
    """
    return shared_encoder(encoder.settings, encoder.graph, encoder.tokenizer)


def write_onnx_artifact(
    out: Path,
    spec: Spec,
    material: Material,
    encoder: ServedEncoder,
    head: FittedHead,
    *,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    trained_on: Sequence[int] | None = None,
    scope: Scope | None = None,
) -> str:
    """Write the artifact into the folder `out` and return its digest. Other files that lie there become part of it.

    `trained_on`: text ids, where they are not all of the material. `scope`: fitted on embeddings of this very graph.
    """
    settings = replace(encoder.settings, head=head.kind)
    write_model(out, OnnxModel(settings, encoder.graph, encoder.tokenizer, head.arrays, scope))
    write_evidence(out, material, softmax(head.logits, head.temperature), head.rows, trained_on=trained_on)
    # The recorded answers come from the files as they lie there, through the scorer that will serve them.
    scorer = OnnxScorer.of(read_model(out), material.label_ids, head.temperature)
    write_references(out, scorer, spec.references)
    facts = facts_of(spec, material, config, head.temperature, LIBRARIES)
    facts |= {"scorer": "onnx", "encoder": dict(encoder.facts), "training": dict(training)}
    return seal(out, facts)
