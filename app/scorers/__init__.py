"""Turn an artifact into a scorer: the one scoring code, used to serve, to evaluate and to calibrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from app.scorers.artifact import ArtifactCorrupt, LibraryMissing, Scorer, read_manifest
from app.scorers.generative import GenerativeScorer
from app.scorers.ngram import NgramScorer
from app.scorers.onnx import OnnxScorer

# By the form of the artifact, which several recipes may share: (folder, threads, folder of base models) -> scorer.
LOADERS: Mapping[str, Callable[[Path, int, Path | None], Scorer]] = {
    "generative": lambda folder, threads, bases: GenerativeScorer.load(folder, threads=threads, bases=bases),
    "ngram": lambda folder, _threads, _bases: NgramScorer.load(folder),
    "onnx": lambda folder, threads, _bases: OnnxScorer.load(folder, threads=threads),
}
# What a form needs beyond the service's own libraries, and the extra that brings it.
_LIBRARIES: Mapping[str, tuple[str, Sequence[str]]] = {
    "generative": ("train", ("torch", "transformers", "peft")),
    "onnx": ("onnx", ("onnxruntime", "tokenizers")),
}


def require_libraries(form: str) -> None:
    """Ask whether an artifact of this form could be loaded here, without loading anything.

    Raises:
        LibraryMissing: what the form needs is not installed.
    """
    extra, libraries = _LIBRARIES.get(form, ("", ()))
    for library in libraries:
        if find_spec(library) is None:
            raise LibraryMissing(library, extra)


def load_scorer(folder: Path, *, threads: int = 1, bases: Path | None = None) -> Scorer:
    """Load an artifact. Nothing is proved here: call `artifact.verify` before and `check_reference_answers` after.

    Args:
        threads: how many compute one answer, where the form can use more than one.
        bases: the folder of base models, for a form that needs its base beside the artifact.

    Raises:
        ArtifactCorrupt: the folder holds no artifact, or one of a form that this service does not know.
        LibraryMissing: what the form needs is not installed.
    """
    form = read_manifest(folder).scorer
    if form not in LOADERS:
        raise ArtifactCorrupt(f"this service cannot load the recipe {form[:40]!r}; it knows {', '.join(LOADERS)}")
    require_libraries(form)
    return LOADERS[form](folder, threads, bases)
