"""The artifact folder: its manifest, its digest, and the proofs that it is whole and answers as it was trained to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.scope import Scope

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REFERENCES = "references.json"
LINEAGE = "lineage.json"
OUT_OF_FOLD = "out_of_fold.npz"

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2 * 2**30
MAX_FILES = 64
_SAFE_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class ArtifactUnusable(ValueError):
    """An artifact cannot be served here."""


class ArtifactCorrupt(ArtifactUnusable):
    """The folder is not the artifact that was registered, or it does not answer as it did when it was trained."""


class LibraryMissing(ArtifactUnusable):
    """The artifact may be whole, but what its form needs is not installed here."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"it needs {library}, which is not installed: pip install 'intentloop[{extra}]'")


class Scorer(Protocol):
    """A loaded artifact: texts in, calibrated probabilities out."""

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The label of each column of `probabilities`."""

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, n_labels), in [0, 1]; rows sum to 1. A text's row does not depend on its neighbours."""


class EmbeddingScorer(Scorer, Protocol):
    """A scorer that also tells where a text lies among others: texts whose embeddings point the same way are alike."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, dimension), in the order of `texts`; of any length, also zero for a text of nothing."""


class EncoderScorer(EmbeddingScorer, Protocol):
    """A scorer that answers from its embeddings: asked for both, the encoder need not run twice."""

    def judge(self, embeddings: NDArray[np.float32]) -> FloatArray:
        """`probabilities` of the texts with these embeddings."""


class ScopedScorer(EncoderScorer, Protocol):
    """A scorer whose artifact may know which texts it has labels for."""

    @property
    def scope(self) -> Scope | None:
        """How far out of scope a text is, by its embedding and `probabilities`; None where nobody fitted that."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact says about itself. `facts` is the whole document; the other fields are read from it."""

    recipe: str
    scorer: str
    label_ids: tuple[int, ...]
    label_paths: tuple[str, ...]
    left_out_label_ids: tuple[int, ...]
    temperature: float
    text_count: int
    taxonomy_digest: str
    items_digest: str
    files: Mapping[str, tuple[int, str]]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What models that had not seen a text said about it: the material for thresholds and fusion.

    `text_ids` and `label_ids` have shape (n,), `probabilities` (n, n_labels), calibrated, columns as `label_ids` of
    the manifest.
    """

    text_ids: IntArray
    label_ids: IntArray
    probabilities: FloatArray


def canonical_json(value: object) -> bytes:
    """One byte string for one value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8") + b"\n"


def seal(folder: Path, facts: Mapping[str, Any]) -> str:
    """Write the manifest over every file that is in `folder`, flush all to disk, and return the artifact's digest.

    `facts` needs `recipe`, `labels`, `left_out_labels`, `temperature`, `counts`, `taxonomy_digest` and `items_digest`,
    and `scorer`, the form, where it is not the recipe's own.
    """
    files = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    manifest = canonical_json({**facts, "format_version": FORMAT_VERSION, "files": files})
    parse_manifest(manifest)
    (folder / MANIFEST).write_bytes(manifest)
    for path in (*sorted(folder.iterdir()), folder):
        _flush(path)
    return hashlib.sha256(manifest).hexdigest()


def digest(folder: Path) -> str:
    """The artifact's name: SHA-256 over the bytes of its manifest, which lists the SHA-256 of every other file."""
    return hashlib.sha256(_manifest_bytes(folder)).hexdigest()


