"""schemathesis against a running service's own OpenAPI document: what is documented is what happens.

Over two thousand cases, the same ones each time. INTENTLOOP_TEST_FUZZ_EXAMPLES sets how many each operation
gets, made anew: 1,000 is for a night, and the seed of a failure is in its output.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.services import keys
from app.services.audit import COMMAND_LINE
from app.settings import Settings
from tests.api.conftest import LOOP, install, process, served
from tests.conftest import Databases
from tests.serving.artifacts import LABELS, Artifact

WANTED = os.environ.get("INTENTLOOP_TEST_FUZZ_EXAMPLES")
EXAMPLES = int(WANTED or "46")
SEED = [] if WANTED else ["--seed", "20261122"]
LEAST_CASES = 2_000

# All the checks there are but these:
# positive_data_acceptance: a body can have the right form and still be refused with 422, as the contract says: a label
#   that is not in the taxonomy, a request id that was used for another body, a multi-label domain. No schema says that.
# object_level_authorization: it needs two users' data to compare; test_access.py has them, for every route.
LEFT_OUT = "positive_data_acceptance,object_level_authorization"


@pytest.mark.timeout(60 + 20 * EXAMPLES)
def test_every_answer_is_documented_and_none_is_a_failure_of_ours(
    databases: Databases, tmp_path: Path, artifact: Artifact
) -> None:
    url = databases.fresh("sqlite", tmp_path)
    with served(url, tmp_path / "before", artifacts_dir=tmp_path / "artifacts") as service:
        install(service, artifact)
        _, credential = service.services.work(keys.create, "admin", by=COMMAND_LINE, rate_per_minute=10_000_000)
    with process(url, tmp_path, ARTIFACTS_DIR=tmp_path / "artifacts") as running:
        running.http.headers["Authorization"] = f"Bearer {credential}"
        parameters = _something_real(running.http)
        config = tmp_path / "schemathesis.toml"
        config.write_text(
            "[parameters]\n" + "".join(f'"path.{name}" = "{value}"\n' for name, value in parameters.items())
        )
        command = [
            str(Path(sys.executable).with_name("st")), "--config-file", str(config), "run",
            f"{running.http.base_url}/openapi.json", "--checks", "all", "--exclude-checks", LEFT_OUT,
            "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--continue-on-failure",
            # Every answer of it takes a process: tests/api/test_keywords.py asks it.
            "--exclude-path", f"{LOOP}/keywords/extract",
            # It answers 503 where the generative tier is switched off: tests/api/test_generative.py asks it.
            "--exclude-path", "/refine",
            "--header", f"Authorization: Bearer {credential}", "--request-timeout", "20", "--no-color", *SEED,
        ]  # fmt: skip
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        report = finished.stdout[-20_000:] + finished.stderr[-2_000:]
        # Nothing that was sent has hurt: it answers as before.
        assert running.http.post("/classify", json={"text": "你好"}).status_code == 200
        assert "unexpected" not in running.log.read_text()
    counted = re.search(r"([\d,]+) generated", report)
    assert finished.returncode == 0, report
    assert counted is not None, report
    print(counted[0])
    assert int(counted[1].replace(",", "")) >= LEAST_CASES, report


def _something_real(http: Any) -> dict[str, str]:
    """A question, a batch and a rule beside the version that answers: not every generated request ends at 404."""
    questions: list[str] = []
    for number in range(30):
        logged = http.post(f"{LOOP}/questions", json={"question": f"第{number}个问题"}).raise_for_status().json()
        questions.append(logged["question_id"])
        answer = {"correct_intent": [LABELS[number % 2]], "labeler_id": "ana"}
        if number:
            http.post(f"{LOOP}/questions/{questions[-1]}/label", json=answer).raise_for_status()
    batch = http.post(f"{LOOP}/batches", json={}).raise_for_status().json()["batch_id"]
    rule = http.post(f"{LOOP}/keywords", json={"keyword": "问题", "intent": LABELS[0]}).raise_for_status().json()["id"]
    wanted = {"kind": "rename", "label": LABELS[0], "to": "改了又改"}
    change = http.post(f"{LOOP}/taxonomy/changes", json=wanted).raise_for_status().json()["id"]
    return {
        "question_id": questions[0], "batch_id": batch, "version": "default-v1", "rule_id": str(rule),
        "change_id": str(change),
    }  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


def test_every_route_documents_its_refusals_as_problems(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert refusals or path == "/healthz", (method, path)
            for status, answer in refusals.items():
                assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            if "requestBody" in operation:
                assert {"400", "413", "422", "503"} <= set(refusals), (method, path)
            assert operation.get("description"), (method, path)
    assert document["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status", "detail", "code"]


def test_names_in_the_document_are_words_and_not_modules(document: dict[str, Any]) -> None:
    assert [name for name in document["components"]["schemas"] if "__" in name] == []


def test_document_names_every_route_of_the_contract(document: dict[str, Any]) -> None:
    routes = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert routes == {
        "POST /classify", "POST /classify/batch", "POST /refine", "GET /healthz", "GET /readyz", "GET /metrics",
        *(f"{method} {LOOP}{path}" for method, path in (
            ("GET", "/stats"), ("POST", "/questions"), ("GET", "/questions/unlabeled"),
            ("GET", "/questions/{question_id}"), ("POST", "/questions/{question_id}/label"),
            ("DELETE", "/questions/{question_id}/label"), ("POST", "/questions/{question_id}/skip"),
            ("POST", "/questions/{question_id}/discard"), ("POST", "/questions/{question_id}/flag"),
            ("DELETE", "/questions/{question_id}/flag"), ("GET", "/questions/flagged"), ("GET", "/questions/disputed"),
            ("GET", "/agreement"), ("POST", "/labels/undo"), ("POST", "/questions/{question_id}/release"),
            ("GET", "/batches"), ("POST", "/batches"),
            ("GET", "/batches/{batch_id}"), ("POST", "/batches/{batch_id}/run"), ("GET", "/models"),
            ("GET", "/models/active"), ("GET", "/models/{version}"), ("POST", "/models/{version}/activate"),
            ("POST", "/models/rollback"), ("GET", "/taxonomy"), ("PUT", "/taxonomy"), ("GET", "/domains"),
            ("POST", "/domains"), ("PATCH", "/domains/{name}"),
            ("GET", "/taxonomy/changes"), ("POST", "/taxonomy/changes"), ("POST", "/taxonomy/changes/{change_id}/undo"),
            ("GET", "/keywords"), ("POST", "/keywords"), ("POST", "/keywords/extract"),
            ("PATCH", "/keywords/{rule_id}"), ("DELETE", "/keywords/{rule_id}"),
            ("GET", "/scenarios"), ("GET", "/scenarios/{scenario_id}"), ("POST", "/scenarios/{scenario_id}/accept"),
            ("POST", "/scenarios/{scenario_id}/dismiss"),
        )),
    }  # fmt: skip
