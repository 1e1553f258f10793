"""The whole loop over HTTP: traffic, leases, labels, batches by the clock and by hand, training, proof, flip."""

import itertools
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.journeys.processes import NEVER, Installation, installation, stop, wait_for
from tests.journeys.worlds import LABELS, label_texts, probes, traffic, truth

SLACK_SECONDS = 2.0  # a batch that was told to run waits no longer for a clock


@pytest.fixture(scope="module")
def running(databases, tmp_path_factory) -> Iterator[Installation]:
    """Service and clock, and the loop turned until a version serves."""
    folder = tmp_path_factory.mktemp("loop")
    with installation(folder, databases.fresh("sqlite", folder), TIMEZONE="Asia/Kathmandu") as world:
        world.wait_until_ready(world.start("up"))
        world.http.put("/api/v1/model-tuning/taxonomy", json=list(LABELS)).raise_for_status()
        ask_and_label(world, 150, traffic(1))
        wait_for(lambda: world.get("/stats")["active_version"], what="the first version")
        yield world


def ask_and_label(world: Installation, questions: int, source: Iterator[str], labeler: str = "oracle") -> int:
    """Traffic, then a labeler who answers all that the queue offers. Returns how many texts were labelled."""
    for text in itertools.islice(source, questions):
        world.post("/classify", {"text": text})
    labelled = 0
    wait_for(lambda: world.get("/questions/unlabeled", limit=1)["items"], what="the queue")
    while items := world.get("/questions/unlabeled", limit=50, labeler_id=labeler)["items"]:
        for item in items:
            answer = {
                "correct_intent": [truth(item["question"])],
                "labeler_id": labeler,
                "lease_token": item["lease_token"],
            }
            world.post(f"/questions/{item['question_id']}/label", answer)
            labelled += 1
    return labelled


def finished(world: Installation, batch_id: str) -> dict:
    return wait_for(
        lambda: (row := world.get(f"/batches/{batch_id}"))["training_status"] in ("completed", "failed") and row,
        what=f"the end of {batch_id}",
    )


def test_labels_become_a_version_that_answers_the_traffic(running):
    active = running.get("/models/active")
    batch = running.get(f"/batches/{active['training_batch_id']}")
    assert (batch["training_status"], batch["outcome"], batch["opened_by"]) == ("completed", "activated", "clock")
    assert (batch["progress"], batch["attempt"], batch["error"]) == (1.0, 1, None)
    assert batch["question_count"] >= 24
    asked = probes(30)
    wait_for(lambda: running.post("/classify", {"text": asked[0]})["model_version"], seconds=30, what="the flip")
    answers = [running.post("/classify", {"text": text}) for text in asked]
    assert {answer["method"] for answer in answers} == {"local_model"}
    right = sum(answer["label"] == truth(text) for text, answer in zip(asked, answers, strict=True))
    assert right >= 27
    assert all(answer["topk"][0][0] == answer["label"] for answer in answers)


def test_the_evaluation_of_a_version_is_complete(running):
    evaluation = running.get("/models/active")["evaluation"]
    for part in ("gold", "out_of_fold"):
        measured = evaluation[part]
        assert {
            "macro_f1", "accuracy", "calibration_error", "share_above_threshold", "accuracy_above_threshold", "labels",
            "confusions", "reliability", "threshold", "count",
        } <= set(measured)  # fmt: skip
    beside = evaluation["out_of_fold"]
    assert beside["count"] == running.get("/models/active")["train_count"]
    for figure in ("macro_f1", "accuracy", "calibration_error", "share_above_threshold"):
        value, low, high = (beside[figure][key] for key in ("value", "low", "high"))
        assert 0 <= low <= high <= 1
        assert low - 0.05 <= value <= high + 0.05
    assert {label["label"] for label in beside["labels"]} == set(LABELS)
    assert sum(label["support"] for label in beside["labels"]) == beside["count"]
    assert evaluation["gate"]["passed"] is True
    assert evaluation["gate"]["evidence"] in ("weak", "strong")


def test_a_second_batch_replays_what_was_learned_and_is_compared_on_gold(running):
    before = running.get("/stats")
    labelled = ask_and_label(running, 150, traffic(2))
    assert labelled >= 24
    second = wait_for(
        lambda: (rows := [r for r in running.get("/batches")["items"] if r["replay_count"]]) and rows[-1],
        what="a batch with replay",
    )
    done = finished(running, second["batch_id"])
    assert done["training_status"] == "completed"
    assert done["parent_version"] is not None
    assert done["replay_count"] + done["question_count"] <= before["texts_labelled"] + labelled
    if done["gold_count"]:
        version = running.get(f"/models/{done['model_version']}")
        assert version["evaluation"]["gold"]["count"] == done["gold_count"]
        assert version["evaluation"]["gate"]["comparisons"][0]["reference"] == done["parent_version"]