def verify(folder: Path, expected_digest: str) -> Manifest:
    """Prove that `folder` holds exactly the bytes that were registered, before anything parses them.

    Raises:
        ArtifactCorrupt: a bit differs, or a file is missing, surplus, swapped, or not a plain file.
    """
    if not _DIGEST.match(expected_digest):
        raise ArtifactCorrupt("the registered digest is not 64 hexadecimal digits")
    content = _manifest_bytes(folder)
    if hashlib.sha256(content).hexdigest() != expected_digest:
        raise ArtifactCorrupt("the manifest differs from the one that was registered")
    manifest = parse_manifest(content)
    present = {entry.name for entry in folder.iterdir()} - {MANIFEST}
    if missing := sorted(set(manifest.files) - present):
        raise ArtifactCorrupt(f"{missing[0]} is missing")
    if surplus := sorted(present - set(manifest.files)):
        raise ArtifactCorrupt(f"{surplus[0]!r} does not belong to the artifact")
    for name, (size, sha256) in manifest.files.items():
        found = _require_plain_file(folder / name, MAX_FILE_BYTES)
        if found != size:
            raise ArtifactCorrupt(f"{name} has {found} bytes instead of {size}")
        if _sha256(folder / name) != sha256:
            raise ArtifactCorrupt(f"{name} differs from the one that was registered")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest, checked for its form but not against a digest.

    Raises:
        ArtifactCorrupt: it is missing, too large, or not a manifest of this format.
    """
    return parse_manifest(_manifest_bytes(folder))


def write_references(folder: Path, scorer: Scorer, texts: Sequence[str]) -> None:
    """Record what the serving scorer answers to each of `texts`, so that every later load can be compared with it."""
    answers = [[float(p) for p in row] for row in _answers_alone(scorer, texts)]
    document = {"label_ids": list(scorer.label_ids), "texts": list(texts), "probabilities": answers}
    (folder / REFERENCES).write_bytes(canonical_json(document))


def check_reference_answers(scorer: Scorer, folder: Path, tolerance: float = 1e-4) -> None:
    """Compare the loaded scorer's answers with the recorded ones, alone and in one list. "It loaded" is not "right".

    Args:
        tolerance: largest absolute difference of a probability that still counts as the same answer.

    Raises:
        ArtifactCorrupt: labels, shape, or an answer differ, or a text's answer depends on its neighbours.
    """
    document = read_document(folder / REFERENCES)
    try:
        label_ids = tuple(int(label) for label in document["label_ids"])
        texts = [str(text) for text in document["texts"]]
        expected = np.asarray(document["probabilities"], dtype=np.float64).reshape(len(texts), len(label_ids))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{REFERENCES} does not hold reference answers") from error
    if label_ids != scorer.label_ids:
        raise ArtifactCorrupt("the scorer's labels are not those of the reference answers")
    alone, together = _answers_alone(scorer, texts), scorer.probabilities(texts)
    if alone.shape != expected.shape or together.shape != expected.shape or not np.isfinite([alone, together]).all():
        raise ArtifactCorrupt("the scorer's answers are not probabilities over the artifact's labels")
    if len(texts) and (worst := float(np.abs(alone - expected).max())) > tolerance:
        raise ArtifactCorrupt(f"a reference answer is off by {worst:.2g}, more than {tolerance:.2g}")
    if len(texts) and (worst := float(np.abs(alone - together).max())) > tolerance:
        raise ArtifactCorrupt(f"a reference answer moves by {worst:.2g} with the texts beside it")


def _answers_alone(scorer: Scorer, texts: Sequence[str]) -> FloatArray:
    rows = [scorer.probabilities([text]) for text in texts]
    return np.vstack(rows) if rows else scorer.probabilities([])


def write_out_of_fold(folder: Path, scores: OutOfFold) -> None:
    """Keep the out-of-fold probabilities, as float32."""
    np.savez(
        folder / OUT_OF_FOLD,
        allow_pickle=False,
        text_ids=scores.text_ids.astype(np.int64),
        label_ids=scores.label_ids.astype(np.int64),
        probabilities=scores.probabilities.astype(np.float32),
    )


def read_out_of_fold(folder: Path) -> OutOfFold:
    """The out-of-fold probabilities of the texts that the artifact was trained on.

    Raises:
        ArtifactCorrupt: the file is not what `write_out_of_fold` wrote.
    """
    arrays = read_arrays(folder / OUT_OF_FOLD, ("text_ids", "label_ids", "probabilities"))
    probabilities = arrays["probabilities"].astype(np.float64)
    text_ids, label_ids = arrays["text_ids"].astype(np.int64), arrays["label_ids"].astype(np.int64)
    if probabilities.ndim != 2 or text_ids.shape != label_ids.shape or text_ids.shape != probabilities.shape[:1]:
        raise ArtifactCorrupt(f"the arrays of {OUT_OF_FOLD} do not belong together")
    return OutOfFold(text_ids, label_ids, probabilities)


def read_lineage(folder: Path) -> tuple[int, ...]:
    """The ids of the texts that the artifact was trained on, ascending.

    Raises:
        ArtifactCorrupt: the file is not what the trainer wrote.
    """
    try:
        return tuple(int(text_id) for text_id in read_document(folder / LINEAGE)["text_ids"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{LINEAGE} does not list text ids") from error


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object from a plain file of bounded size.

    Raises:
        ArtifactCorrupt: it is not one.
    """
    return _json_object(read_content(path), path.name)


