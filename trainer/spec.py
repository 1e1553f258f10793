"""Read what a batch asks the trainer to do, and refuse it in one sentence when it cannot be done."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.intent.text import MaskedText

MAX_REFERENCES = 1_000
_DIGEST = re.compile(r"[0-9a-f]{0,128}\Z")

Config = TypeVar("Config")
# How far it is, 0 to 1, and in words what is done.
Progress = Callable[[float, str], None]


class SpecInvalid(ValueError):
    """The spec, its examples or its config cannot be trained on. The message never holds a text."""


@dataclass(frozen=True, slots=True)
class Label:
    """A label by its immutable id, and its path on the day of the training."""

    id: int
    path: str


@dataclass(frozen=True, slots=True)
class Example:
    """One distinct masked text with its label. `new`: no version was trained on it yet."""

    text_id: int
    text: MaskedText
    label: int
    new: bool = True


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model: its name, for people and for the manifest, and the folder in which it lies."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Spec:
    """One training run. `examples` are ordered by text id, `labels` by label id, whatever order the files had.

    Args:
        base: what a recipe with a pretrained model starts from; None where the domain names none.
        parent: the folder of the artifact that serves now, None where there is none; a recipe may go on from it.
        cache: a folder in which a recipe may keep what it would compute again at the next batch; None: nowhere.
    """

    recipe: str
    labels: tuple[Label, ...]
    examples: tuple[Example, ...]
    references: tuple[str, ...]
    config: Mapping[str, Any]
    seed: int
    taxonomy_digest: str
    items_digest: str
    base: Base | None = None
    parent: Path | None = None
    cache: Path | None = None


def read_spec(path: Path) -> Spec:
    """Read `spec.json` and the examples file that it names.

    Raises:
        SpecInvalid: a file cannot be read, a field is missing or of the wrong type, an id occurs twice, or an example
            has a label that the spec does not list.
    """
    document = _json_object(_read(path), path.name)
    labels = tuple(sorted((_label(item) for item in _list(document, "labels")), key=lambda label: label.id))
    name = _field(document, "examples", str)
    lines = _read(path.parent / name).split("\n")
    examples = tuple(
        _example(_json_object(line, f"line {number} of {Path(name).name}"), number)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    spec = Spec(
        recipe=_field(document, "recipe", str),
        labels=labels,
        examples=tuple(sorted(examples, key=lambda example: example.text_id)),
        references=_references(document),
        config=_field(document, "config", dict) if "config" in document else {},
        seed=_field(document, "seed", int) if "seed" in document else 0,
        taxonomy_digest=_digest(document, "taxonomy_digest"),
        items_digest=_digest(document, "items_digest"),
        base=_base(document),
        parent=_folder(document, "parent"),
        cache=_folder(document, "cache"),
    )
    _check(spec)
    return spec


def read_config(kind: type[Config], overrides: Mapping[str, Any]) -> Config:
    """A recipe's config with `overrides` over its defaults, also inside of it. Lists become tuples.

    Raises:
        SpecInvalid: an unknown name, a value of the wrong type or out of range.
    """
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in defaults:
            raise SpecInvalid(f"the config has no setting {name!r}; it has {', '.join(sorted(defaults))}")
        values[name] = _as_type_of(defaults[name], value, name)
    try:
        return kind(**values)
    except ValueError as error:
        raise SpecInvalid(f"the config cannot be used: {error}") from error


def _as_type_of(default: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(default) and isinstance(value, dict):
        return read_config(type(default), value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_as_type_of(default[0], item, name) for item in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise SpecInvalid(f"the config's {name} must be of the type {type(default).__name__}, like {default!r}")
    return value


def _check(spec: Spec) -> None:
    known = {label.id for label in spec.labels}
    if len(known) != len(spec.labels):
        raise SpecInvalid("the spec lists a label id twice")
    text_ids = Counter(example.text_id for example in spec.examples)
    if twice := next((text_id for text_id, count in text_ids.items() if count > 1), None):
        raise SpecInvalid(f"the text {twice} occurs more than once in the examples")
    if unknown := next((example for example in spec.examples if example.label not in known), None):
        raise SpecInvalid(f"the text {unknown.text_id} has the label {unknown.label}, which the spec does not list")
    if len(spec.references) > MAX_REFERENCES:
        raise SpecInvalid(f"the spec has {len(spec.references)} reference texts, more than {MAX_REFERENCES}")


def _label(item: Any) -> Label:
    if not isinstance(item, dict):
        raise SpecInvalid("an entry of the spec's labels is not an object")
    return Label(_field(item, "id", int), _field(item, "path", str))


def _example(item: Mapping[str, Any], line: int) -> Example:
    try:
        # Whoever wrote the spec masked the texts: the trainer sees nothing else and has no way to tell.
        text = MaskedText(_field(item, "text", str))
        new = True
        if "new" in item:
            if type(item["new"]) is not bool:
                raise SpecInvalid("the field 'new' must be true or false")
            new = item["new"]
        return Example(_field(item, "text_id", int), text, _field(item, "label", int), new)
    except SpecInvalid as error:
        raise SpecInvalid(f"line {line} of the examples: {error}") from error


def _base(document: Mapping[str, Any]) -> Base | None:
    if document.get("base") is None:
        return None
    told = _field(document, "base", dict)
    return Base(_field(told, "name", str), Path(_field(told, "folder", str)))


def _folder(document: Mapping[str, Any], name: str) -> Path | None:
    return None if document.get(name) is None else Path(_field(document, name, str))


def _references(document: Mapping[str, Any]) -> tuple[str, ...]:
    references = _list(document, "references") if "references" in document else []
    if not all(isinstance(text, str) and _is_unicode(text) for text in references):
        raise SpecInvalid("a reference text is not a Unicode string")
    return tuple(references)


def _digest(document: Mapping[str, Any], name: str) -> str:
    digest = _field(document, name, str)
    if not _DIGEST.match(digest):
        raise SpecInvalid(f"the field {name!r} is not hexadecimal")
    return digest


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    return _field(document, name, list)


def _field(document: Mapping[str, Any], name: str, kind: type[Config]) -> Config:
    if name not in document:
        raise SpecInvalid(f"the field {name!r} is missing")
    value = document[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SpecInvalid(f"the field {name!r} must be of the type {kind.__name__}")
    if isinstance(value, str) and not _is_unicode(value):
        raise SpecInvalid(f"the field {name!r} holds half of a surrogate pair")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise SpecInvalid(f"the field {name!r} does not fit into 64 bits")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _json_object(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecInvalid(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise SpecInvalid(f"{name} is not a JSON object")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecInvalid(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpecInvalid(f"{path.name} is not UTF-8 text") from error
