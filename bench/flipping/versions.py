"""Versions that answer every question with a label of their own: an answer shows which artifact gave it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app.artifacts.folder import publish
from app.db.session import UnitOfWork
from app.db.tables import ModelVersion
from app.intent.ngram_features import BLOCKS, FeatureSettings
from app.intent.taxonomy import parse_taxonomy
from app.scorers import load_scorer
from app.scorers.artifact import LINEAGE, canonical_json, digest, read_manifest, seal, write_references
from app.scorers.ngram import NgramModel, write_model
from app.scorers.onnx import OnnxModel
from app.scorers.onnx import write_model as write_onnx_model
from app.services import domains, taxonomy
from app.services.domains import DEFAULT

# Above every answer of these, so that each is an answer.
THRESHOLD = 0.5

# Writes a model that answers from its bias into a folder; what its manifest says of it.
Write = Callable[[Path, NDArray[np.float32]], Mapping[str, str]]


def register(work: UnitOfWork, store: Path, folder: Path, count: int, write: Write) -> Mapping[str, str]:
    """So many versions, none of them active; by the name of each the one label that it ever answers."""
    labels = [f"signature {number:02d}" for number in range(count)]
    ids = work(_take_labels, labels)
    store.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, label in enumerate(labels):
        artifact = constant_artifact(folder / f"version-{number}", dict(zip(labels, ids, strict=True)), label, write)
        published = publish(artifact, store)
        found[work(_register, number + 1, published, read_manifest(store / published).recipe)] = label
    return found


def write_ngram(folder: Path, bias: NDArray[np.float32]) -> Mapping[str, str]:
    """A real `ngram` model without features."""
    model = NgramModel(
        settings=FeatureSettings(),
        vocabulary=dict.fromkeys(BLOCKS, ()),
        block_weights=dict.fromkeys(BLOCKS, 1.0),
        document_weights=np.zeros(0, dtype=np.float32),
        weights=np.zeros((0, len(bias)), dtype=np.float32),
        bias=bias,
    )
    write_model(folder, model)
    return {"recipe": "ngram"}


def head_on_minilm() -> Write:
    """As recipe `head` is served: MiniLM in int8, which is run for every text, and a head that does not look at it.

    Raises:
        CannotRun: a package or the weights are missing.
    """
    from bench import minilm
    from trainer.encoders.quantisation import fused, quantise

    base = minilm.backbone()
    encoding = minilm.encoding_of(base)
    served = quantise(fused(minilm.exported(base), max_length=minilm.MAX_LENGTH))

    def write(folder: Path, bias: NDArray[np.float32]) -> Mapping[str, str]:
        head = {"weights": np.zeros((base.dimension, len(bias)), dtype=np.float32), "bias": bias}
        write_onnx_model(folder, OnnxModel(encoding.settings(served), served.graph, base.tokenizer, head))
        return {"recipe": "head", "scorer": "onnx"}

    return write


def constant_artifact(folder: Path, label_ids: Mapping[str, int], answer: str, write: Write = write_ngram) -> Path:
    """A real artifact that answers from its bias, whatever is asked."""
    folder.mkdir(parents=True)
    told = write(folder, np.array([6.0 if label == answer else 0.0 for label in label_ids], dtype=np.float32))
    (folder / LINEAGE).write_bytes(canonical_json({"text_ids": []}))
    facts = {
        **told,
        "labels": [{"id": label_id, "path": label} for label, label_id in label_ids.items()],
        "left_out_labels": [],
        "temperature": 1.0,
        "counts": {"texts": 0},
        "taxonomy_digest": "",
        "items_digest": "",
        "answers": answer,
    }
    seal(folder, facts)
    write_references(folder, load_scorer(folder), ["你好", "hello", "12345"])
    (folder / "manifest.json").unlink()
    seal(folder, facts)
    return folder


def swap_bytes(store: Path, ours: str, theirs: str) -> None:
    """Put the whole artifact of another version in the place of this one: it loads, and answers as another."""
    shutil.rmtree(store / ours)
    shutil.copytree(store / theirs, store / ours)
    if digest(store / ours) == ours:
        raise AssertionError("the two artifacts are the same")


def _take_labels(session: Session, labels: list[str]) -> list[int]:
    found = taxonomy.replace(session, domains.locked(session, DEFAULT), parse_taxonomy(labels))
    by_path = {label.path: label.id for label in found}
    return [by_path[label] for label in labels]


def _register(session: Session, number: int, artifact_digest: str, recipe: str) -> str:
    version = ModelVersion(
        domain_id=domains.find(session, DEFAULT).id,
        version=f"{DEFAULT}-v{number}",
        recipe=recipe,
        model_path=artifact_digest,
        artifact_digest=artifact_digest,
        status="passed",
        evaluation={},
        threshold=THRESHOLD,
    )
    session.add(version)
    session.flush()
    return version.version
