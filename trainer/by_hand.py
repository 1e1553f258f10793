"""`python -m trainer encoder --new-data … --model-path …`: one step of the encoder from files, without a database.

Exit status 0: the artifact is in the output folder, with `labels.json` beside it. 2: it could not be trained; a
sentence on standard error says why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.artifacts.base_models import BaseModelUnusable, classifier_labels, describe
from app.intent.masking import mask
from app.intent.taxonomy import SEPARATOR, taxonomy_digest
from app.intent.text import MaskedText, TextEmpty, TextTooLong, clean, text_hash
from app.scorers.artifact import MANIFEST, ArtifactCorrupt, canonical_json, read_manifest
from trainer.encoder import prepare_torch, train_from
from trainer.encoders.backbone import load_backbone
from trainer.encoders.classifier import load_classifier
from trainer.heads.linear_head import fitted_head
from trainer.spec import Base, Example, Label, Spec, SpecInvalid, read_config
from trainer.tuning.encoder_config import EncoderConfig
from trainer.tuning.encoder_folder import Start, read_parent

LABELS = "labels.json"
REFERENCES = ("hello", "where is my parcel", "你好", "怎么退款", "???", "12345", "")
MOST_REFERENCES = 32
# Flags that set a number of the recipe; of a first version and of a step alike.
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "epochs": ("epochs", "first_epochs"),
    "batch_size": ("batch_size", "first_batch_size"),
    "lr": ("learning_rate", "first_learning_rate"),
    "head_lr": ("head_learning_rate",),
    "replay_ratio": ("replay_ratio",),
    "freeze_layers": ("freeze_layers", "first_freeze_layers"),
    "patience": ("patience",),
    "max_length": ("max_length",),
    "bf16": ("bf16",),
    "precision": ("precision",),
}


@dataclass(frozen=True, slots=True)
class _Row:
    text: MaskedText
    label: str

    @property
    def text_id(self) -> int:
        """The same text has the same number in every run, so that later steps know what was held out."""
        return int(text_hash(self.text)[:16], 16) >> 1


def main(arguments: Sequence[str]) -> int:
    """Train as the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        new = _read(options.new_data)
        old = _read(options.old_data) if options.old_data is not None else []
        _check_empty(options.output_path)
        prepare_torch()
        digest = _train(options, new, old, config)
    except (SpecInvalid, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        # Of torch, only the message tells a lack of memory from a mistake.
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        print("there is not enough memory: take a smaller --batch-size or a smaller model", file=sys.stderr)
        return 2
    print(f"[100 %] {options.output_path.name} holds the artifact {digest}", flush=True)
    return 0


def _train(options: argparse.Namespace, new: Sequence[_Row], old: Sequence[_Row], config: EncoderConfig) -> str:
    earlier = _labels_of_artifact(options.model_path)
    known = earlier or _labels_of_classifier(options.model_path, {row.label for row in (*new, *old)})
    # What is in both files is taken from the new one: someone labelled it again.
    again = {row.text_id for row in new}
    rows = [*new, *(row for row in old if row.text_id not in again)]
    fresh = [path for path in sorted({row.label for row in rows}) if path not in known]
    numbered = {**known, **{path: number for number, path in enumerate(fresh, max(known.values(), default=0) + 1)}}
    examples = [Example(row.text_id, row.text, numbered[row.label], row.text_id in again) for row in rows]
    labels = sorted((Label(label_id, path) for path, label_id in numbered.items()), key=lambda label: label.id)
    spec = Spec(
        recipe="encoder",
        labels=tuple(labels),
        examples=tuple(sorted(examples, key=lambda example: example.text_id)),
        references=(*REFERENCES, *(label.path for label in labels))[:MOST_REFERENCES],
        config={},
        seed=options.seed,
        taxonomy_digest=taxonomy_digest([label.path for label in labels]),
        items_digest=_items_digest(examples),
        base=Base(options.model_path.name, options.model_path),
    )
    start = read_parent(options.model_path) if earlier else _start(options.model_path, spec, config, known)
    if earlier and start is None:
        raise SpecInvalid(f"the artifact in {options.model_path.name} holds no encoder that can be trained further")
    out: Path = options.output_path
    out.mkdir(parents=True, exist_ok=True)
    listed = [{"id": label.id, "path": label.path} for label in labels]
    (out / LABELS).write_bytes(canonical_json({"labels": listed}))
    return train_from(start, spec, config, out, _print_progress).digest


def _labels_of_artifact(folder: Path) -> dict[str, int]:
    """The labels of an earlier output, by path; none where the folder is a model of another make."""
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        manifest = read_manifest(folder)
    except ArtifactCorrupt as error:
        raise SpecInvalid(f"the artifact in {folder.name} is damaged: {error}") from error
    return dict(zip(manifest.label_paths, manifest.label_ids, strict=True))


def _labels_of_classifier(folder: Path, asked: Collection[str]) -> dict[str, int]:
    """The labels of a checkpoint that classifies, by path; none where it does not, or not by any label of the files."""
    try:
        names = classifier_labels(folder)
    except BaseModelUnusable:
        return {}
    return {name: number for number, name in enumerate(names, 1)} if set(names) & set(asked) else {}


def _start(folder: Path, spec: Spec, config: EncoderConfig, known: Mapping[str, int]) -> Start | None:
    """A model of another make: with its own head where it classifies by `known`, its labels in their order.

    Else with a head that is fitted to the old texts as they are embedded now. None without two labels of old texts:
    then there is nothing to go on from, and a first version is trained.
    """
    try:
        base = describe(folder.name, folder)
    except BaseModelUnusable as error:
        raise SpecInvalid(str(error)) from error
    old = [example for example in spec.examples if not example.new]
    label_ids = sorted(known.values() or {example.label for example in old})
    if len(label_ids) < 2:
        return None
    if known:
        backbone, head = load_classifier(folder, max_length=config.max_length)
    else:
        backbone = load_backbone(folder, max_length=config.max_length)
        targets = np.searchsorted(label_ids, [example.label for example in old]).astype(np.int64)
        embeddings = backbone.embed([example.text for example in old])
        head = fitted_head(embeddings, targets, len(label_ids), label_balance=config.label_balance)
    return Start(
        backbone=lambda _: backbone,
        head=head,
        label_ids=tuple(label_ids),
        seen=frozenset(example.text_id for example in old),
        held_out=frozenset(),
        was_right={},
        base={"name": base.name, "digest": base.digest, "kind": base.kind},
        from_elsewhere=tuple(label_ids) if known else (),
    )


def _items_digest(examples: Sequence[Example]) -> str:
    items = sorted([example.text_id, example.label] for example in examples)
    return hashlib.sha256(canonical_json(items)).hexdigest()


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecInvalid("the output folder is not empty")


def _print_progress(progress: float, stage: str) -> None:
    print(f"[{100 * progress:3.0f} %] {stage}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer", description="Train one step of an encoder from files, without a database."
    )
    parser.add_argument("recipe", choices=["encoder"])
    parser.add_argument(
        "--new-data", type=Path, required=True, help="JSON lines with text and label, not trained on yet"
    )
    parser.add_argument("--old-data", type=Path, help="JSON lines of what was trained on before; some are replayed")
    parser.add_argument(
        "--model-path", type=Path, required=True, help="an earlier output, a classification checkpoint, or a base model"
    )
    parser.add_argument("--output-path", type=Path, required=True, help="folder to write; empty, or not there yet")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, help="of the encoder's layers")
    parser.add_argument("--head-lr", type=float)
    parser.add_argument("--replay-ratio", type=float, help="replayed / (new + replayed)")
    parser.add_argument(
        "--freeze-layers", type=int, help="lowest layers that stay as they are; 0: none; -1: two thirds"
    )
    parser.add_argument("--patience", type=int)
    parser.add_argument("--max-length", type=int, help="tokens of a text that are read")
    parser.add_argument("--bf16", choices=["auto", "on", "off"])
    parser.add_argument("--precision", choices=["auto", "fp32"], help="of the graph that is served")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _config(options: argparse.Namespace) -> EncoderConfig:
    given = {name: getattr(options, name) for name in _NUMBERS if getattr(options, name) is not None}
    return read_config(EncoderConfig, {field: value for name, value in given.items() for field in _NUMBERS[name]})


def _read(path: Path) -> list[_Row]:
    """The rows of a file of JSON lines; the last of equal texts stands."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise SpecInvalid(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpecInvalid(f"{path.name} is not UTF-8 text") from error
    found: dict[int, _Row] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _row(line, f"line {number} of {path.name}")
            found[row.text_id] = row
    if not found:
        raise SpecInvalid(f"{path.name} holds no labelled text")
    return list(found.values())


def _row(line: str, place: str) -> _Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpecInvalid(f"{place} is not JSON") from error
    if not isinstance(record, dict):
        raise SpecInvalid(f"{place} is not an object with text and label")
    label = record.get("label", record.get("labels"))
    levels = label if isinstance(label, list) else [label]
    named = [level for level in levels if isinstance(level, str)]
    text = record.get("text")
    if not isinstance(text, str) or not named or len(named) < len(levels):
        raise SpecInvalid(f"{place} needs a text and a label: two strings, or the label as a list of its levels")
    try:
        return _Row(mask(clean(text)), SEPARATOR.join(clean(level) for level in named))
    except (TextEmpty, TextTooLong, UnicodeEncodeError) as error:
        raise SpecInvalid(f"{place}: text or label is empty, too long or not Unicode") from error
