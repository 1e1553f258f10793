"""A generative artifact is proved alone and beside the active version, on gold, by what will be asked."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from app.db.tables import ModelVersion, Text
from app.scorers import generative_process
from app.scorers.artifact import OutOfFold
from app.services import activations, batches, domains, versions
from jobs import generative_proving
from jobs.answering import Gold
from jobs.context import JobContext
from jobs.generative_proving import drawn
from jobs.proving import NotProven
from jobs.trainer_process import TrainerStopped
from jobs.training import _write_spec
from tests.builders import column, domain_id, domain_of, make_version
from tests.jobs.test_jobs import World, context_on
from tests.journeys.worlds import PARCEL, PASSWORD, POWER, label_texts, texts_of
from tests.serving.artifacts import train
from tests.serving.generative_process import write_artifact
from tests.serving.test_generative_keeper import command

KEYWORDS = {
    POWER: ("充不进电", "开不了机", "自动关机", "电池鼓包", "充电很慢"),
    PASSWORD: ("忘记了", "重置不了", "被锁定", "验证失败", "找不回来"),
    PARCEL: ("还没到", "停了三天", "丢了", "显示异常", "迟迟不发"),
}
GOLD_OF_EACH = 12


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobContext]:
    """A domain with labels and gold; a private process is one that knows keywords."""
    made: Callable[[Path], Any] = command(tmp_path / "control")
    monkeypatch.setattr(generative_process, "command", lambda socket, *_, **__: list(made(socket)))
    given = context_on(sqlite_url, tmp_path, extract_keywords=False)
    label_texts(World(given), 6, gold=GOLD_OF_EACH)
    yield given
    given.work.engine.dispose()


def paths(context: JobContext) -> dict[str, int]:
    release = context.work.read(domains.release, domain_id(context.work))
    return {path: label_id for label_id, path in release.paths.items()}


def knowing(context: JobContext, *, shift: int = 0, but: int = 0) -> dict[str, int]:
    """Keywords with the label `shift` places after their own; the last `but` of each label are not known."""
    ids = list(paths(context).values())
    named = paths(context)
    return {
        word: ids[(ids.index(named[label]) + shift) % len(ids)]
        for label, words in KEYWORDS.items()
        for word in words[: len(words) - but]
    }


def claim(context: JobContext) -> tuple[batches.Claimed, Any]:
    """A claimed batch of the recipe, and its items."""

    def start(session: Session) -> str:
        batch = batches.open_batch(
            session, "default", opened_by="ana", recipe="lora", config={"base_model": "a-causal-model"}
        )
        return batches.run(session, batch.batch_id).batch_id

    context.work(start)
    claimed = context.work(batches.claim_next, worker="w")
    assert claimed is not None
    return claimed, context.work.read(batches.items, claimed.batch.id)


def prove(
    context: JobContext, keywords: Mapping[str, int], *, sure: bool = True, **changes: Any
) -> tuple[versions.Proof, str]:
    """Prove an artifact that knows these keywords, and register it; the proof and the name of the version."""
    claimed, items = claim(context)
    digest = install(context, keywords, items, sure=sure, **changes)
    proof = generative_proving.prove(context, claimed, items, digest)
    return proof, context.work(versions.register, claimed, proof).version


def install(context: JobContext, keywords: Mapping[str, int], items: Any, *, sure: bool = True, **changes: Any) -> str:
    ids = tuple(paths(context).values())
    trained = [item for item in items if item.role != "gold"]
    rows = [[0.9 if (label == item.label_id) == sure else 0.05 for label in ids] for item in trained]
    held_out = np.array(rows) / np.array(rows).sum(axis=1, keepdims=True)
    made = context.settings.artifacts / "made"
    digest = write_artifact(
        made,
        ids,
        dict(keywords),
        out_of_fold=OutOfFold(
            np.array([item.text_id for item in trained]), np.array([item.label_id for item in trained]), held_out
        ),
        **changes,
    )
    made.rename(context.settings.artifacts / digest)
    return digest


def serve_unsurely(context: JobContext, tmp_path: Path) -> str:
    """An active version that has seen little: mostly right, and sure of nothing."""
    named = paths(context)
    seen = {label: texts_of(label, 4, gold=False, seed=5) for label in named}
    artifact = train(tmp_path / "unsure", tuple(named.values()), texts=seen)
    artifact.installed_in(context.settings.artifacts)

    def flip(session: Session) -> str:
        version = make_version(session, artifact_digest=artifact.digest, threshold=0.99)
        activations.activate(session, version.version, by="ana", reason="x")
        return version.version

    return context.work(flip)


def test_the_first_one_is_proved_alone_and_becomes_the_generative_version(context: JobContext) -> None:
    proof, name = prove(context, knowing(context))
    assert proof.passed, proof.reasons
    assert proof.evaluation["gold"]["count"] == 3 * GOLD_OF_EACH
    assert proof.evaluation["gold"]["accuracy"]["value"] == 1.0
    assert "asked_again" not in proof.evaluation
    release = context.work.read(domains.release, domain_id(context.work))
    assert (release.version, release.generative_version) == (None, name)


def test_one_that_is_no_better_than_the_most_frequent_label_is_refused(context: JobContext) -> None:
    proof, name = prove(context, knowing(context), sure=False)
    assert not proof.passed
    assert "most frequent label" in " ".join(proof.reasons)
    assert context.work.read(versions.find, name).status == "refused"
    assert context.work.read(domain_of).generative_version_id is None


def test_one_that_is_worse_than_the_former_generative_version_is_refused(context: JobContext) -> None:
    _, former = prove(context, knowing(context))
    proof, _ = prove(context, knowing(context, shift=1))
    assert not proof.passed
    assert former in " ".join(proof.reasons)
    release = context.work.read(domains.release, domain_id(context.work))
    assert release.generative_version == former


def test_one_that_mends_the_unsure_answers_passes_and_says_how_many(context: JobContext, tmp_path: Path) -> None:
    active = serve_unsurely(context, tmp_path)
    proof, _ = prove(context, knowing(context))
    assert proof.passed, proof.reasons
    told = proof.evaluation["asked_again"]
    assert told["beside"] == active
    assert told["asked"] > GOLD_OF_EACH
    assert told["right_after"] == told["asked"] > told["right_before"]
    assert told["to_person_after"] < told["to_person_before"] == told["asked"]
    assert told["macro_f1_after"] > told["macro_f1_before"]
    assert context.work.read(domain_of).active_version_id is not None


def test_one_that_spoils_the_unsure_answers_is_refused_however_good_it_is_out_of_fold(
    context: JobContext, tmp_path: Path
) -> None:
    active = serve_unsurely(context, tmp_path)
    proof, _ = prove(context, knowing(context, shift=1))
    assert not proof.passed
    assert f"{active} alone" in " ".join(proof.reasons)
    told = proof.evaluation["asked_again"]
    assert told["right_after"] < told["right_before"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"wrong_by": 0.01}, "a reference answer is off"),
        ({"answers": {"unusable": "its base is not here"}}, "its base is not here"),
    ],
)
def test_what_cannot_be_asked_is_not_proven(context: JobContext, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(NotProven, match=why):
        prove(context, knowing(context), **changes)


def test_a_process_that_fails_over_gold_proves_nothing(context: JobContext, tmp_path: Path) -> None:
    (tmp_path / "control").write_text(json.dumps({"error": "the computation failed"}))
    with pytest.raises(NotProven, match="the computation failed"):
        prove(context, knowing(context))


def test_a_clock_that_stops_does_not_wait_for_gold(context: JobContext) -> None:
    context.stopping.set()
    with pytest.raises(TrainerStopped):
        prove(context, knowing(context))


def test_a_former_version_that_is_gone_stops_nobody(context: JobContext) -> None:
    _, former = prove(context, knowing(context))
    digest = context.work.read(versions.find, former).artifact_digest
    (context.settings.artifacts / digest / "answers.json").write_text("{}")
    proof, _ = prove(context, knowing(context, but=1))
    assert proof.passed, proof.reasons


def test_gold_beyond_the_bound_is_a_uniform_draw_in_order() -> None:
    gold = Gold([str(number) for number in range(1000)], np.arange(1000))
    few = drawn(gold, np.random.default_rng(0), 100)
    assert [int(text) for text in few.texts] == few.truth.tolist() == sorted(few.truth.tolist())
    assert len(set(few.texts)) == 100
    assert 350 < few.truth.mean() < 650
    assert drawn(few, np.random.default_rng(0), 100) is few


def test_the_next_batch_tells_the_trainer_which_texts_the_parent_has_not_seen(
    context: JobContext, tmp_path: Path
) -> None:
    base = tmp_path / "a-causal-model"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "qwen2"}')
    (base / "model.safetensors").write_bytes(b"")
    prove(context, knowing(context))
    seen = set(column(context.work, Text.id))
    label_texts(World(context), 8, seed=3)

    batch = context.work(
        batches.open_batch, "default", opened_by="ana", recipe="lora", config={"base_model": str(base), "epochs": 1}
    )
    context.work(batches.run, batch.batch_id)
    claimed = context.work(batches.claim_next, worker="w")
    assert claimed is not None
    spec = _write_spec(context, claimed, context.work.read(batches.items, claimed.batch.id), tmp_path)

    told = json.loads(spec.read_text())
    assert told["config"] == {"epochs": 1}
    assert told["base"] == {"name": str(base), "folder": str(base)}
    former = context.work.read(versions.generative, claimed.domain)
    assert former is not None
    assert Path(told["parent"]).name == former.artifact_digest
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert {row["text_id"] for row in rows if not row["new"]} <= seen
    assert {row["text_id"] for row in rows if row["new"]} == {row["text_id"] for row in rows} - seen
    assert any(row["new"] for row in rows)
    assert not all(row["new"] for row in rows)


def test_versions_of_the_recipe_are_never_active(context: JobContext) -> None:
    prove(context, knowing(context))
    with context.work.engine.connect() as connection:
        assert connection.execute(ModelVersion.__table__.select().where(ModelVersion.is_active)).first() is None
