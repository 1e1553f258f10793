"""The job on real rows: an intent that nobody named is proposed, and noise and known intents are not."""

import random

import numpy as np
import pytest
from sqlalchemy.orm import Session

from app.artifacts.folder import publish
from app.db.session import UnitOfWork, connect
from app.intent.latent_semantics import latent_embeddings
from app.main import opening_rule
from app.scorers import load_scorer
from app.scorers.placing import places
from app.services import activations, domains, scenarios
from app.services.audit import COMMAND_LINE
from app.settings import Settings
from jobs.context import JobContext
from jobs.propose_scenarios import embedding, propose_scenarios
from jobs.timetable import TIMETABLE
from tests.builders import ask, domain_id, domain_of, label, make_version, set_taxonomy, text_of
from tests.journeys.worlds import LABELS, traffic, truth
from tests.scorers.encoders import write_artifact

FEES = [
    f"{head}{body}{tail}"
    for head in ("请问", "你好，", "")
    for body in ("退货的运费谁来出", "退货的运费怎么算", "退货运费什么时候退给我", "寄回去的运费能报销吗")
    for tail in ("", "呢", "？", "，急")
]


def context_on(url, folder) -> JobContext:
    settings = Settings(_env_file=None, data_dir=folder)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    return JobContext(settings, UnitOfWork(connect(url)), opening_rule(settings))


@pytest.fixture
def context(database_url, tmp_path):
    made = context_on(database_url, tmp_path)
    yield made
    made.work.engine.dispose()


@pytest.fixture
def lite(sqlite_url, tmp_path):
    made = context_on(sqlite_url, tmp_path)
    yield made
    made.work.engine.dispose()


def serve(work: UnitOfWork, domain: str = "default", **changes) -> None:
    """Let a version be active; what it would answer stands with the questions."""

    def activate(session: Session) -> None:
        activations.activate(session, make_version(session, domain=domain, **changes).version, by="test", reason="test")

    work(activate)


def world(work: UnitOfWork) -> list[str]:
    """Labelled texts of the known intents, unsure questions of those and of a new one; the latter's ids."""
    set_taxonomy(work, LABELS)
    source = traffic(3)
    known = [next(source) for _ in range(120)]
    for text, question in zip(known[:80], ask(work, *known[:80]), strict=True):
        label(work, question, truth(text))
    unsure = {"intents": [LABELS[0]], "confidence": 0.3, "topk": [[LABELS[0], 0.3]], "method": "local_model"}
    ask(work, *known[80:], **unsure)
    random.Random(1).shuffle(shuffled := list(FEES))
    return ask(work, *shuffled, **unsure)


def proposed(work: UnitOfWork, **wanted) -> list:
    owner = domain_id(work)
    return list(work.read(scenarios.listing, owner, limit=50, **wanted))


def test_an_intent_that_nobody_named_is_proposed_with_its_words(context):
    questions = world(context.work)
    serve(context.work)
    found = propose_scenarios(context)
    assert found["new"] == len(proposed(context.work)) >= 1
    ids = context.work.read(lambda session: {text_of(session, question).id for question in questions})
    members = set()
    for scenario in proposed(context.work):
        rows = context.work.read(scenarios.members_of, scenario, limit=500)
        assert {row.id for row in rows} <= ids
        assert any("运费" in word or "退货" in word for word in scenario.keywords)
        members |= {row.id for row in rows}
    assert len(members) >= len(ids) / 2
    # Again: nothing is new, and what was dismissed stays so.
    again = propose_scenarios(context)
    assert (again["new"], again["updated"], again["gone"]) == (0, found["new"], 0)
    for scenario in proposed(context.work):
        context.work(scenarios.dismiss, scenario.id, by=COMMAND_LINE)
    assert propose_scenarios(context) == {"new": 0, "updated": 0, "dismissed": found["new"], "gone": 0}


def test_without_a_version_or_without_texts_there_is_nothing_to_look_in(context):
    world(context.work)
    context.work(domains.create, "hashes", keep_text=False)
    serve(context.work, "hashes")
    assert propose_scenarios(context) == {"new": 0, "updated": 0, "dismissed": 0, "gone": 0}
    serve(context.work)
    context.stopping.set()
    assert propose_scenarios(context)["new"] == 0


def test_a_domain_without_labels_but_with_a_version_is_looked_in_all_the_same(context):
    ask(context.work, *FEES, intents=["别的"], confidence=0.1, method="local_model")
    serve(context.work)
    assert propose_scenarios(context)["new"] >= 1


def test_where_an_encoder_serves_its_embeddings_are_compared(lite, tmp_path):
    folder = tmp_path / "written"
    folder.mkdir()
    examples = [(number, text, number % 3 + 1) for number, text in enumerate(FEES[:30])]
    digest = write_artifact(folder, examples, paths=dict(enumerate(LABELS, 1)))
    publish(folder, lite.settings.artifacts)
    serve(lite.work, artifact_digest=digest)
    release = lite.work.read(lambda session: domains.release(session, domain_of(session).id))
    found = embedding(lite, release)(FEES)
    np.testing.assert_array_equal(found, places(load_scorer(lite.settings.artifacts / digest), FEES))


def test_without_its_artifact_the_texts_themselves_are_compared(lite):
    serve(lite.work)
    release = lite.work.read(lambda session: domains.release(session, domain_of(session).id))
    assert embedding(lite, release) is latent_embeddings


def test_it_runs_once_a_night():
    assert TIMETABLE["propose_scenarios"].cron(Settings(_env_file=None)) == "30 4 * * *"
