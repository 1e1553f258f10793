"""Tiny real artifacts: trained once by the real trainer, copied and broken by the tests."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.intent.releases import DomainState, Release

LABELS = ("硬件故障 > 电源问题 > 无法开机", "售后服务 > 退货", "其他")
TEXTS: Mapping[str, Sequence[str]] = {
    LABELS[0]: ("手机开不了机", "电源键没有反应", "充不进电无法启动", "按了没反应黑屏", "开机失败"),
    LABELS[1]: ("我要退货", "怎么申请退货", "退货地址在哪", "能不能退款退货", "七天无理由退货"),
    LABELS[2]: ("你好", "今天天气", "谢谢你", "再见", "哈哈"),
}


@dataclass(frozen=True)
class Artifact:
    """A folder as the trainer left it; its labels have the ids that were asked for."""

    folder: Path
    digest: str
    label_ids: tuple[int, ...]

    def installed_in(self, store: Path) -> Path:
        """A copy under its digest, where a runtime looks for it."""
        store.mkdir(parents=True, exist_ok=True)
        copied = store / self.digest
        if not copied.exists():
            shutil.copytree(self.folder, copied)
        return copied


def train(
    folder: Path, label_ids: Sequence[int], *, seed: int = 0, texts: Mapping[str, Sequence[str]] = TEXTS
) -> Artifact:
    """Train the three labels on fifteen texts: a second or two. Another seed gives another artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = dict(zip(texts, label_ids, strict=True))
    examples = [(text, numbered[label]) for label, said in texts.items() for text in said]
    (folder / "examples.jsonl").write_text(
        "".join(
            json.dumps({"text_id": number, "text": text, "label": label_id}, ensure_ascii=False) + "\n"
            for number, (text, label_id) in enumerate(examples, 1)
        ),
        encoding="utf-8",
    )
    spec = {
        "recipe": "ngram",
        "labels": [{"id": label_id, "path": path} for path, label_id in numbered.items()],
        "examples": "examples.jsonl",
        "references": ["你好", "退货", "无法开机"],
        "config": {},
        "seed": seed,
        "taxonomy_digest": "ab",
        "items_digest": "cd",
    }
    (folder / "spec.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    command = [sys.executable, "-m", "trainer", "ngram", "--spec", str(folder / "spec.json")]
    finished = subprocess.run(
        [*command, "--out", str(folder / "artifact")], check=True, capture_output=True, text=True, timeout=120
    )
    digest = json.loads(finished.stdout.splitlines()[-1])["digest"]
    return Artifact(folder / "artifact", digest, tuple(label_ids))


def release(
    artifact: Artifact | None,
    *,
    domain: str = "default",
    epoch: int = 1,
    paths: Mapping[int, str] | None = None,
    threshold: float = 0.4,
    taxonomy_version: int = 1,
    version: str = "default-v1",
) -> Release:
    """What a domain is to serve; without an artifact nothing but the domain itself."""
    state = DomainState(1, domain, "single_label", True, epoch if artifact else 0, taxonomy_version)
    if artifact is None:
        return Release(state, None, None, None, 1.0, {})
    named = dict(zip(artifact.label_ids, LABELS, strict=True)) if paths is None else paths
    return Release(state, epoch, version, artifact.digest, threshold, named)
