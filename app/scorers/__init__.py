"""Turn an artifact into a scorer: the one scoring code, used to serve, to evaluate and to calibrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from app.scorers.artifact import ArtifactCorrupt, Scorer, read_manifest
from app.scorers.ngram import NgramScorer
from app.scorers.onnx import OnnxScorer

# By the form of the artifact, which several recipes may share. The second argument is the number of threads.
LOADERS: Mapping[str, Callable[[Path, int], Scorer]] = {
    "ngram": lambda folder, _threads: NgramScorer.load(folder),
    "onnx": lambda folder, threads: OnnxScorer.load(folder, threads=threads),
}


def load_scorer(folder: Path, *, threads: int = 1) -> Scorer:
    """Load an artifact. Nothing is proved here: call `artifact.verify` before and `check_reference_answers` after.

    Args:
        threads: how many compute one answer, where the form can use more than one.

    Raises:
        ArtifactCorrupt: the folder holds no artifact, or one of a form that this service does not know.
        LibraryMissing: what the form needs is not installed.
    """
    form = read_manifest(folder).scorer
    if form not in LOADERS:
        raise ArtifactCorrupt(f"this service cannot load the recipe {form[:40]!r}; it knows {', '.join(LOADERS)}")
    return LOADERS[form](folder, threads)
