"""Small training specs, each with only what its test shows."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.__main__ import main

INTENTS: Mapping[str, tuple[str, ...]] = {
    "硬件故障 > 无法开机": ("手机开不了机", "按电源键没反应", "黑屏了打不开", "昨晚充电后就开不了机", "一直黑屏没反应"),
    "订单 > 退款": ("我要退款", "钱什么时候退回来", "申请退货退款", "退款到账要几天", "不想要了能退钱吗"),
    "Order > Delivery": (
        "where is my parcel",
        "the courier has not come",
        "when will it be delivered",
        "track my parcel please",
        "my delivery is late",
    ),
}
REFERENCES = ("手机开不了机", "where is my refund", "ΩΩΩ", "今天天气不错")


def write_spec(
    folder: Path,
    intents: Mapping[str, Sequence[str]] = INTENTS,
    *,
    references: Sequence[str] = REFERENCES,
    **fields: Any,
) -> Path:
    """Write `spec.json` with its examples, label ids from 1 and text ids from 101, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [{"id": number, "path": path} for number, path in enumerate(intents, 1)]
    pairs = [(number, text) for number, texts in enumerate(intents.values(), 1) for text in texts]
    lines = [
        json.dumps({"text_id": text_id, "text": text, "label": label}, ensure_ascii=False)
        for text_id, (label, text) in enumerate(pairs, 101)
    ]
    (folder / "examples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spec = {
        "recipe": "ngram",
        "labels": labels,
        "examples": "examples.jsonl",
        "references": list(references),
        "config": {},
        "seed": 0,
        "taxonomy_digest": "aa",
        "items_digest": "bb",
    } | fields
    path = folder / "spec.json"
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return path


def train(folder: Path, intents: Mapping[str, Sequence[str]] = INTENTS, **fields: Any) -> Path:
    """Train in this process and return the artifact's folder."""
    spec = write_spec(folder / "spec", intents, **fields)
    out = folder / "artifact"
    assert main(["ngram", "--spec", str(spec), "--out", str(out)]) == 0
    return out


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of known and unknown characters, some empty, some repeating themselves."""
    rng = random.Random(seed)
    pieces = ["手机", "退款", "开", "机", "parcel", "when", " ", "，", "７", "Ω", "未知", "MY", "é", "!", "𠮷"]
    return ["".join(rng.choices(pieces, k=rng.randrange(0, 12))) for _ in range(count)]
