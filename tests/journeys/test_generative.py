"""The second route from labels to answers, with a real adapter: trained, proved, flipped, served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.main import opening_rule
from app.services import activations, batches, versions
from jobs.context import JobContext
from jobs.training import train_next
from tests.api.conftest import Service, served, wait_for
from tests.jobs.test_jobs import World
from tests.journeys.worlds import LABELS, label_texts
from tests.trainer.generative.bases import QUICK, write_base

PATIENCE_SECONDS = 180
TEXT = "快递还没到怎么办"


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path) -> Iterator[Service]:
    with served(sqlite_url, tmp_path, generative=True, refine_seconds=60, generative_seconds=60) as running:
        yield running


def train(service: Service, base: Path) -> str:
    """What `intentloop train --recipe lora` does; the version that came of it."""
    context = JobContext(service.settings, service.services.work, opening_rule(service.settings))
    config = {**QUICK, "base_model": str(base)}

    def start(session: Session) -> str:
        batch = batches.open_batch(session, "default", opened_by="ana", recipe="lora", config=config)
        return batches.run(session, batch.batch_id).batch_id

    batch_id = context.work(start)
    assert train_next(context) == batch_id
    batch = context.work.read(batches.find, batch_id)
    assert batch.training_status == "completed", batch.error
    return str(batch.model_version)


def stands(service: Service, status: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = service.get("/readyz").json()
        return found if found["generative"] == status else None

    found: dict[str, Any] = wait_for(look, PATIENCE_SECONDS)
    return found


def test_an_adapter_is_trained_proved_and_served(service: Service, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", max_position_embeddings=2048)
    context = World(JobContext(service.settings, service.services.work, opening_rule(service.settings)))
    label_texts(context, 6, gold=3)

    name = train(service, base)
    version = service.services.work.read(versions.find, name)
    assert (version.recipe, version.is_active) == ("lora", None)
    assert version.evaluation["gold"]["count"] == 9
    # A random model of a few thousand weights may learn too little to pass.
    service.services.work(activations.activate, name, by="ana", reason="try", force=True)
    wait_for(lambda: service.services.runtime.loaded["default"].release.generative_version == name, PATIENCE_SECONDS)
    stands(service, "ready")

    first = service.post("/refine", {"text": TEXT}).json()
    assert (first["method"], first["model_version"]) == ("generative", name)
    assert first["label"] in LABELS
    assert {label for label, _ in first["topk"]} == set(LABELS)
    # No model and no rules: the tier is asked about all labels.
    again = service.classify(TEXT)
    assert again["topk"] == first["topk"]
