"""Batches, versions and flips over HTTP."""

import re
from typing import Any

import pytest
from sqlalchemy.orm import Session

from tests.api.conftest import LOOP, Service, wait_for
from tests.builders import make_labelled_texts, make_version
from tests.serving.artifacts import Artifact

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
BATCH_FIELDS = {
    "batch_id", "domain", "training_status", "outcome", "model_version", "parent_version", "recipe", "config",
    "description", "opened_by", "auto_extract_keywords", "question_count", "replay_count", "gold_count", "progress",
    "stage", "error", "attempt", "model_path", "created_at", "queued_at", "started_at", "finished_at",
}  # fmt: skip
VERSION_FIELDS = {
    "version", "domain", "recipe", "status", "reason", "is_active", "training_batch_id", "parent_version",
    "artifact_digest", "model_path", "threshold", "temperature", "train_count", "evaluation", "taxonomy", "created_at",
    "activated_at",
}  # fmt: skip


def _open(service: Service, **fields: Any) -> dict[str, Any]:
    answer = service.post(f"{LOOP}/batches", fields)
    assert answer.status_code == 201, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def test_batch_is_opened_by_hand_with_the_new_labels(any_service: Service) -> None:
    make_labelled_texts(any_service.services.work, {"甲": 3, "乙": 2}, gold=1)
    batch = _open(any_service, description="第一批", config={"seed": 1})

    assert set(batch) == BATCH_FIELDS
    assert batch["batch_id"] == "default-b1"
    assert batch["training_status"] == "pending"
    assert (batch["question_count"], batch["replay_count"], batch["gold_count"]) == (5, 0, 2)
    assert (batch["description"], batch["config"], batch["opened_by"]) == ("第一批", {"seed": 1}, "person")
    assert TIME.fullmatch(batch["created_at"])
    assert any_service.get(f"{LOOP}/batches/default-b1").json() == batch
    again = any_service.post(f"{LOOP}/batches", {})
    assert (again.status_code, again.json()["code"]) == (409, "nothing_new")


def test_batch_of_one_class_is_refused(service: Service) -> None:
    make_labelled_texts(service.services.work, {"甲": 3, "乙": 1})
    answer = service.post(f"{LOOP}/batches", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "one_class")
    assert answer.json()["trainable_labels"] == 1


def test_batch_without_any_label_is_refused(service: Service) -> None:
    answer = service.post(f"{LOOP}/batches", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_new")


@pytest.mark.parametrize(
    "body",
    [{"recipe": "bert"}, {"config": []}, {"config": {"a": "x" * 10_001}}, {"description": "x" * 501},
     {"retrain": "yes"}, [], "x", 5],
)  # fmt: skip
def test_batch_that_cannot_be_is_refused(calm: Service, body: object) -> None:
    assert calm.post(f"{LOOP}/batches", body).status_code == 422


def test_run_answers_202_and_says_whether_a_clock_is_there(service: Service) -> None:
    make_labelled_texts(service.services.work, {"甲": 2, "乙": 2})
    batch = _open(service)
    answer = service.post(f"{LOOP}/batches/{batch['batch_id']}/run", {"auto_extract_keywords": True})

    assert answer.status_code == 202
    queued = answer.json()
    assert set(queued) == BATCH_FIELDS | {"clock_running", "message"}
    assert queued["training_status"] == "queued"
    assert queued["auto_extract_keywords"] is True
    assert queued["clock_running"] is False
    assert "intentloop clock" in queued["message"]
    assert TIME.fullmatch(queued["queued_at"])
    again = service.post(f"{LOOP}/batches/{batch['batch_id']}/run")
    assert (again.status_code, again.json()["code"]) == (409, "batch_state")
    for batch_id in ("none", "%00", "%ED%A0%80"):
        assert service.post(f"{LOOP}/batches/{batch_id}/run").status_code == 404
        assert service.get(f"{LOOP}/batches/{batch_id}").status_code == 404


def test_batches_are_listed_page_by_page_the_newest_first(service: Service) -> None:
    for _ in range(5):
        make_labelled_texts(service.services.work, {"甲": 2, "乙": 2})
        _open(service)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        parameters = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = service.get(f"{LOOP}/batches", **parameters).json()
        seen += [batch["batch_id"] for batch in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"default-b{number}" for number in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize("noun", ["batches", "models"])
@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 19, "١", "1 OR 1=1", "\x00", "9" * 41])
def test_cursor_that_is_none_of_ours_is_refused(calm: Service, noun: str, cursor: str) -> None:
    answer = calm.get(f"{LOOP}/{noun}", cursor=cursor)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


@pytest.mark.parametrize("noun", ["batches", "models"])
@pytest.mark.parametrize("limit", ["0", "501", "-1", "1.5", "x", str(2**70)])
def test_limit_out_of_range_is_refused(calm: Service, noun: str, limit: str) -> None:
    assert calm.get(f"{LOOP}/{noun}", limit=limit).status_code == 422


