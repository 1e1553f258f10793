"""Take a classifier that was trained elsewhere: its own answers, exported and calibrated on what is labelled here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app.artifacts.base_models import BaseModelUnusable, classifier_labels, describe
from app.intent.arrays import FloatArray
from app.scorers.artifact import ArtifactCorrupt
from app.scorers.onnx_encoder import EncoderSettings
from trainer.encoders.backbone import quiet, tokenizer_of
from trainer.encoders.onnx_artifact import FittedHead, encoder_alone, write_onnx_artifact
from trainer.encoders.onnx_export import export_graph
from trainer.encoders.served_encoder import ServedEncoder
from trainer.logistic import fit_temperature
from trainer.material import Material
from trainer.spec import Example, Progress, Spec, SpecInvalid


@dataclass(frozen=True, slots=True)
class ImportedConfig:
    """What can be said about the classifier.

    Args:
        base_model: its name, for people; the spec names the folder.
        max_length: tokens of a text that are read, 8 to 512.
    """

    base_model: str = ""
    max_length: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot be served."""
        if not 8 <= self.max_length <= 512:
            raise ValueError("max_length must lie between 8 and 512")


class Classifier(nn.Module):
    """A sequence classifier whose logits stand in for an embedding, so that it is served in the form of encoders."""

    def __init__(self, model: nn.Module, tokenizer: bytes, *, max_length: int) -> None:
        super().__init__()
        self.encoder = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask of shape (n_texts, n_tokens) to logits (n_texts, n_labels of the classifier)."""
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits


def take_in(spec: Spec, config: ImportedConfig, out: Path, report: Progress) -> str:
    """Write the classifier in the spec's base as an artifact into the empty folder `out`, and return its digest.

    Nothing is trained. The spec's examples, which may be none, only calibrate it and judge it: the classifier may have
    been trained on them, where it was made.

    Raises:
        SpecInvalid: the folder holds no such classifier, or its labels are not those of the spec.
    """
    if spec.base is None:
        raise SpecInvalid("an import needs the folder of a classifier as its base")
    try:
        base = describe(spec.base.name, spec.base.folder)
        names = classifier_labels(spec.base.folder)
    except BaseModelUnusable as error:
        raise SpecInvalid(str(error)) from error
    material, columns = _material(spec, names)
    report(0.1, "exporting the classifier")
    classifier = _load(spec.base.folder, config.max_length)
    settings = EncoderSettings(config.max_length, len(names), alone=False, precision="fp32")
    facts = {"base": {"name": base.name, "digest": base.digest, "kind": base.kind}}
    served = ServedEncoder(settings, export_graph(classifier), classifier.tokenizer, facts)
    report(0.7, "asking it about what is labelled")
    try:
        logits = encoder_alone(served).embed(material.texts).astype(np.float64)[:, columns]
    except ArtifactCorrupt as error:
        raise SpecInvalid(f"the exported classifier cannot be served: {error}") from error
    head = FittedHead("linear", _choosing(len(names), columns), logits, None, _temperature(logits, material))
    return write_onnx_artifact(
        out,
        spec,
        material,
        served,
        head,
        config={"base_model": config.base_model, "max_length": config.max_length},
        training={"imported": True},
        trained_on=(),
    )


def _material(spec: Spec, names: list[str]) -> tuple[Material, list[int]]:
    """The labels by id with the classifier's column of each, and the examples of those labels."""
    by_path = {label.path: label for label in spec.labels}
    if unknown := [name for name in names if name not in by_path]:
        raise SpecInvalid(
            f"the taxonomy has no label {unknown[0][:100]!r}, which the classifier knows ({len(unknown)} are missing): "
            "add them to it, or import with --create-labels"
        )
    chosen = sorted((by_path[name].id, column) for column, name in enumerate(names))
    label_ids = tuple(label_id for label_id, _ in chosen)
    examples: tuple[Example, ...] = tuple(example for example in spec.examples if example.label in set(label_ids))
    targets = np.searchsorted(label_ids, [example.label for example in examples]).astype(np.int64)
    return Material(label_ids, examples, targets), [column for _, column in chosen]


def _load(folder: Path, max_length: int) -> Classifier:
    from transformers import AutoModelForSequenceClassification

    with quiet():
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
            )
        except Exception as error:  # transformers, safetensors and torch raise whatever a file makes them raise.
            raise SpecInvalid(
                f"the classifier {folder.name[:100]!r} cannot be loaded ({type(error).__name__}): its files are "
                "damaged, or this release of transformers does not know its kind"
            ) from error
    # Weights that are not in the file are drawn at random: such a model answers, and knows nothing.
    if missing := sorted(loading["missing_keys"]):
        raise SpecInvalid(
            f"the folder {folder.name[:100]!r} is no classifier: {missing[0][:100]} is not in its weights"
        )
    return Classifier(model.eval(), tokenizer_of(folder), max_length=max_length)


def _choosing(n_columns: int, columns: list[int]) -> dict[str, Any]:
    """A head that only puts the classifier's columns into the order of the label ids."""
    weights = np.zeros((n_columns, len(columns)), dtype=np.float32)
    weights[columns, np.arange(len(columns))] = 1.0
    return {"weights": weights, "bias": np.zeros(len(columns), dtype=np.float32)}


def _temperature(logits: FloatArray, material: Material) -> float:
    return fit_temperature(logits, material.targets) if len(material.targets) else 1.0
