"""A tiny real encoder in ONNX form, built without torch: two embeddings, one layer of attention, mean pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from app.intent.scope import fit_scope
from app.scorers.artifact import (
    LINEAGE,
    OutOfFold,
    canonical_json,
    seal,
    write_out_of_fold,
    write_references,
)
from app.scorers.onnx import OnnxModel, OnnxScorer, read_model, write_model
from app.scorers.onnx_encoder import INPUTS, OUTPUT, EncoderSettings, OnnxEncoder
from trainer.logistic import fit_temperature, softmax

DIMENSION = 32
MAX_LENGTH = 24
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LETTERS = "".join(
    dict.fromkeys(
        "abcdefghijklmnopqrstuvwxyz0123456789?!."
        "手机开不了电源键没有反应充进无法启动按黑屏失败我要退货怎么申请地址在哪能款七天理由你好今气谢再见哈"
        "电脑平板耳机手表充不进自动关池鼓包很慢账号密码登录邮箱会员忘记了重置被锁定验证找回来快递裹订单物流还到停"
        "三丢显示异常迟发办帮忙急什情况人吗昨始第二次"
    )
)

# Several of one length: they run together, unless texts run alone.
REFERENCES = ("你好", "退货", "再见", "谢谢", "今天", "地址", "黑屏", "?!", "无法开机", "充不进电", "hello", "")


@dataclass(frozen=True)
class Weights:
    """What the graph holds, so that a test can compute its answer by itself."""

    tokens: NDArray[np.float32]
    positions: NDArray[np.float32]
    mixing: NDArray[np.float32]


def weights(seed: int = 0, *, size: int = len(SPECIAL) + 2 * len(LETTERS)) -> Weights:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Weights(draw(size, DIMENSION), 0.1 * draw(MAX_LENGTH, DIMENSION), 0.3 * draw(DIMENSION, DIMENSION))


def tokenizer() -> bytes:
    """WordPiece over single characters, with the ends marked, as BERT's."""
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    made = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return str(made.to_str()).encode("utf-8")


def graph(held: Weights, *, neighbours: bool = False) -> ModelProto:
    """The encoder. `neighbours`: rounds to 8 bits with a scale taken over all texts of a run, as dynamic int8 does."""
    rounding = (
        [
            helper.make_node("DynamicQuantizeLinear", ["exact"], ["q", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["hidden"]),
        ]
        if neighbours
        else [helper.make_node("Identity", ["exact"], ["hidden"])]
    )
    nodes = [
        helper.make_node("Gather", ["tokens", "input_ids"], ["words"]),
        helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["positions", "zero_1", "length"], ["places"]),
        helper.make_node("Add", ["words", "places"], ["exact"]),
        *rounding,
        helper.make_node("Transpose", ["hidden"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["hidden", "turned"], ["likeness"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["mask", "one"], ["absent"]),
        helper.make_node("Mul", ["absent", "huge"], ["hiding"]),
        helper.make_node("Unsqueeze", ["hiding", "axis_1"], ["hiding_rows"]),
        helper.make_node("Add", ["likeness", "hiding_rows"], ["visible"]),
        helper.make_node("Softmax", ["visible"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "hidden"], ["seen"]),
        helper.make_node("MatMul", ["seen", "mixing"], ["mixed"]),
        helper.make_node("Add", ["hidden", "mixed"], ["layer"]),
        helper.make_node("Unsqueeze", ["mask", "axis_2"], ["mask_rows"]),
        helper.make_node("Mul", ["layer", "mask_rows"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis_1"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis_1"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], [OUTPUT]),
    ]
    constants: dict[str, Any] = {
        "tokens": held.tokens,
        "positions": held.positions,
        "mixing": held.mixing,
        "one": np.float32(1.0),
        "huge": np.float32(1e9),
        "zero_1": np.array([0], dtype=np.int64),
        "axis_1": np.array([1], dtype=np.int64),
        "axis_2": np.array([2], dtype=np.int64),
    }
    inside = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "length"]) for name in INPUTS],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["texts", held.mixing.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(inside, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def by_hand(held: Weights, token_ids: Sequence[int]) -> NDArray[np.float64]:
    """What the graph must answer to one text, in numpy."""
    hidden = held.tokens.astype(np.float64)[list(token_ids)] + held.positions[: len(token_ids)]
    likeness = hidden @ hidden.T
    shares = np.exp(likeness - likeness.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray((hidden + shares @ hidden @ held.mixing).mean(axis=0))


def settings(**changes: Any) -> EncoderSettings:
    values: dict[str, Any] = {"max_length": MAX_LENGTH, "dimension": DIMENSION, "alone": False, "precision": "fp32"}
    return EncoderSettings(**(values | changes))


def write_artifact(
    folder: Path,
    examples: Sequence[tuple[int, str, int]],
    *,
    paths: dict[int, str],
    seed: int = 0,
    references: Sequence[str] = REFERENCES,
    facts: dict[str, Any] | None = None,
    neighbours: bool = False,
    alone: bool = False,
    scoped: bool = False,
) -> str:
    """An artifact with a head fitted on the examples (text id, text, label id); returns its digest.

    `scoped`: it also knows which texts it has labels for.
    """
    from sklearn.linear_model import LogisticRegression

    folder.mkdir(parents=True, exist_ok=True)
    label_ids = tuple(sorted({label for *_, label in examples}))
    told = settings(alone=alone)
    content = graph(weights(seed), neighbours=neighbours).SerializeToString()
    encoder = OnnxEncoder(told, content, tokenizer())
    embeddings = encoder.embed([text for _, text, _ in examples])
    targets = np.array([label_ids.index(label) for *_, label in examples], dtype=np.int64)
    fitted = LogisticRegression(C=20.0, max_iter=500).fit(embeddings, targets)
    logits = embeddings @ fitted.coef_.T + fitted.intercept_
    if len(label_ids) == 2:
        logits = np.hstack([-logits, logits]) / 2
        head = {"weights": np.hstack([-fitted.coef_.T, fitted.coef_.T]) / 2}
        head["bias"] = np.array([-fitted.intercept_[0], fitted.intercept_[0]]) / 2
    else:
        head = {"weights": fitted.coef_.T, "bias": fitted.intercept_}
    head = {name: array.astype(np.float32) for name, array in head.items()}
    temperature = fit_temperature(logits, targets)
    scope = fit_scope(embeddings, targets, softmax(logits, temperature)) if scoped else None
    write_model(folder, OnnxModel(told, content, tokenizer(), head, scope))
    text_ids = np.array([text_id for text_id, *_ in examples], dtype=np.int64)
    write_out_of_fold(folder, OutOfFold(text_ids, np.array(label_ids)[targets], softmax(logits, temperature)))
    (folder / LINEAGE).write_bytes(canonical_json({"text_ids": text_ids.tolist()}))
    write_references(folder, OnnxScorer.of(read_model(folder), label_ids, temperature), references)
    return seal(
        folder,
        {
            "recipe": "encoder",
            "scorer": "onnx",
            "labels": [{"id": label_id, "path": paths[label_id]} for label_id in label_ids],
            "left_out_labels": [],
            "temperature": temperature,
            "counts": {"texts": len(examples)},
            "taxonomy_digest": "",
            "items_digest": "",
            **(facts or {}),
        },
    )
