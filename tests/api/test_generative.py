"""The generative tier over HTTP: switched on by one setting, told of by /readyz and /metrics, and never in the way."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db.tables import UserQuestion
from app.scorers import generative_process
from app.services import activations, keys
from app.services.audit import COMMAND_LINE
from tests.api.conftest import LOOP, Service, install, served, wait_for
from tests.builders import column, make_version
from tests.serving.artifacts import LABELS, Artifact
from tests.serving.generative_process import write_artifact
from tests.serving.test_generative_keeper import command

UNSURE = "zzz 快递"
PATIENCE_SECONDS = 60

Serve = Callable[..., AbstractContextManager[Service]]


@pytest.fixture
def serve(sqlite_url: str, tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A service with a model, and the tier switched on; its process knows keywords and no torch."""
    made = command(tmp_path / "control")
    monkeypatch.setattr(generative_process, "command", lambda socket, *_, **__: list(made(socket)))

    def run(**changes: Any) -> AbstractContextManager[Service]:
        return served(sqlite_url, tmp_path, **({"generative": True} | changes))

    return run


@pytest.fixture
def service(serve: Serve, artifact: Artifact) -> Iterator[Service]:
    with serve() as running:
        install(running, artifact)
        yield running


def activate(service: Service, artifact: Artifact, **changes: Any) -> str:
    """Register and activate a generative version that knows what a parcel is, and wait until services have it."""
    made = service.settings.artifacts / "made"
    digest = write_artifact(made, artifact.label_ids, {"快递": artifact.label_ids[1]}, **changes)
    made.rename(service.settings.artifacts / digest)

    def flip(session: Session) -> str:
        version = make_version(session, recipe="lora", artifact_digest=digest)
        activations.activate(session, version.version, by="test", reason="test")
        return version.version

    version: str = service.services.work(flip)
    wait_for(lambda: service.services.runtime.loaded["default"].release.generative_version == version, PATIENCE_SECONDS)
    return version


def stands(service: Service, status: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = service.get("/readyz").json()
        return found if found["generative"] == status else None

    found: dict[str, Any] = wait_for(look, PATIENCE_SECONDS)
    return found


def figures(service: Service) -> dict[str, float]:
    lines = service.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if name.startswith("intentloop_generative")
    }


def test_an_unsure_question_is_answered_by_the_tier_and_logged(service: Service, artifact: Artifact) -> None:
    version = activate(service, artifact)
    stands(service, "ready")

    answer = service.classify(UNSURE)

    assert (answer["label"], answer["method"], answer["trigger_check"]) == (LABELS[1], "generative", False)
    assert answer["route_used"] == ["discriminative", "generative"]
    assert service.classify("我要退货")["route_used"] == ["discriminative"]
    assert ("generative", ["discriminative", "generative"]) in column(
        service.services.work, UserQuestion.method, UserQuestion.route_used
    )
    found = figures(service)
    assert found["intentloop_generative_answered_total"] >= 1
    assert found["intentloop_generative_asked_total"] >= found["intentloop_generative_answered_total"]
    assert found["intentloop_generative_duration_seconds_count"] == found["intentloop_generative_asked_total"]
    assert found["intentloop_generative_ready"] == 1
    assert service.get(f"{LOOP}/models/active").json()["generative_version"] == version


def test_every_item_of_a_batch_may_be_asked_again(service: Service, artifact: Artifact) -> None:
    activate(service, artifact)
    stands(service, "ready")
    body = {"texts": [UNSURE, "我要退货", f"{UNSURE} 2", "  "]}
    first, sure, second, refused = service.post("/classify/batch", body).json()["results"]
    assert [first["method"], sure["method"], second["method"]] == ["generative", "local_model", "generative"]
    assert refused["error"]["code"] == "text_refused"


