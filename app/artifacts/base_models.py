"""Pretrained models that recipes start from: found by name or folder, known by hash, pulled from a hub when asked."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a model of either library may consist of. Weights in any other form would have to be unpickled.
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG = "config.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?\Z")
_MOST_CONFIG_BYTES = 2**20
_PIECE = 8 << 20


class BaseModelUnusable(ValueError):
    """There is no such base model here, or nothing can be trained from it. The message says what to do."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A pretrained model on this machine.

    Args:
        name: as the domain names it.
        size: bytes of all files that count.
        digest: SHA-256 over the names and contents of those files.
    """

    name: str
    folder: Path
    kind: str
    size: int
    digest: str


def find(name: str, bases: Path) -> Path:
    """The folder of a base model: what was pulled under this name, or the folder whose full path the name is.

    Raises:
        BaseModelUnusable: there is none, or no recipe could load it.
    """
    if _NAME.match(name):
        folder, missing = _place(name, bases), f"run: intentloop models pull {name}"
    else:
        folder, missing = Path(name), "it is no name of a hub and no full path of a folder of this machine"
    if not folder.is_absolute() or not folder.is_dir():
        raise BaseModelUnusable(f"the base model {name[:200]!r} is not here: {missing}")
    check(folder)
    return folder


def check(folder: Path) -> dict[str, Any]:
    """The config of a model whose weights can be read without unpickling and without code of its own.

    Raises:
        BaseModelUnusable: the folder holds no such model.
    """
    config = _config(folder)
    if not (folder / WEIGHTS).is_file() and not (folder / WEIGHTS_INDEX).is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        why = "its weights are pickled, and nothing is unpickled here" if pickled else "it holds no weights"
        raise BaseModelUnusable(f"the base model in {folder.name[:100]!r} has no safetensors: {why}")
    if not isinstance(config.get("model_type"), str):
        raise BaseModelUnusable(f"{CONFIG} of the base model {folder.name[:100]!r} names no model_type")
    return config


def classifier_labels(folder: Path) -> list[str]:
    """The names of a classifier's columns, in their order.

    Raises:
        BaseModelUnusable: the folder holds no model whose labels have names.
    """
    named: Mapping[str, Any] = check(folder).get("id2label") or {}
    try:
        columns = {int(column): str(name) for column, name in named.items()}
    except (ValueError, AttributeError) as error:
        raise BaseModelUnusable("id2label of the classifier's config.json does not number its labels") from error
    names = [columns.get(column, "") for column in range(len(columns))]
    if len(names) < 2 or not all(names) or all(name == f"LABEL_{column}" for column, name in enumerate(names)):
        raise BaseModelUnusable("the classifier's config.json does not name its labels: put their paths into id2label")
    if len(set(names)) != len(names):
        raise BaseModelUnusable("the classifier's config.json gives two labels one name")
    return names


def describe(name: str, folder: Path) -> BaseModel:
    """What lies there. Reads every byte: about a second for each gigabyte.

    Raises:
        BaseModelUnusable: it is no model that a recipe could load.
    """
    config = check(folder)
    parts = files(folder)
    return BaseModel(
        name=name,
        folder=folder,
        kind=str(config["model_type"]),
        size=sum(part.stat().st_size for part in parts),
        digest=_digest(folder, parts),
    )


def files(folder: Path) -> Sequence[Path]:
    """The files that make the model, in the order of their names."""
    found = {path for pattern in FILES for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))}
    return sorted(path for path in found if path.is_file() and not path.relative_to(folder).parts[0].startswith("."))


def listing(bases: Path) -> list[BaseModel]:
    """What was pulled to this machine, by name. What cannot be loaded is left out."""
    found = []
    for config in sorted(bases.glob(f"*/{CONFIG}")):
        try:
            found.append(describe(config.parent.name.replace("--", "/"), config.parent))
        except BaseModelUnusable:
            continue
    return found


def pull(name: str, bases: Path, *, hub: str = "huggingface", revision: str | None = None) -> BaseModel:
    """Fetch a model into `bases`, whole or not at all. A folder of this machine is copied.

    Args:
        hub: `huggingface` or `modelscope`.

    Raises:
        BaseModelUnusable: the hub does not have it or cannot be reached, or it holds no safetensors.
    """
    source = Path(name).expanduser()
    if source.is_absolute():
        name = source.name
    if not _NAME.match(name):
        raise BaseModelUnusable("a base model's name is 'model' or 'owner/model': letters, digits, '.', '_' and '-'")
    bases.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".arriving-", dir=bases) as arriving:
        folder = Path(arriving) / "model"
        if source.is_absolute():
            _copy(source, folder)
        else:
            _download(name, folder, hub, revision)
        check(folder)
        target = _place(name, bases)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return describe(name, target)


def _place(name: str, bases: Path) -> Path:
    return bases / name.replace("/", "--")


def _copy(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise BaseModelUnusable("there is no such folder on this machine")
    check(source)
    for part in files(source):
        target = folder / part.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part, target)


def _download(name: str, folder: Path, hub: str, revision: str | None) -> None:
    patterns = [*FILES, *(f"*/{pattern}" for pattern in FILES)]
    try:
        if hub == "modelscope":
            from modelscope import snapshot_download as from_modelscope

            from_modelscope(name, revision=revision, local_dir=str(folder), allow_patterns=patterns)
        else:
            from huggingface_hub import snapshot_download

            snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=patterns)
    except ImportError as error:
        package = "modelscope" if hub == "modelscope" else "'intentloop[train]'"
        raise BaseModelUnusable(f"{hub} needs a package that is not installed: pip install {package}") from error
    except Exception as error:  # Each hub has errors of its own; their messages hold addresses.
        raise BaseModelUnusable(
            f"{name} did not come from {hub} ({type(error).__name__}): look at its name and at the network, "
            "or copy its folder here and run: intentloop models pull /its/folder"
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    path, shown = folder / CONFIG, folder.name[:100]
    try:
        size, content = path.stat().st_size, b""
        if size <= _MOST_CONFIG_BYTES:
            content = path.read_bytes()
    except OSError as error:
        raise BaseModelUnusable(f"the folder {shown!r} holds no {CONFIG}: it is no base model") from error
    if size > _MOST_CONFIG_BYTES:
        raise BaseModelUnusable(f"{CONFIG} of the base model {shown!r} is too large to be one")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BaseModelUnusable(f"{CONFIG} of the base model {shown!r} is not JSON") from error
    if not isinstance(config, dict):
        raise BaseModelUnusable(f"{CONFIG} of the base model {shown!r} is not a JSON object")
    return config


def _digest(folder: Path, parts: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        content = hashlib.sha256()
        with part.open("rb") as file:
            while piece := file.read(_PIECE):
                content.update(piece)
        whole.update(f"{part.relative_to(folder).as_posix()}\0{content.hexdigest()}\n".encode())
    return whole.hexdigest()