def test_the_queue_learns_of_a_flip_and_asks_gold_by_a_uniform_draw_alone(running):
    stats = running.get("/stats")
    assert stats["gold_labelled"] > 0
    assert stats["by_method"].keys() <= {"none", "local_model"}
    assert stats["labelled"] <= stats["questions"]
    assert stats["clock_running"] is True


def test_a_batch_by_hand_does_not_wait_for_a_slot(databases, tmp_path):
    with installation(tmp_path, databases.fresh("sqlite", tmp_path), TRAIN_CRON=NEVER, SELECT_CRON=NEVER) as world:
        world.serve()
        label_texts(world, 12)
        batch = world.post("/batches", {"description": "by hand"}, expect=201)
        assert batch["training_status"] == "pending"
        queued = world.post(f"/batches/{batch['batch_id']}/run", {"auto_extract_keywords": True}, expect=202)
        assert queued["clock_running"] is False
        assert "no clock is running" in queued["message"]
        assert queued["training_status"] == "queued"

        clock = world.start("clock")
        done = finished(world, batch["batch_id"])
        assert done["training_status"] == "completed", done
        assert world.get("/stats")["clock_running"] is True

        label_texts(world, 12, seed=5)
        second = world.post("/batches", {}, expect=201)
        queued = world.post(f"/batches/{second['batch_id']}/run", expect=202)
        assert queued["clock_running"] is True
        finished(world, second["batch_id"])
        row = world.batches()[-1]
        assert row.started_at - row.queued_at < timedelta(seconds=SLACK_SECONDS)
        assert row.replay_count == done["question_count"]
        assert not [run for run in world.runs() if run.job == "train_model" and run.worker.endswith(f":{clock.pid}")]
        assert stop(clock) == 0


def test_a_refused_version_is_kept_with_its_reason_and_does_not_serve_or_trigger_again(running):
    """The second batch is labelled wrongly throughout: its model errs on the gold."""
    running.post("/domains", {"name": "noisy"}, expect=201)
    label_texts(running, 20, gold=12, domain="noisy")
    first = wait_for(lambda: running.get("/stats", domain="noisy")["active_version"], what="the first version")
    label_texts(running, 60, seed=900, domain="noisy", shift=1)
    refused = wait_for(
        lambda: [row for row in batches_of(running, "noisy") if row["outcome"] == "refused"], what="a refusal"
    )[0]
    version = running.get(f"/models/{refused['model_version']}")
    assert (version["status"], version["is_active"]) == ("refused", False)
    assert first in version["reason"]
    assert "below that of" in version["reason"] or "collapsed" in version["reason"]
    assert running.get("/models/active", domain="noisy")["version"] == first
    asked = {"text": probes(1)[0], "domain": "noisy"}
    wait_for(lambda: running.post("/classify", asked)["model_version"] == first, what="the first version's answers")
    # Its labels are used, but for a rest that is too small for a batch: what comes later, one slot a second, opens
    # nothing.
    wait_for(lambda: not running.get("/stats", domain="noisy")["next_batch"]["due"], what="the end of the labels")
    wait_for(lambda: not [row for row in batches_of(running, "noisy") if row["outcome"] is None], what="quiet")
    known, slots = len(batches_of(running, "noisy")), len(running.runs())
    wait_for(lambda: len(running.runs()) > slots + 6, what="more slots")
    assert len(batches_of(running, "noisy")) == known
    refusal = running.post(f"/models/{version['version']}/activate", expect=409)
    assert refusal["code"] == "version_unusable"


def batches_of(world: Installation, domain: str) -> list[dict]:
    return world.get("/batches", domain=domain)["items"]


def test_a_manual_gate_waits_for_a_person(running):
    made = running.post("/domains", {"name": "careful", "gate": "manual"}, expect=201)
    assert made["gate"] == "manual"
    label_texts(running, 12, domain="careful")
    batch = wait_for(lambda: [row for row in batches_of(running, "careful") if row["outcome"]], what="a proof")[0]
    assert (batch["outcome"], batch["training_status"]) == ("passed", "completed")
    version = running.get(f"/models/{batch['model_version']}")
    assert (version["status"], version["is_active"], version["activated_at"]) == ("passed", False, None)
    asked = {"text": probes(1)[0], "domain": "careful"}
    assert running.post("/classify", asked)["method"] == "none"
    flip = running.post(f"/models/{version['version']}/activate", {"by": "ana", "reason": "looked at it"})
    assert (flip["epoch"], flip["activated_by"], flip["kind"]) == (1, "ana", "activate")
    wait_for(
        lambda: running.post("/classify", asked)["model_version"] == version["version"], seconds=30, what="the flip"
    )
