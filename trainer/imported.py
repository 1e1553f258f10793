"""Take a classifier that was trained elsewhere: its own answers, exported and calibrated on what is labelled here.

`encoder` goes on from it: the artifact holds its weights, and the last layer of it is the head.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from app.artifacts.base_models import BaseModelUnusable, classifier_labels, describe
from app.artifacts.measured import write_measured
from app.intent.arrays import FloatArray
from app.scorers.artifact import ArtifactCorrupt
from trainer.encoders.classifier import load_classifier
from trainer.encoders.onnx_artifact import FittedHead, encoder_alone, write_onnx_artifact
from trainer.encoders.serving_form import serve
from trainer.heads.linear_head import LinearHead
from trainer.logistic import fit_temperature, softmax
from trainer.material import Material
from trainer.spec import Example, Progress, Spec, SpecInvalid
from trainer.tuning.encoder_folder import write_for_next_step

# Of labelled texts, below which the classifier is served as it was exported.
LEAST_CHECKED = 100


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
    backbone, whole = load_classifier(spec.base.folder, max_length=config.max_length)
    own = LinearHead(whole.weights[:, columns].copy(), whole.bias[columns].copy())
    try:
        served, speed = serve(
            backbone,
            material.texts,
            material.targets,
            precision=_precision(material),
            facts={"base": {"name": base.name, "digest": base.digest, "kind": base.kind}},
            report=lambda share, stage: report(0.1 + 0.6 * share, stage),
            fit=lambda *_: lambda embeddings: softmax(own.logits(embeddings)),
        )
        report(0.7, "asking it about what is labelled")
        logits = own.logits(encoder_alone(served).embed(material.texts))
    except (ArtifactCorrupt, ValueError) as error:
        raise SpecInvalid(f"the exported classifier cannot be served: {error}") from error
    write_for_next_step(out, backbone, (), np.empty(0, dtype=np.int64))
    arrays = {"weights": own.weights, "bias": own.bias}
    digest = write_onnx_artifact(
        out,
        spec,
        material,
        served,
        FittedHead("linear", arrays, logits, None, _temperature(logits, material)),
        config=asdict(config),
        training={"imported": True},
        trained_on=(),
    )
    write_measured(out, {"speed": speed})
    return digest


def _precision(material: Material) -> str:
    """Few texts cannot tell whether another form answers as the classifier does."""
    enough = len(material.texts) >= LEAST_CHECKED and len(np.unique(material.targets)) > 1
    return "auto" if enough else "fp32"


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
    known = set(label_ids)
    examples: tuple[Example, ...] = tuple(example for example in spec.examples if example.label in known)
    targets = np.searchsorted(label_ids, [example.label for example in examples]).astype(np.int64)
    return Material(label_ids, examples, targets), [column for _, column in chosen]


def _temperature(logits: FloatArray, material: Material) -> float:
    return fit_temperature(logits, material.targets) if len(material.targets) else 1.0
