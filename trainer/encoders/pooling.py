"""How a pretrained model makes its tokens one embedding: as its folder says, or in the usual way of its kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer.spec import SpecInvalid

# Names of sentence-transformers, old and new, and ours.
_MODES: Final[Mapping[str, str]] = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
MODES: Final = ("cls", "mean", "max", "last")
# What a sequence classifier gives its last layer, in whatever way of its own.
CLASSIFIER: Final = "classifier"


@dataclass(frozen=True, slots=True)
class Pooling:
    """`mode`: one of `MODES`, or `CLASSIFIER`. `normalise`: whether embeddings are brought to length 1."""

    mode: str
    normalise: bool


def pooling_of(folder: Path, *, decoder: bool) -> Pooling:
    """What `modules.json` of a sentence-transformers folder says; else the mean, and a decoder's last token.

    Raises:
        SpecInvalid: the folder names modules that are not honoured here; ignoring them would give other embeddings.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return Pooling("last" if decoder else "mean", normalise=False)
    mode, normalise = "mean", False
    for module in _read(modules, list):
        kind = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if kind == "Pooling":
            mode = _mode(_read(folder / str(module.get("path", "")) / "config.json", dict))
        elif kind == "Normalize":
            normalise = True
        elif kind != "Transformer":
            raise SpecInvalid(
                f"the base model has a module {kind[:40]!r} after its encoder, which is not honoured here"
            )
    return Pooling(mode, normalise)


def _mode(config: Mapping[str, Any]) -> str:
    named = config.get("pooling_mode")
    wanted = [named] if isinstance(named, str) else list(named or [])
    wanted = wanted or [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if len(wanted) != 1 or wanted[0] not in _MODES:
        raise SpecInvalid(
            f"the base model pools in a way that is not honoured here: {', '.join(map(str, wanted))[:80]}"
        )
    return _MODES[wanted[0]]


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecInvalid(f"the base model's {path.name} cannot be read") from error
    if not isinstance(value, kind):
        raise SpecInvalid(f"the base model's {path.name} is not what sentence-transformers writes")
    return value
