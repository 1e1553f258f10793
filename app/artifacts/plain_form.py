"""Write an `onnx` artifact as files that a program without intentloop can use: ONNX Runtime, tokenizers and numpy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.scorers.artifact import ArtifactUnusable, canonical_json, read_document, verify
from app.scorers.onnx import HEAD
from app.scorers.onnx_encoder import ENCODER, GRAPH, TOKENIZER

CLASSIFIER: Final = "classifier.json"
EXAMPLE: Final = "classify.py"
_PROGRAM: Final = '''\
"""python classify.py "a text" …: the label of each text with its probability. Needs onnxruntime, tokenizers, numpy."""
import json, sys, unicodedata
import numpy as np, onnxruntime, tokenizers

told, head = json.load(open("classifier.json", encoding="utf-8")), np.load("head.npz")
tokenizer, session = tokenizers.Tokenizer.from_file("tokenizer.json"), onnxruntime.InferenceSession("model.onnx")
tokenizer.no_padding(); tokenizer.enable_truncation(told["max_length"])
for text in sys.argv[1:]:
    ids = np.array([tokenizer.encode(" ".join(unicodedata.normalize("NFKC", text).split())).ids])
    x = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    if told["head"] == "hidden": x = np.maximum(x @ head["hidden_weights"] + head["hidden_bias"], 0)
    z = (x @ head["weights"] + head["bias"])[0] / told["temperature"]
    odds = np.exp(z - z.max()); odds /= odds.sum()
    print(told["labels"][odds.argmax()], round(float(odds.max()), 4))
'''


def write_plain(artifact: Path, digest: str, out: Path, *, paths: Mapping[int, str]) -> None:
    """Write graph, tokenizer, head, `classifier.json` and a program that uses them into a new folder.

    Args:
        paths: of each label today, by its id.

    Raises:
        ArtifactUnusable: it is damaged, or of another form.
        OSError: the folder is there already, or cannot be written.
    """
    manifest = verify(artifact, digest)
    if manifest.scorer != "onnx":
        raise ArtifactUnusable(
            f"a version of the form {manifest.scorer!r} has no ONNX graph: it stays with the service"
        )
    settings = read_document(artifact / ENCODER)
    told = {
        "labels": [paths.get(label, manifest.label_paths[place]) for place, label in enumerate(manifest.label_ids)],
        "temperature": manifest.temperature,
        "max_length": settings["max_length"],
        "head": settings["head"],
        "precision": settings["precision"],
        "one_text_a_run": settings["alone"],
        "artifact": digest,
    }
    out.mkdir(parents=True)
    try:
        for name in (GRAPH, TOKENIZER, HEAD):
            shutil.copyfile(artifact / name, out / name)
        (out / CLASSIFIER).write_bytes(canonical_json(told))
        (out / EXAMPLE).write_text(_PROGRAM, encoding="utf-8")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
