"""Keep what frozen layers gave for a text, so that the next batch need not compute it again; a help, never a need.

One file for the frozen weights that are in use. It holds texts of the last batch only: what was forgotten since is gone
from it with the next one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.tuning.frozen_layers import Tokens

FOLDER = "activations"
MOST_BYTES = 2 * 2**30


class ActivationCache:
    """What is known of the texts of one batch: read from a folder, added to, and written back by `save`."""

    def __init__(self, folder: Path, texts: Sequence[Tokens], *, most_bytes: int = MOST_BYTES) -> None:
        """`texts`: all that the batch may ask about; nothing else is kept. `most_bytes`: what the file may take."""
        self._folder = folder / FOLDER
        self._names = {text: _name(text) for text in texts}
        self._most_bytes = most_bytes
        self._known: dict[str, dict[Tokens, Tensor]] = {}
        self._changed = False

    def read(self, key: str, tokens: Sequence[Tokens]) -> Mapping[Tokens, Tensor]:
        """What is known of these texts under the name of the frozen weights."""
        if key not in self._known:
            self._known = {key: self._load(key)}
        known = self._known[key]
        return {text: known[text] for text in tokens if text in known}

    def write(self, key: str, found: Mapping[Tokens, Tensor]) -> None:
        """Add what was computed."""
        self._known.setdefault(key, {}).update({text: state for text, state in found.items() if text in self._names})
        self._changed = True

    def save(self) -> None:
        """Write what is known, and remove what belongs to other weights. A full disk is no error."""
        if not self._changed:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for key, known in self._known.items():
                beside = self._folder / f".{os.getpid()}.partial"
                save_file(self._bounded(known), beside)
                beside.rename(self._file(key))
            for path in self._folder.iterdir():
                if path not in {self._file(key) for key in self._known}:
                    path.unlink()
        except (SafetensorError, OSError):
            with suppress(OSError):
                (self._folder / f".{os.getpid()}.partial").unlink(missing_ok=True)

    def _load(self, key: str) -> dict[Tokens, Tensor]:
        """What the file holds of the batch's texts. A damaged one costs a computation, never a batch."""
        wanted = {name: text for text, name in self._names.items()}
        try:
            with safe_open(self._file(key), framework="pt") as stored:
                names = set(stored.keys())
                found = {wanted[name]: stored.get_tensor(name) for name in sorted(names & wanted.keys())}
        except (SafetensorError, OSError):
            return {}
        self._changed = len(found) < len(names)
        return {text: states for text, states in found.items() if _fits(text, states)}

    def _bounded(self, known: Mapping[Tokens, Tensor]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        left = self._most_bytes
        for text, states in known.items():
            left -= states.numel() * states.element_size()
            if left < 0:
                break
            kept[self._names[text]] = states.contiguous()
        return kept

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def _name(text: Tokens) -> str:
    return hashlib.sha256(",".join(map(str, text)).encode()).hexdigest()


def _fits(text: Tokens, states: Tensor) -> bool:
    return states.ndim == 2 and states.shape[0] == len(text) and bool(torch.isfinite(states).all())
