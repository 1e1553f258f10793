"""Each proof says how alike the candidate and the version that serves answer to the same texts without gold labels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from app.db.tables import Domain, ModelVersion
from app.services import worth
from jobs.context import JobContext
from tests.builders import ask, domain_id
from tests.jobs.test_jobs import World, context_on
from tests.jobs.test_recipes import train
from tests.journeys.worlds import LABELS, label_texts, texts_of


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path) -> Iterator[JobContext]:
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False)
    label_texts(World(made), 12, gold=12)
    yield made
    made.work.engine.dispose()


def test_a_proof_compares_the_candidate_with_what_serves_on_the_sample(context: JobContext) -> None:
    first = train(context, "ngram")
    assert "stability" not in first.evaluation, "nothing served before it"
    for label in LABELS:
        ask(context.work, *texts_of(label, 20, gold=False, seed=7))
    again = train(context, "ngram")
    texts = context.work.read(worth.sample, domain_id(context.work))
    assert len(texts) > 3 * 20
    assert again.evaluation["stability"] == {"kappa": 1.0, "sample": len(texts), "against": first.version}

    label_texts(World(context), 12, seed=11, shift=1)
    contradicted = train(context, "ngram")
    assert contradicted.evaluation["stability"]["kappa"] < 0.9
    told = context.work.read(lambda session: worth.of_domain(session, session.get_one(Domain, 1)))
    assert [entry["against"] for entry in told["stop"]["compared"]] == [again.version]


def test_a_comparison_that_fails_costs_nothing_but_itself(
    context: JobContext, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(context, "ngram")
    assert first.is_active
    context.work(lambda session: session.execute(update(ModelVersion).values(artifact_digest="0" * 64)))
    second = train(context, "ngram")
    assert "stability" not in second.evaluation
    assert second.status == "passed"
    assert "was not compared with what serves" in caplog.text