def read_content(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a plain file of bounded size.

    Raises:
        ArtifactCorrupt: it is not one.
    """
    _require_plain_file(path, max_bytes)
    return path.read_bytes()


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Exactly the named arrays of an .npz file. Never unpickles, never unpacks more than the file's own size.

    Raises:
        ArtifactCorrupt: it is not such a file.
    """
    size = _require_plain_file(path, MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Stored, not deflated: a small file can then not unpack to more than memory holds.
            if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
                raise ArtifactCorrupt(f"{path.name} is compressed or unpacks to more than itself")
        with np.load(path, allow_pickle=False) as stored:
            if sorted(stored.files) != sorted(names):
                raise ArtifactCorrupt(f"{path.name} does not hold the arrays of its recipe")
            return {name: stored[name] for name in names}
    except ArtifactCorrupt:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise ArtifactCorrupt(f"{path.name} cannot be read as arrays") from error


def _manifest_bytes(folder: Path) -> bytes:
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactCorrupt("the artifact is not a folder")
    _require_plain_file(folder / MANIFEST, MAX_MANIFEST_BYTES)
    return (folder / MANIFEST).read_bytes()


def parse_manifest(content: bytes) -> Manifest:
    """The manifest that these bytes are.

    Raises:
        ArtifactCorrupt: they are none of this format.
    """
    facts = _json_object(content, MANIFEST)
    if facts.get("format_version") != FORMAT_VERSION:
        raise ArtifactCorrupt(f"the manifest's format is {facts.get('format_version')!r}, not {FORMAT_VERSION}")
    try:
        manifest = Manifest(
            recipe=str(facts["recipe"]),
            # A recipe with a form of its own need not name it.
            scorer=str(facts.get("scorer", facts["recipe"])),
            label_ids=tuple(int(label["id"]) for label in facts["labels"]),
            label_paths=tuple(str(label["path"]) for label in facts["labels"]),
            left_out_label_ids=tuple(int(label["id"]) for label in facts["left_out_labels"]),
            temperature=float(facts["temperature"]),
            text_count=int(facts["counts"]["texts"]),
            taxonomy_digest=str(facts["taxonomy_digest"]),
            items_digest=str(facts["items_digest"]),
            files={str(name): (int(file["size"]), str(file["sha256"])) for name, file in facts["files"].items()},
            facts=facts,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactCorrupt("the manifest lacks a field or holds one of the wrong type") from error
    _check_manifest(manifest)
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    if len(manifest.files) > MAX_FILES:
        raise ArtifactCorrupt(f"the manifest lists more than {MAX_FILES} files")
    for name, (size, sha256) in manifest.files.items():
        # A name with a separator or a leading dot could point outside the folder.
        if not _SAFE_NAME.match(name) or name == MANIFEST:
            raise ArtifactCorrupt(f"{name!r} is not a file name that an artifact may hold")
        if not 0 <= size <= MAX_FILE_BYTES or not _DIGEST.match(sha256):
            raise ArtifactCorrupt(f"the manifest's entry for {name} has no usable size and hash")
    if not manifest.label_ids or len(set(manifest.label_ids)) != len(manifest.label_ids):
        raise ArtifactCorrupt("the manifest's labels are none, or not distinct")
    if not 0.0 < manifest.temperature < float("inf"):
        raise ArtifactCorrupt("the manifest's temperature is not positive")


def _json_object(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactCorrupt(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise ArtifactCorrupt(f"{name} is not a JSON object")
    return value


def _require_plain_file(path: Path, max_bytes: int) -> int:
    """The size of a regular file in bytes; a link, a pipe or a device is refused without being opened."""
    try:
        status = path.lstat()
    except OSError as error:
        raise ArtifactCorrupt(f"{path.name} is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactCorrupt(f"{path.name} is not a plain file")
    if status.st_size > max_bytes:
        raise ArtifactCorrupt(f"{path.name} is larger than {max_bytes} bytes")
    return status.st_size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
