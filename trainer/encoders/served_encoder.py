"""The encoder of a base model as it will be served: exported once, then kept beside the domain's embeddings."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.artifacts.training_cache import ENCODERS
from app.scorers.artifact import ArtifactCorrupt, canonical_json, read_document
from app.scorers.onnx_encoder import ENCODER, GRAPH, TOKENIZER, EncoderSettings, read_contents, read_settings
from trainer.material import base_of
from trainer.spec import Progress, Spec

REPORT = "report.json"
# What a config may ask for: `auto` is the fastest form that answers as fp32 does.
PRECISIONS = ("auto", "fp32")
# Grows when the same base would be exported otherwise: what older code kept is then made anew.
EXPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ServedEncoder:
    """A graph, how it is asked, the tokenizer, and what is known about where they come from.

    Args:
        facts: for the manifest: the base by name and hash, and what was measured when the graph was chosen.
    """

    settings: EncoderSettings
    graph: bytes
    tokenizer: bytes
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Everything that an embedding depends on: graph, tokenizer and length."""
        told = canonical_json(asdict(self.settings))
        return hashlib.sha256(b"\0".join((self.graph, self.tokenizer, told))).hexdigest()


Make = Callable[[Path, Progress], ServedEncoder]


def encoder_of(spec: Spec, make: Make, report: Progress, *, max_length: int, pooling: str | None) -> ServedEncoder:
    """The spec's base as it is served: what an earlier batch made of it, or made now.

    Args:
        make: from the base's folder to a served encoder. Needs torch, and takes from half a minute to some minutes.

    Raises:
        SpecInvalid: the domain names no base, or nothing can be trained from it.
    """
    base = base_of(spec)
    key = hashlib.sha256(f"{base.digest}/{max_length}/{pooling}/{EXPORT_VERSION}".encode()).hexdigest()
    place = spec.cache / ENCODERS / key if spec.cache is not None else None
    named = {"base": {"name": base.name, "digest": base.digest, "kind": base.kind}}
    if place is not None and (kept := _read(place)) is not None:
        return ServedEncoder(kept.settings, kept.graph, kept.tokenizer, {**kept.facts, **named})
    made = make(base.folder, report)
    if place is not None:
        _write(place, made)
    return ServedEncoder(made.settings, made.graph, made.tokenizer, {**made.facts, **named})


def _read(place: Path) -> ServedEncoder | None:
    """What is kept. Damage is as none: it can be made again."""
    try:
        report = read_document(place / REPORT)
        settings = read_settings(place)
        graph, tokenizer = read_contents(place)
        found = ServedEncoder(settings, graph, tokenizer, report["facts"])
        return found if found.digest == report["digest"] else None
    except (ArtifactCorrupt, OSError, TypeError, KeyError):
        return None


def _write(place: Path, made: ServedEncoder) -> None:
    beside = place.with_name(f".{place.name}-{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    (beside / ENCODER).write_bytes(canonical_json(asdict(made.settings)))
    (beside / GRAPH).write_bytes(made.graph)
    (beside / TOKENIZER).write_bytes(made.tokenizer)
    (beside / REPORT).write_bytes(canonical_json({"digest": made.digest, "facts": dict(made.facts)}))
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)
