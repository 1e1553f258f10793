"""The bundled sample domain: its taxonomy, its labelled questions and a few keyword rules, all written by us."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml

from app.exchange.labelled import BadRow, LabelledRow, read_labelled
from app.intent.taxonomy import parse_taxonomy


def taxonomy() -> dict[str, Any]:
    """The labels with their guidelines, in the form that `PUT /taxonomy` takes."""
    guidelines = _read("guidelines.yaml")
    labels = parse_taxonomy(_read("labels.yaml"))
    return {"labels": [{"path": label.path, "guideline": guidelines[label.path]} for label in labels]}


def rules() -> list[dict[str, str]]:
    """Keyword rules written by hand: `keyword` and `intent`, the label's path."""
    return [dict(rule) for rule in _read("rules.yaml")]


@cache
def questions() -> tuple[LabelledRow, ...]:
    """Every labelled question, in the file's order (shuffled once, with a fixed seed)."""
    with questions_file() as path:
        rows = tuple(read_labelled(path))
    broken = [row for row in rows if isinstance(row, BadRow)]
    if broken:
        raise ValueError(f"the bundled sample is damaged: line {broken[0].line}: {broken[0].reason}")
    return tuple(row for row in rows if isinstance(row, LabelledRow))


@contextmanager
def questions_file() -> Iterator[Path]:
    """The path of `questions.jsonl`, also when the package is a zip file."""
    with as_file(files(__name__).joinpath("questions.jsonl")) as path:
        yield path


def _read(name: str) -> Any:
    return yaml.safe_load(files(__name__).joinpath(name).read_text(encoding="utf-8"))
