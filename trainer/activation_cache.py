"""Keep what frozen layers gave for a text, so that the next batch need not compute it again; a help, never a need."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.frozen_layers import Tokens

MOST_BYTES = 2 * 2**30


class ActivationCache:
    """A folder with one subfolder for each set of frozen weights, and in it files of activations by text hash."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        """`most_bytes`: beyond it what was used longest ago goes."""
        self._folder = folder / "activations"
        self._most_bytes = most_bytes

    def read(self, key: str, tokens: Sequence[Tokens]) -> Mapping[Tokens, Tensor]:
        """What is known of these texts. A file that is damaged goes: it costs a computation, never a batch."""
        wanted = {_name(text): text for text in tokens}
        found: dict[Tokens, Tensor] = {}
        for path in sorted((self._folder / key).glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as stored:
                    names = [name for name in stored.keys() if name in wanted]  # noqa: SIM118 - it is no mapping
                    found.update({wanted[name]: stored.get_tensor(name) for name in names})
                if names:
                    os.utime(path)
            except (SafetensorError, OSError):
                with suppress(OSError):
                    path.unlink()
        return {text: states for text, states in found.items() if _fits(text, states)}

    def write(self, key: str, found: Mapping[Tokens, Tensor]) -> None:
        """Keep these beside the others. A full disk is no error: they are computed again."""
        folder = self._folder / key
        partial = folder / f"{uuid.uuid4().hex}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({_name(text): states.contiguous() for text, states in found.items()}, partial)
            partial.rename(partial.with_suffix(".safetensors"))
            self._trim()
        except (SafetensorError, OSError):
            with suppress(OSError):
                partial.unlink()

    def _trim(self) -> None:
        files = [path for path in self._folder.glob("*/*") if path.is_file()]
        by_use = sorted(files, key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in files)
        for path in by_use:
            if total <= self._most_bytes:
                break
            total -= path.stat().st_size
            path.unlink()
        for folder in self._folder.iterdir():
            if not any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def _name(text: Tokens) -> str:
    return hashlib.sha256(",".join(map(str, text)).encode()).hexdigest()


def _fits(text: Tokens, states: Tensor) -> bool:
    return states.ndim == 2 and states.shape[0] == len(text) and bool(torch.isfinite(states).all())
