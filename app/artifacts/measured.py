"""What a trainer measured and the next run would measure otherwise: it lies beside the artifact, not in its name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.scorers.artifact import ArtifactCorrupt, read_document


def write_measured(out: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures of the artifact in the folder `out`."""
    _file(out).write_text(json.dumps(figures), encoding="utf-8")


def read_measured(out: Path) -> dict[str, Any]:
    """The figures of the artifact in the folder `out`; nothing where its trainer measured none."""
    try:
        return read_document(_file(out)) if _file(out).exists() else {}
    except ArtifactCorrupt:
        return {}


def _file(out: Path) -> Path:
    return out.with_name(f"{out.name}.measured.json")
