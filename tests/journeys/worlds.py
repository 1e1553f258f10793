"""A small world of three labels: what people ask, the right answers, and versions that answer as they are told."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts.folder import publish
from app.db.tables import ModelVersion, Text, TrainingBatch
from app.intent.selection import is_gold_candidate
from app.intent.text import MaskedText, text_hash
from app.scorers.artifact import verify
from app.services import annotations, batches, taxonomy
from tests.builders import ask, domain_of, make_version, set_taxonomy
from tests.journeys.processes import Installation
from trainer.__main__ import main as train

POWER, PASSWORD, PARCEL = "硬件故障 > 电源问题", "账户 > 忘记密码", "物流 > 快递延误"
LABELS = (POWER, PASSWORD, PARCEL)

_WORDS = {
    POWER: (("手机", "电脑", "平板", "耳机", "手表"), ("充不进电", "开不了机", "自动关机", "电池鼓包", "充电很慢")),
    PASSWORD: (("账号", "密码", "登录", "邮箱", "会员"), ("忘记了", "重置不了", "被锁定", "验证失败", "找不回来")),
    PARCEL: (("快递", "包裹", "订单", "物流", "货"), ("还没到", "停了三天", "丢了", "显示异常", "迟迟不发")),
}
_TAILS = ("怎么办", "请帮忙", "急", "谢谢", "什么情况", "有人吗", "昨天开始", "第二次了")


def texts_of(label: str, count: int, *, gold: bool | None = None, seed: int = 0) -> list[str]:
    """So many distinct texts of a label; `gold`: only those that the hash holds out, or only the others."""
    subjects, troubles = _WORDS[label]
    rng = random.Random(seed)
    found: dict[str, None] = {}
    for number in itertools.count():
        if len(found) >= count:
            return list(found)
        text = f"{rng.choice(subjects)}{rng.choice(troubles)}{rng.choice(_TAILS)}"
        if number > 50:
            text += f"{rng.choice(subjects)}{rng.choice(_TAILS)}{number % 97}"
        if gold is None or is_gold_candidate(text_hash(MaskedText(text))) == gold:
            found[text] = None
    raise AssertionError("unreachable")


def truth(text: str) -> str:
    """The label of a text of this world."""
    return max(LABELS, key=lambda label: sum(word in text for words in _WORDS[label] for word in words))


def label_texts(
    world: Installation, each: int, *, gold: int = 0, seed: int = 0, domain: str = "default", shift: int = 0
) -> None:
    """Ask and label so many texts of each label (and gold ones), straight into the database.

    `shift`: the answer lies so many labels after the right one.
    """
    set_taxonomy(world.work, LABELS, domain)
    for place, label in enumerate(LABELS):
        wanted = texts_of(label, each, gold=False, seed=seed) + texts_of(label, gold, gold=True, seed=seed)
        given = LABELS[(place + shift) % len(LABELS)]
        for question_id in ask(world.work, *wanted, domain=domain):
            world.work(annotations.submit, question_id, correct_intent=[given], labeler_id="ana")


def traffic(seed: int = 1) -> Iterator[str]:
    """What people ask, without an end."""
    rng = random.Random(seed)
    pool = [text for label in LABELS for text in texts_of(label, 60, seed=seed + 100)]
    while True:
        yield rng.choice(pool)


def told_version(world: Installation, folder: Path, *, shift: int) -> str:
    """A registered version that answers each text with the label `shift` places after the right one."""
    set_taxonomy(world.work, LABELS)
    ids = world.work.read(_label_ids)
    work = folder / f"told-{shift}"
    work.mkdir(parents=True)
    rows = [
        {"text_id": number, "text": text, "label": ids[LABELS[(LABELS.index(label) + shift) % 3]]}
        for number, (label, text) in enumerate((label, text) for label in LABELS for text in texts_of(label, 20))
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (work / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = {
        "recipe": "ngram",
        "labels": [{"id": ids[label], "path": label} for label in LABELS],
        "examples": "examples.jsonl",
        "references": list(LABELS),
        "config": {"folds": 2, "strengths": [30]},
        "seed": shift,
        "taxonomy_digest": "",
        "items_digest": "",
    }
    (work / "spec.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    assert train(["ngram", "--spec", str(work / "spec.json"), "--out", str(work / "artifact")]) == 0
    digest = publish(work / "artifact", world.artifacts)
    return world.work(
        lambda session: (
            make_version(
                session, artifact_digest=digest, model_path=str(world.artifacts / digest), threshold=0.1
            ).version
        )
    )


def _label_ids(session: Session) -> dict[str, int]:
    return {label.path: label.id for label in taxonomy.active(session, domain_of(session).id)}


def answered_shift(text: str, label: str) -> int:
    """How many places the answer lies after the truth: names the told version that gave it."""
    return (LABELS.index(label) - LABELS.index(truth(text))) % 3


def probes(count: int) -> Sequence[str]:
    """Texts of all labels that no version of this world was trained on."""
    return [text for label in LABELS for text in texts_of(label, -(-count // 3), seed=77)][:count]


def queue_a_batch(world: Installation, config: dict | None = None) -> str:
    """Label the world and queue a batch; returns its id."""
    label_texts(world, 12)

    def opened(session):
        batch = batches.open_batch(session, "default", opened_by="person", config=config or {})
        return batches.run(session, batch.batch_id).batch_id

    return world.work(opened)


def check_whole(world: Installation) -> None:
    """Whatever happened: nothing half done is served, registered or claimed."""

    def read(session):
        versions = session.scalars(select(ModelVersion)).all()
        claimed = session.scalars(select(Text.claimed_by).where(Text.training_status == "claimed")).all()
        live = session.scalars(
            select(TrainingBatch.id).where(TrainingBatch.training_status.not_in(["completed", "failed"]))
        ).all()
        return versions, set(claimed), set(live)

    versions, claimed, live = world.work.read(read)
    for version in versions:
        verify(world.artifacts / version.artifact_digest, version.artifact_digest)
    assert claimed <= live
    assert sum(bool(version.is_active) for version in versions) <= 1