def test_versions_are_shown_with_their_proof(any_service: Service) -> None:
    work = any_service.services.work
    work(lambda session: [make_version(session, taxonomy=[[7, "甲"]]).version for _ in range(3)])
    page = any_service.get(f"{LOOP}/models", limit=2).json()
    assert [version["version"] for version in page["items"]] == ["default-v3", "default-v2"]
    rest = any_service.get(f"{LOOP}/models", limit=2, cursor=page["next_cursor"]).json()
    assert [version["version"] for version in rest["items"]] == ["default-v1"]
    assert set(rest["items"][0]) == VERSION_FIELDS
    assert rest["items"][0]["is_active"] is False
    assert rest["items"][0]["evaluation"]["gold"]["macro_f1"]["value"] == 0.9
    # Ten thousand labels for each of a page would be too much.
    assert rest["items"][0]["taxonomy"] is None
    shown = any_service.get(f"{LOOP}/models/default-v1").json()
    assert shown == rest["items"][0] | {"taxonomy": [[7, "甲"]]}
    for name in ("none", "%00", "default-v1%20"):
        assert any_service.get(f"{LOOP}/models/{name}").status_code == 404, name


def test_no_active_model_is_404(service: Service) -> None:
    answer = service.get(f"{LOOP}/models/active")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = service.post(f"{LOOP}/models/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_roll_back")


def test_activate_and_roll_back_flip_what_answers(service_with_model: Service, artifact: Artifact) -> None:
    service = service_with_model

    def second(session: Session) -> str:
        return make_version(session, artifact_digest=artifact.digest, threshold=0.1).version

    name = service.services.work(second)
    answer = service.post(f"{LOOP}/models/{name}/activate", {"reason": "better", "by": "ana", "epoch": 1})
    assert answer.status_code == 200
    flip = answer.json()
    assert TIME.fullmatch(flip.pop("created_at"))
    assert flip == {
        "domain": "default", "version": "default-v2", "epoch": 2, "kind": "activate", "threshold": 0.1,
        "generative_version": None, "rule_set_revision": None, "activated_by": "ana", "reason": "better",
    }  # fmt: skip
    wait_for(lambda: service.classify("退货")["model_version"] == "default-v2", 1.0)

    stale = service.post(f"{LOOP}/models/rollback", {"epoch": 1})
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_epoch")
    assert stale.json()["epoch"] == 2
    back = service.post(f"{LOOP}/models/rollback").json()
    assert (back["version"], back["kind"], back["epoch"], back["threshold"]) == ("default-v1", "rollback", 3, 0.7)
    wait_for(lambda: service.classify("退货")["model_version"] == "default-v1", 1.0)

    def arrived() -> Any:
        active = service.get(f"{LOOP}/models/active").json()
        return active if active["propagated"] == "1/1" else None

    active = wait_for(arrived)
    assert set(active) == VERSION_FIELDS | {
        "epoch", "generative_version", "rule_set_revision", "propagated", "replicas_arrived", "replicas_alive",
        "replicas",
    }  # fmt: skip
    assert (active["version"], active["is_active"], active["epoch"]) == ("default-v1", True, 3)
    assert active["replicas"][0]["error"] is None
    assert service.get(f"{LOOP}/models/default-v2").json()["status"] == "rolled_back"


def test_refused_version_needs_force_and_a_failed_one_never_serves(service: Service) -> None:
    def both(session: Session) -> None:
        make_version(session, status="refused", reason="too small.")
        make_version(session, status="failed", reason="broken.")

    service.services.work(both)
    for name in ("default-v1", "default-v2"):
        answer = service.post(f"{LOOP}/models/{name}/activate")
        assert (answer.status_code, answer.json()["code"]) == (409, "version_unusable")
    assert service.post(f"{LOOP}/models/default-v2/activate", {"force": True}).status_code == 409
    assert service.post(f"{LOOP}/models/default-v1/activate", {"force": True}).status_code == 200
    assert service.post(f"{LOOP}/models/none/activate").status_code == 404


@pytest.mark.parametrize(
    "body", [{"by": ""}, {"by": "x" * 129}, {"reason": "x" * 256}, {"epoch": -1}, {"epoch": 1.5}, {"force": 1}, [], "x"]
)
def test_malformed_flip_is_refused(service: Service, body: object) -> None:
    service.services.work(lambda session: make_version(session).version)
    assert service.post(f"{LOOP}/models/default-v1/activate", body).status_code == 422
    assert service.get(f"{LOOP}/models/active").status_code == 404


def test_version_that_cannot_be_loaded_leaves_the_old_one_and_its_reason(service_with_model: Service) -> None:
    service = service_with_model
    name = service.services.work(lambda session: make_version(session).version)
    assert service.post(f"{LOOP}/models/{name}/activate").status_code == 200

    version = wait_for(lambda: (v := service.get(f"{LOOP}/models/{name}").json())["status"] == "failed" and v)
    assert "not what was trained" in version["reason"]
    assert service.classify("退货")["model_version"] == "default-v1"
    ready = service.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "degraded"
    [domain] = ready.json()["domains"]
    assert (domain["version"], domain["epoch"]) == ("default-v1", 1)
    assert domain["error"] == version["reason"]
    active = service.get(f"{LOOP}/models/active").json()
    assert active["propagated"] == "0/1"
    assert active["replicas"][0]["error"] == version["reason"]

    assert service.post(f"{LOOP}/models/rollback").status_code == 200
    wait_for(lambda: service.get("/readyz").json()["status"] == "ready")
