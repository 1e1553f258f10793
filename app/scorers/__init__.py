"""Turn an artifact into a scorer: the one scoring code, used to serve, to evaluate and to calibrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from app.scorers.artifact import ArtifactCorrupt, Scorer, read_manifest
from app.scorers.ngram import NgramScorer

LOADERS: Mapping[str, Callable[[Path], Scorer]] = {
    "ngram": NgramScorer.load,
}


def load_scorer(folder: Path) -> Scorer:
    """Load an artifact. Nothing is proved here: call `artifact.verify` before and `check_reference_answers` after.

    Raises:
        ArtifactCorrupt: the folder holds no artifact, or one of a recipe that this service does not know.
    """
    recipe = read_manifest(folder).recipe
    if recipe not in LOADERS:
        raise ArtifactCorrupt(f"this service cannot load the recipe {recipe[:40]!r}; it knows {', '.join(LOADERS)}")
    return LOADERS[recipe](folder)
