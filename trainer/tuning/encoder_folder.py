"""What an artifact holds for the next step of `encoder`, beside what is served: weights, pooling, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.scorers.artifact import (
    ArtifactCorrupt,
    canonical_json,
    read_arrays,
    read_content,
    read_document,
    read_lineage,
    read_manifest,
    read_out_of_fold,
)
from app.scorers.onnx import HEAD, HEADS
from app.scorers.onnx_encoder import MAX_TOKENIZER_BYTES, TOKENIZER
from trainer.encoders.backbone import Backbone, load_encoder
from trainer.encoders.classifier import load_trunk
from trainer.encoders.pooling import CLASSIFIER, MODES, Pooling
from trainer.heads.linear_head import LinearHead
from trainer.material import MIN_TEXTS_PER_LABEL
from trainer.pretrained import quiet
from trainer.spec import SpecInvalid

POOLING = "pooling.json"
MEMORY = "memory.npz"
# Larger than any encoder that fits into one ONNX file: the weights stay one file of a name that an artifact may hold.
_ONE_SHARD = "100GB"


@dataclass(frozen=True, slots=True)
class Start:
    """A version to go on from.

    Args:
        backbone: loads its encoder, to be trained on, for a number of tokens that are read.
        head: its head, with a column for each of `label_ids`.
        seen: text ids that it or a version before it was trained on or judged by.
        held_out: those of them that no training of the chain has seen.
        was_right: by text id whether an earlier version had it right.
        base: name, hash and kind of the base model that the first version of the chain started from.
        from_elsewhere: those of `label_ids` that it knows from texts that were never here.
    """

    backbone: Callable[[int], Backbone]
    head: LinearHead
    label_ids: tuple[int, ...]
    seen: frozenset[int]
    held_out: frozenset[int]
    was_right: Mapping[int, bool]
    base: Mapping[str, Any]
    from_elsewhere: tuple[int, ...] = ()


def read_parent(folder: Path) -> Start | None:
    """The artifact to go on from; None where it holds no weights to train, as those of most recipes.

    Raises:
        SpecInvalid: it is damaged.
    """
    try:
        manifest = read_manifest(folder)
        if POOLING not in manifest.files:
            return None
        head = read_arrays(folder / HEAD, HEADS["linear"])
        memory = read_arrays(folder / MEMORY, ("text_ids", "right"))
        training = dict(manifest.facts.get("training", {}))
        refitted, imported = (bool(training.get(fact, False)) for fact in ("refitted", "imported"))
        pairs = zip(memory["text_ids"].tolist(), memory["right"].tolist(), strict=True)
        seen = frozenset(read_lineage(folder))
        return Start(
            backbone=lambda max_length: _backbone(folder, max_length),
            head=LinearHead(head["weights"], head["bias"]),
            label_ids=manifest.label_ids,
            seen=seen,
            # After a refit the served weights have seen these too.
            held_out=frozenset() if refitted else frozenset(read_out_of_fold(folder).text_ids.tolist()),
            was_right={int(text_id): bool(right) for text_id, right in pairs},
            base=dict(manifest.facts["encoder"]["base"]),
            # Whose texts were taken away since is another matter: such a label is left out.
            from_elsewhere=tuple(
                int(label["id"])
                for label in manifest.facts["labels"]
                if imported or int(label["texts"]) < MIN_TEXTS_PER_LABEL
            ),
        )
    except (ArtifactCorrupt, ValueError, KeyError, TypeError) as error:
        raise _damaged(error) from error


def _backbone(folder: Path, max_length: int) -> Backbone:
    try:
        told = read_document(folder / POOLING)
        if told.get("mode") not in (*MODES, CLASSIFIER) or type(told.get("normalise")) is not bool:
            raise ArtifactCorrupt(f"{POOLING} names a pooling that this release does not know")
        tokenizer = read_content(folder / TOKENIZER, MAX_TOKENIZER_BYTES)
    except ArtifactCorrupt as error:
        raise _damaged(error) from error
    if told["mode"] == CLASSIFIER:
        return load_trunk(folder, tokenizer, max_length=max_length)
    pooling = Pooling(told["mode"], told["normalise"])
    return Backbone(load_encoder(folder), tokenizer, pooling, max_length=max_length)


def write_for_next_step(out: Path, backbone: Backbone, text_ids: Sequence[int], right: NDArray[np.int64]) -> None:
    """Write what `read_parent` needs. `right`: for each text 1, 0, or -1 where no version was asked about it."""
    with quiet():
        backbone.encoder.to("cpu").save_pretrained(out, max_shard_size=_ONE_SHARD)
    (out / POOLING).write_bytes(canonical_json(asdict(backbone.pooling)))
    asked = right >= 0
    arrays: dict[str, Any] = {"text_ids": np.asarray(text_ids, dtype=np.int64)[asked], "right": right[asked] == 1}
    np.savez(out / MEMORY, allow_pickle=False, **arrays)


def _damaged(error: Exception) -> SpecInvalid:
    return SpecInvalid(
        f"the active version cannot be continued from: {error}. Activate another version, or restore it from a backup"
    )
