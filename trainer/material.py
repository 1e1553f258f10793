"""What every recipe trains on, and what every artifact says about where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from app.artifacts.base_models import BaseModel, BaseModelUnusable, describe
from app.intent.arrays import FloatArray, IntArray
from app.intent.text import NORMALISER_VERSION
from app.scorers.artifact import LINEAGE, OutOfFold, canonical_json, write_out_of_fold
from trainer.spec import Example, Label, Spec, SpecInvalid

MIN_TEXTS_PER_LABEL = 2


@dataclass(frozen=True, slots=True)
class Material:
    """The examples of the labels that have enough of them.

    Args:
        label_ids: ascending; the columns of every matrix of probabilities.
        examples: by text id.
        targets: shape (n_examples,), the column of each example's label.
    """

    label_ids: tuple[int, ...]
    examples: tuple[Example, ...]
    targets: IntArray

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of `examples`."""
        return [example.text for example in self.examples]


def material_of(spec: Spec, *, from_elsewhere: Sequence[int] = ()) -> Material:
    """What of the spec can be trained on.

    `from_elsewhere`: labels that stay as long as the taxonomy has them, also without texts.

    Raises:
        SpecInvalid: fewer than two labels have `MIN_TEXTS_PER_LABEL` texts.
    """
    counts = Counter(example.label for example in spec.examples)
    label_ids = tuple(label.id for label in spec.labels if counts[label.id] >= MIN_TEXTS_PER_LABEL)
    if len(label_ids) < 2:
        raise SpecInvalid(
            f"training needs two labels with at least {MIN_TEXTS_PER_LABEL} texts each; "
            f"the {len(spec.examples)} examples have {len(label_ids)}"
        )
    kept = {*label_ids, *from_elsewhere}
    label_ids = tuple(label.id for label in spec.labels if label.id in kept)
    examples = tuple(example for example in spec.examples if example.label in kept)
    targets = np.searchsorted(label_ids, [example.label for example in examples]).astype(np.int64)
    return Material(label_ids, examples, targets)


def base_of(spec: Spec) -> BaseModel:
    """The pretrained model that the spec names. Reads every byte of it, for its hash.

    Raises:
        SpecInvalid: it names none, or nothing can be trained from what lies there.
    """
    if spec.base is None:
        raise SpecInvalid(
            f"the recipe {spec.recipe!r} starts from a base model and the domain names none: set its base_model"
        )
    try:
        return describe(spec.base.name, spec.base.folder)
    except BaseModelUnusable as error:
        raise SpecInvalid(str(error)) from error


def write_evidence(
    out: Path,
    material: Material,
    probabilities: FloatArray,
    rows: IntArray | None = None,
    *,
    trained_on: Sequence[int] | None = None,
) -> None:
    """Write which texts the artifact was trained on, and what models that had not seen a text said about it.

    Args:
        probabilities: calibrated, shape (n_rows, n_labels).
        rows: the examples that were left out of training once; all of them without it.
        trained_on: text ids, where they are not all of the material.
    """
    text_ids = np.array([example.text_id for example in material.examples], dtype=np.int64)
    labels = np.array(material.label_ids, dtype=np.int64)[material.targets]
    asked = np.arange(len(text_ids)) if rows is None else rows
    write_out_of_fold(out, OutOfFold(text_ids[asked], labels[asked], probabilities))
    lineage = text_ids.tolist() if trained_on is None else sorted(trained_on)
    (out / LINEAGE).write_bytes(canonical_json({"text_ids": lineage}))


def facts_of(
    spec: Spec, material: Material, config: Mapping[str, Any], temperature: float, libraries: Sequence[str]
) -> dict[str, Any]:
    """The manifest's facts that do not depend on the recipe. `libraries`: whose versions can change the result."""
    per_label = Counter(example.label for example in spec.examples)
    known = set(material.label_ids)

    def shown(labels: Sequence[Label]) -> list[dict[str, Any]]:
        return [{"id": label.id, "path": label.path, "texts": per_label[label.id]} for label in labels]

    return {
        "recipe": spec.recipe,
        "config": dict(config),
        "seed": spec.seed,
        "labels": shown([label for label in spec.labels if label.id in known]),
        "left_out_labels": shown([label for label in spec.labels if label.id not in known]),
        "counts": {
            "texts": len(material.examples),
            "left_out_texts": len(spec.examples) - len(material.examples),
        },
        "temperature": temperature,
        "normaliser_version": NORMALISER_VERSION,
        "taxonomy_digest": spec.taxonomy_digest,
        "items_digest": spec.items_digest,
        "code_revision": _installed_version("intentloop"),
        "libraries": {name: _installed_version(name) for name in libraries},
    }


def _installed_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
