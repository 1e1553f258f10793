"""What trainers keep on this machine between batches, one folder a domain, and how it is let go of."""

import shutil
from pathlib import Path
from typing import Final

ENCODERS: Final = "encoders"
"""Exported base models. Everything else in a domain's folder was computed from what users asked."""


def training_cache(data_dir: Path) -> Path:
    """Where it lies in an installation's folder."""
    return (data_dir / "cache" / "training").resolve()


def forget_texts(cache: Path) -> None:
    """Delete what was computed from texts, of every domain: the next batch computes it again, for those that are left.

    A trainer that runs meanwhile may write its own once more: it holds no text, and the next batch replaces it.
    """
    for kept in cache.glob("*/*"):
        if kept.name != ENCODERS:
            shutil.rmtree(kept, ignore_errors=True)