def test_refine_asks_the_tier_alone_and_logs_its_answer(service: Service, artifact: Artifact) -> None:
    version = activate(service, artifact)
    stands(service, "ready")
    answer = service.post("/refine", {"text": "我的快递 13812345678"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["label"], body["method"], body["route_used"]) == (LABELS[1], "generative", ["generative"])
    assert body["model_version"] == version
    logged = service.get(f"{LOOP}/questions/{body['question_id']}").json()
    assert "13812345678" not in json.dumps(logged)
    assert logged["question_id"] == body["question_id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"text": "快递", "domain": "nowhere"}, 404, "domain_not_found"),
        ({"text": "  "}, 422, "text_refused"),
        ({"texts": ["快递"]}, 422, "validation_error"),
        ({"text": 7}, 422, "validation_error"),
    ],
)
def test_refine_refuses_what_it_cannot_take(service: Service, body: Any, status: int, code: str) -> None:
    answer = service.post("/refine", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_without_a_generative_version_refine_says_so(service: Service) -> None:
    answer = service.post("/refine", {"text": "快递"})
    assert (answer.status_code, answer.json()["code"]) == (503, "generative_unavailable")
    assert "no generative version" in answer.json()["detail"]
    assert stands(service, "ready")["status"] == "ready"


def test_switched_off_nothing_is_started_and_all_is_as_before(serve: Serve, artifact: Artifact, tmp_path: Path) -> None:
    with serve(generative=False) as service:
        install(service, artifact)
        activate(service, artifact)
        assert service.get("/readyz").json()["generative"] == "off"
        assert service.services.generative is None
        assert service.classify(UNSURE)["route_used"] == ["discriminative"]
        answer = service.post("/refine", {"text": "快递"})
        assert (answer.status_code, answer.json()["code"]) == (503, "generative_unavailable")
        assert "switched off" in answer.json()["detail"]
        assert "intentloop_generative_ready" not in figures(service)


def test_a_broken_version_is_named_and_answers_go_on_without_it(service: Service, artifact: Artifact) -> None:
    version = activate(service, artifact, answers={"unusable": "its base model is not here"})
    found = stands(service, "broken")
    assert found["status"] == "degraded"
    assert version in found["generative_reason"]
    assert "its base model is not here" in found["generative_reason"]
    assert service.classify(UNSURE)["method"] == "local_model"
    assert figures(service)['intentloop_generative_abstained_total{reason="broken"}'] >= 1
    assert figures(service)["intentloop_generative_ready"] == 0
    answer = service.post("/refine", {"text": "快递"})
    assert (answer.status_code, answer.json()["code"]) == (503, "generative_unavailable")
    # Who may ask need not see every domain.
    assert version not in answer.text


def test_without_torch_the_service_answers_as_before_and_says_what_is_missing(
    sqlite_url: str, tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    said = "it needs torch, which is not installed: pip install 'intentloop[train]'"
    script = f"import sys; print({said!r}, file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(generative_process, "command", lambda *_, **__: [sys.executable, "-c", script])
    with served(sqlite_url, tmp_path, generative=True) as service:
        install(service, artifact)
        activate(service, artifact)
        assert said in stands(service, "broken")["generative_reason"]
        assert service.classify(UNSURE)["method"] == "local_model"
        assert service.classify("我要退货")["label"] == LABELS[1]


def test_only_keys_that_may_ask_may_ask_again_and_only_an_admin_reads_why(service: Service, artifact: Artifact) -> None:
    activate(service, artifact, answers={"unusable": "its base model is not here"})
    stands(service, "broken")
    secrets = {
        role: service.services.work(keys.create, role, by=COMMAND_LINE, labeler_id=labeler)[1]
        for role, labeler in (("product", None), ("labeler", "ana"))
    }
    service.services.keys.refresh()

    def refine(role: str | None) -> int:
        headers = {"Authorization": f"Bearer {secrets[role]}"} if role else {}
        return service.http.post("/refine", json={"text": "快递"}, headers=headers).status_code

    assert (refine(None), refine("labeler"), refine("product")) == (401, 403, 503)
    found = service.http.get("/readyz").json()
    assert (found["generative"], found["generative_reason"]) == ("broken", None)
