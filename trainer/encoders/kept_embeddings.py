"""Keep the embeddings of a domain's texts between batches, so that a new batch only computes those of its new texts.

A file for each encoder, named by its graph's hash. It holds exactly the texts of the last batch: what was forgotten
since is gone from it with the next one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.scorers.artifact import ArtifactCorrupt, read_arrays

FOLDER = "embeddings"
_HASH_BYTES = 32

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def embeddings_of(
    texts: Sequence[str], embed: Embed, *, encoder: str, dimension: int, cache: Path | None
) -> tuple[NDArray[np.float32], int]:
    """Embeddings of shape (n_texts, dimension), and how many of them had to be computed.

    Args:
        embed: asked about the texts that are not kept yet.
        encoder: hash of what computes them: other weights have other embeddings.
        cache: the folder of the domain; None keeps nothing.
    """
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    file = cache / FOLDER / f"{encoder}.npz" if cache is not None else None
    known = _read(file, dimension) if file is not None else {}
    missing = [place for place, text_hash in enumerate(hashes) if text_hash not in known]
    found = np.empty((len(texts), dimension), dtype=np.float32)
    kept = [place for place, text_hash in enumerate(hashes) if text_hash in known]
    if kept:
        found[kept] = np.stack([known[hashes[place]] for place in kept])
    if missing:
        found[missing] = embed([texts[place] for place in missing])
    if file is not None and (missing or len(known) != len(set(hashes))):
        _write(file, hashes, found)
    return found, len(missing)


def _read(file: Path, dimension: int) -> dict[bytes, NDArray[np.float32]]:
    """What is kept. A file that is damaged or of another shape is as none: everything in it can be computed again."""
    if not file.is_file():
        return {}
    try:
        arrays = read_arrays(file, ("hashes", "embeddings"))
    except ArtifactCorrupt:
        return {}
    hashes, embeddings = arrays["hashes"], arrays["embeddings"]
    fits = hashes.dtype == np.uint8 and hashes.shape == (len(embeddings), _HASH_BYTES)
    if not fits or embeddings.dtype != np.float32 or embeddings.shape[1:] != (dimension,):
        return {}
    if not np.isfinite(embeddings).all():
        return {}
    return {row.tobytes(): embedding for row, embedding in zip(hashes, embeddings, strict=True)}


def _write(file: Path, hashes: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.stem}-{os.getpid()}.npz")
    rows = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(len(hashes), _HASH_BYTES)
    np.savez(beside, allow_pickle=False, hashes=rows, embeddings=embeddings)
    beside.replace(file)
