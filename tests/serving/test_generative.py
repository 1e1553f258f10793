"""Below the threshold the generative tier is asked; whatever becomes of it, no answer is worse than without it."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import DomainNotFound, NoGenerativeAnswer, TextRefused
from app.intent.questions import AskedQuestion
from app.intent.releases import Release
from app.scorers.generative import GenerativeClient
from app.scorers.generative_tier import total_probability
from app.serving.batching import GreedyBatcher
from app.serving.classifier import Asked, Classifier, Secret
from app.serving.generative import Recheck
from app.serving.generative_keeper import SOCKET, Keeper, read_state
from app.serving.generative_proofs import Proofs
from app.serving.runtime import Runtime
from tests.serving.artifacts import LABELS, Artifact, release
from tests.serving.generative_process import SURE, write_artifact
from tests.serving.test_generative_keeper import command, ready, wait_for

# The artifact of characters is unsure of it: no word of it is known, and all labels are alike.
UNSURE = "zzz 快递"
SURE_TEXT = "我要退货"
THRESHOLD = 0.6


@dataclass
class World:
    """A classifier with a real model, and the process that it asks again."""

    folder: Path
    runtime: Runtime
    keeper: Keeper
    proofs: Proofs
    recheck: Recheck
    classifier: Classifier[AskedQuestion]
    rows: list[AskedQuestion]
    seen: list[str]

    def control(self, **wanted: Any) -> None:
        """What the process is to do."""
        made = self.folder / "control.new"
        made.write_text(json.dumps(wanted))
        made.replace(self.folder / "control")

    def asked_of_process(self) -> list[tuple[str, list[int]]]:
        lines = (self.folder / "asked").read_text().splitlines() if (self.folder / "asked").exists() else []
        return [(text, labels) for text, labels in map(json.loads, lines)]

    def ask(self, *texts: str) -> list[Any]:
        return asyncio.run(self.classifier.classify([Asked(text, "default") for text in texts]))

    def refine(self, text: str, domain: str = "default") -> Any:
        return asyncio.run(self.classifier.refine(Asked(text, domain)))

    def wait_until(self, status: str) -> None:
        wait_for(lambda: self.proofs.standing()[0] == status)


def both(artifact: Artifact, generative: str | None, **changes: Any) -> Release:
    made = release(artifact, threshold=THRESHOLD, **changes)
    return replace(made, generative_version="default-v2", generative_digest=generative) if generative else made


@pytest.fixture
def bare(tmp_path: Path, artifact: Artifact) -> Iterator[World]:
    """A service whose domain has no generative version yet."""
    artifact.installed_in(tmp_path)
    runtime = Runtime(tmp_path)
    runtime.swap(both(artifact, None))
    keeper = Keeper(None, threads=1, waiting=8, command=command(tmp_path / "control"), first_pause_seconds=0.05)
    client = GenerativeClient(keeper.folder / SOCKET)
    proofs = Proofs(
        keeper.folder,
        client,
        wanted=lambda: [loaded.release for loaded in runtime.loaded.values()],
        fetch=runtime.fetch,
        look_seconds=0.02,
        retry_seconds=0.1,
    )
    seen: list[str] = []
    recheck = Recheck(
        client, proofs, capacity=2, seconds=30.0, alone_seconds=30.0, observe=lambda outcome, _: seen.append(outcome)
    )
    rows: list[AskedQuestion] = []

    def log(asked: Any) -> list[AskedQuestion]:
        rows.extend(asked)
        return list(asked)

    batcher: GreedyBatcher[AskedQuestion, Any] = GreedyBatcher(log, size=50, capacity=100, name="log")
    classifier = Classifier(runtime, batcher, Secret(b"k" * 32), capacity=100, refresh=lambda: None, recheck=recheck)
    yield World(tmp_path, runtime, keeper, proofs, recheck, classifier, rows, seen)
    asyncio.run(classifier.close())
    batcher.close()
    proofs.stop()
    keeper.stop()


def install(world: World, artifact: Artifact, name: str = "made", **changes: Any) -> str:
    """Give the domain a generative version that knows what a parcel is."""
    made = world.folder / f"generative-{name}"
    digest = write_artifact(made, artifact.label_ids, {"快递": artifact.label_ids[1]}, **changes)
    made.rename(world.folder / digest)
    world.runtime.swap(both(artifact, digest, epoch=2))
    return digest


@pytest.fixture
def world(bare: World, artifact: Artifact) -> World:
    install(bare, artifact)
    bare.keeper.start()
    bare.proofs.start()
    bare.wait_until("ready")
    (bare.folder / "asked").unlink()
    return bare


def test_an_unsure_question_is_asked_again_among_the_models_best_labels(world: World, artifact: Artifact) -> None:
    [row] = world.ask(UNSURE)
    assert (row.intents, row.method, row.trigger_check) == ([LABELS[1]], "generative", False)
    assert row.route_used == ["discriminative", "generative"]
    assert row.confidence == pytest.approx(SURE, abs=1e-5)
    assert sum(p for _, p in row.topk) == pytest.approx(1.0, abs=1e-5)
    assert [verdict["version"] for verdict in row.verdicts] == ["default-v1", "default-v2"]
    assert row.model_version == "default-v1"
    [(text, candidates)] = world.asked_of_process()
    assert text == UNSURE
    assert sorted(candidates) == sorted(artifact.label_ids)
    assert world.seen == ["answered"]


def test_a_sure_question_is_never_asked_again(world: World) -> None:
    [row] = world.ask(SURE_TEXT)
    assert (row.intents, row.method, row.route_used) == ([LABELS[1]], "local_model", ["discriminative"])
    assert world.asked_of_process() == []
    assert world.seen == []


def test_what_is_still_unsure_goes_to_a_person(world: World) -> None:
    [row] = world.ask("zzz")
    assert row.trigger_check
    assert row.route_used == ["discriminative", "generative"]
    assert world.seen == ["answered"]


def test_a_sure_question_does_not_wait_for_an_unsure_one(world: World) -> None:
    world.control(hold=True)

    async def run() -> list[Any]:
        unsure = asyncio.create_task(world.classifier.classify([Asked(UNSURE, "default")]))
        while not world.asked_of_process():
            await asyncio.sleep(0.01)
        for _ in range(20):
            [sure] = await world.classifier.classify([Asked(SURE_TEXT, "default")])
            assert sure.method == "local_model"
        assert len(world.rows) == 20
        assert not unsure.done()
        world.control()
        return await unsure

    [row] = asyncio.run(run())
    assert row.method == "generative"


def test_an_answer_waits_for_the_tier_until_the_deadline_and_no_longer(world: World) -> None:
    world.control(hold=True)
    world.recheck._seconds = 0.3
    [row] = world.ask(UNSURE)
    assert (row.method, row.trigger_check) == ("local_model", True)
    assert row.route_used == ["discriminative", "generative"]
    # Of the 0.3 seconds; the process would hold it for ever.
    assert row.latency_ms < 10_000
    assert row.verdicts[-1] | {"version": None} == {
        "tier": "generative", "label_id": None, "confidence": None, "topk": [], "reason": "late", "version": None,
    }  # fmt: skip
    assert world.seen == ["late"]


def test_more_than_the_queue_holds_is_answered_at_once_without_the_tier(world: World) -> None:
    world.control(hold=True)

    async def run() -> list[Any]:
        first = asyncio.create_task(world.classifier.classify([Asked(UNSURE, "default")]))
        while not world.asked_of_process():
            await asyncio.sleep(0.01)
        others = [
            asyncio.create_task(world.classifier.classify([Asked(f"{UNSURE} {number}", "default")]))
            for number in range(5)
        ]
        while len(world.rows) < 3:
            await asyncio.sleep(0.01)
        assert world.recheck.waiting == 2
        world.control()
        return [row for task in (first, *others) for row in await task]

    rows = asyncio.run(run())
    # One is in the hands of the process, and two wait.
    assert sorted(world.seen) == ["answered"] * 3 + ["queue_full"] * 3
    assert [row.method for row in rows].count("generative") == 3
    assert all(row.route_used == ["discriminative", "generative"] for row in rows)


def test_a_process_that_dies_costs_its_verdict_and_is_asked_again_when_it_is_back(world: World) -> None:
    before = ready(world.keeper)
    world.control(die=3)
    [row] = world.ask(UNSURE)
    assert (row.method, row.verdicts[-1]["reason"]) == ("local_model", "unreachable")
    world.control()
    ready(world.keeper, but=before)
    world.wait_until("ready")
    [row] = world.ask(UNSURE)
    assert row.method == "generative"


def test_an_error_of_the_process_is_counted_by_its_own_word(world: World) -> None:
    world.control(error="the computation failed")
    [row] = world.ask(UNSURE)
    assert (row.method, row.verdicts[-1]["reason"]) == ("local_model", "failed")
    with pytest.raises(NoGenerativeAnswer, match="failed"):
        world.refine(UNSURE)
    assert world.seen == ["failed", "failed"]


def test_refine_asks_the_tier_alone_about_all_labels_and_is_logged(world: World, artifact: Artifact) -> None:
    row = world.refine("  快递 呢  ")
    assert (row.intents, row.method, row.route_used) == ([LABELS[1]], "generative", ["generative"])
    assert row.model_version == "default-v2"
    assert world.rows == [row]
    assert world.asked_of_process() == [("快递 呢", list(artifact.label_ids))]
    with pytest.raises(TextRefused):
        world.refine("  ")
    with pytest.raises(DomainNotFound):
        world.refine("快递", domain="nowhere")


def test_a_domain_without_a_generative_version_is_answered_as_before(bare: World) -> None:
    [row] = bare.ask(UNSURE)
    assert row.route_used == ["discriminative"]
    with pytest.raises(NoGenerativeAnswer, match="no generative version"):
        bare.refine(UNSURE)
    assert bare.seen == []


def test_a_tier_that_is_not_there_yet_abstains_at_once(bare: World, artifact: Artifact) -> None:
    install(bare, artifact)
    [row] = bare.ask(UNSURE)
    assert (row.method, row.verdicts[-1]["reason"]) == ("local_model", "starting")
    with pytest.raises(NoGenerativeAnswer, match="starting"):
        bare.refine(UNSURE)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"wrong_by": 0.01}, "a reference answer is off by 0.01"),
        ({"answers": {"unusable": "the base model is not here"}}, "the base model is not here"),
        ({"answers": {"labels": [1], "keywords": {}}}, "labels of the manifest"),
    ],
)
def test_an_artifact_that_is_not_what_was_trained_is_named_and_never_asked(
    bare: World, artifact: Artifact, changes: dict[str, Any], why: str
) -> None:
    install(bare, artifact, **changes)
    bare.keeper.start()
    bare.proofs.start()
    bare.wait_until("broken")
    assert why in (bare.proofs.standing()[1] or "")
    assert "default-v2" in (bare.proofs.standing()[1] or "")
    [row] = bare.ask(UNSURE)
    assert (row.method, row.verdicts[-1]["reason"]) == ("local_model", "broken")


def test_a_damaged_artifact_is_never_handed_to_the_process_and_is_tried_again(bare: World, artifact: Artifact) -> None:
    digest = install(bare, artifact)
    whole = bare.folder / digest / "answers.json"
    content = whole.read_bytes()
    whole.write_bytes(content[:-1] + b" ")
    bare.keeper.start()
    bare.proofs.start()
    bare.wait_until("broken")
    assert bare.asked_of_process() == []
    whole.write_bytes(content)
    bare.wait_until("ready")
    assert bare.ask(UNSURE)[0].method == "generative"


def test_labels_that_the_domain_never_had_keep_the_tier_silent(bare: World, artifact: Artifact) -> None:
    made = bare.folder / "generative-other"
    digest = write_artifact(made, (1, 2, 99), {"快递": 2})
    made.rename(bare.folder / digest)
    bare.runtime.swap(both(artifact, digest, epoch=2))
    bare.keeper.start()
    bare.proofs.start()
    bare.wait_until("broken")
    assert "labels that its domain never had" in (bare.proofs.standing()[1] or "")
    assert bare.ask(UNSURE)[0].verdicts[-1]["reason"] == "broken"


def test_labels_that_only_the_model_knows_are_no_candidates(bare: World, artifact: Artifact) -> None:
    known = artifact.label_ids[1:]
    made = bare.folder / "generative-two"
    digest = write_artifact(made, known, {"快递": known[0]})
    made.rename(bare.folder / digest)
    bare.runtime.swap(both(artifact, digest, epoch=2))
    bare.keeper.start()
    bare.proofs.start()
    bare.wait_until("ready")
    [row] = bare.ask(UNSURE)
    assert row.method == "generative"
    alone, again = row.verdicts
    kept = next(p for label, p in alone["topk"] if label == artifact.label_ids[0])
    assert [p for label, p in again["topk"] if label == artifact.label_ids[0]] == [pytest.approx(kept, abs=1e-5)]
    assert row.confidence == pytest.approx(SURE * (1 - kept), abs=1e-5)


def test_of_several_workers_one_proves_an_artifact(world: World, artifact: Artifact) -> None:
    asked = len(world.asked_of_process())
    other = Proofs(
        world.keeper.folder,
        GenerativeClient(world.keeper.folder / SOCKET),
        wanted=lambda: [loaded.release for loaded in world.runtime.loaded.values()],
        fetch=world.runtime.fetch,
    )
    other.look()
    assert other.standing() == ("ready", None)
    assert len(world.asked_of_process()) == asked


def test_what_was_proved_in_a_process_counts_for_no_other(world: World) -> None:
    def anew() -> Proofs:
        return Proofs(
            world.keeper.folder,
            GenerativeClient(world.keeper.folder / SOCKET),
            wanted=lambda: [loaded.release for loaded in world.runtime.loaded.values()],
            fetch=world.runtime.fetch,
        )

    proofs, loaded = anew(), world.runtime.loaded["default"]
    proofs.look()
    assert not isinstance(proofs.proven(loaded), str)
    before = ready(world.keeper)
    os.kill(before, signal.SIGKILL)
    ready(world.keeper, but=before)
    proofs._state = read_state(world.keeper.folder)
    assert proofs.proven(loaded) == "starting"
    assert proofs.standing()[0] == "starting"
    proofs.look()
    assert not isinstance(proofs.proven(loaded), str)


def test_confidence_is_weighted_by_how_likely_the_answer_is_a_candidate() -> None:
    # P(label) = P(label | candidates) · P(candidates); what was no candidate keeps what the model gave it.
    model = ((1, 0.4), (2, 0.2), (3, 0.1))
    assert total_probability(((2, 0.75), (1, 0.25)), model) == (
        (2, pytest.approx(0.45)), (1, pytest.approx(0.15)), (3, 0.1),
    )  # fmt: skip
    assert total_probability(((2, 0.5), (1, 0.5)), ((1, 0.7), (2, 0.5)))[0][1] <= 1.0


def test_a_slow_start_is_not_waited_for_at_the_end(bare: World) -> None:
    begun = time.monotonic()
    bare.keeper.start()
    bare.keeper.stop()
    assert time.monotonic() - begun < 30
