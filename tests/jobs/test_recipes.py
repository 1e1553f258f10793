"""Recipes with a pretrained model in the loop: the clock trains them, one gate compares them, the service answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from app.artifacts.training_cache import ENCODERS
from app.db.tables import ModelVersion
from app.scorers import load_scorer
from app.scorers.artifact import read_manifest
from app.services import activations, batches, domains
from jobs.context import JobContext
from jobs.training import train_next
from tests.builders import batch_of
from tests.jobs.test_jobs import World, context_on
from tests.journeys.worlds import LABELS, label_texts, texts_of
from tests.pretrained import bert


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path) -> Iterator[JobContext]:
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False)
    label_texts(World(made), 12, gold=12)
    made.work(domains.change, "default", {"base_model": str(bert(tmp_path / "tiny"))})
    yield made
    made.work.engine.dispose()


def train(context: JobContext, recipe: str, **config: object) -> ModelVersion:
    """One batch of this recipe, through the trainer's own process; the version that it became."""
    batch = context.work(batches.open_batch, "default", opened_by="ana", recipe=recipe, config=config, retrain=True)
    context.work(batches.run, batch.batch_id)
    assert train_next(context) == batch.batch_id
    ended = context.work.read(batch_of, batch.batch_id)
    assert ended.error is None, ended.error
    named = select(ModelVersion).where(ModelVersion.version == ended.model_version)
    return context.work.read(lambda session: session.scalars(named).one())


def test_one_domain_goes_from_recipe_to_recipe_and_one_gate_judges_them(context: JobContext) -> None:
    first = train(context, "ngram")
    second = train(context, "head")

    assert [rival["reference"] for rival in second.evaluation["gate"]["comparisons"]] == [first.version]
    assert (second.recipe, second.parent_version) == ("head", first.version)
    assert second.evaluation["gold"]["count"] == 36
    scorer = load_scorer(context.settings.artifacts / second.artifact_digest)
    asked = [text for label in LABELS for text in texts_of(label, 10, gold=False, seed=9)]
    assert scorer.probabilities(asked).shape == (30, 3)


def test_a_later_batch_computes_the_embeddings_of_its_new_texts_alone(context: JobContext) -> None:
    train(context, "head", precision="fp32")
    kept = context.settings.training_cache / "default"
    [exported] = (kept / ENCODERS).iterdir()
    made_at = (exported / "model.onnx").stat().st_mtime_ns
    label_texts(World(context), 3, seed=5)

    again = train(context, "head", precision="fp32")

    assert (exported / "model.onnx").stat().st_mtime_ns == made_at
    folder = context.settings.artifacts / again.artifact_digest
    assert read_manifest(folder).text_count == 45


def test_a_fine_tuned_encoder_goes_on_from_the_one_that_serves(context: JobContext) -> None:
    quick = {"first_contrastive_epochs": 1, "first_epochs": 4, "first_learning_rate": 2e-3, "bf16": "off"}
    first = train(context, "encoder", **quick, precision="fp32")
    context.work(activations.activate, first.version, by="ana", reason="to go on from", force=True)
    label_texts(World(context), 3, seed=5)

    second = train(context, "encoder", precision="fp32")

    training = read_manifest(context.settings.artifacts / second.artifact_digest).facts["training"]
    assert training["new"] + training["replayed"] > 0
    assert second.parent_version == first.version
    assert second.evaluation["gold"]["count"] == 36
