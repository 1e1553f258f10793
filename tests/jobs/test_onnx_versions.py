"""An encoder in ONNX form goes the way of every artifact: proved on gold, registered, served, scored with."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.session import UnitOfWork
from app.db.tables import KeywordRule, Label, ModelActivation
from app.intent.cascade import decide_many
from app.intent.text import MaskedText
from app.operations.check_scorers import libraries
from app.operations.findings import Patient
from app.services import batches, domains, rule_sets, versions
from app.serving.runtime import LoadFailed, Runtime
from app.serving.watcher import Watcher
from jobs import proving
from jobs.context import JobContext
from jobs.rule_proving import prove_rules
from jobs.select_questions import select_questions
from jobs.train_model import train_model
from tests.builders import ask, column, domain_id, domain_of, set_taxonomy
from tests.jobs.test_jobs import World, context_on
from tests.journeys.worlds import LABELS, PARCEL, PASSWORD, label_texts, texts_of
from tests.scorers.encoders import write_artifact

INVOICE = "费用 > 发票"


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path) -> Iterator[JobContext]:
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False)
    label_texts(World(made), 12, gold=12)
    yield made
    made.work.engine.dispose()


def train_encoder(context: JobContext, **options: bool) -> proving.Proof:
    """What the training thread does, with an encoder in the place of the trainer's artifact."""
    train_model(context)
    claimed = context.work(batches.claim_next, worker="w")
    assert claimed is not None
    items = context.work.read(batches.items, claimed.batch.id)
    paths = context.work.read(domains.release, claimed.domain.id).paths
    examples = [(item.text_id, item.text, item.label_id) for item in items if item.role != "gold"]
    made = context.settings.artifacts / "made"
    digest = write_artifact(made, examples, paths=dict(paths), **options)
    made.rename(context.settings.artifacts / digest)
    proof = proving.prove(context, claimed, items, digest)
    context.work(versions.register, claimed, proof)
    return proof


def serve(context: JobContext) -> Runtime:
    runtime = Runtime(context.settings.artifacts)
    runtime.swap(context.work.read(domains.release, domain_id(context.work)))
    return runtime


def answers(runtime: Runtime, *texts: str) -> list[str | None]:
    loaded = runtime.find("default")
    assert loaded is not None
    decisions = decide_many([MaskedText(text) for text in texts], loaded.tiers, loaded.release.threshold)
    return [None if d.label_id is None else loaded.release.paths[d.label_id] for d in decisions]


def test_encoder_is_proved_on_gold_activated_and_served(context: JobContext) -> None:
    proof = train_encoder(context)

    assert proof.passed, proof.reasons
    assert proof.evaluation["gold"]["count"] == 36
    assert column(context.work, ModelActivation.kind) == ["activate"]
    unseen = {label: texts_of(label, 10, gold=False, seed=9) for label in LABELS}
    right = [answers(serve(context), *asked).count(label) for label, asked in unseen.items()]
    assert sum(right) >= 24


def test_rules_are_fused_with_an_encoder_after_gold_has_proved_them(context: JobContext) -> None:
    train_encoder(context)
    set_taxonomy(context.work, [*LABELS, INVOICE])
    add_rule(context.work, "发票", INVOICE)

    assert prove_rules(context, "default") == "served"

    assert answers(serve(context), "发票抬头写错了", "包裹丢了怎么办") == [INVOICE, PARCEL]


def add_rule(work: UnitOfWork, word: str, label: str) -> None:
    def add(session) -> None:  # type: ignore[no-untyped-def]
        domain = domain_of(session)
        found = session.query(Label).filter_by(domain_id=domain.id, path=label).one()
        values = {"keyword": word, "intent": label, "all_of": [word], "status": "active", "source": "manual"}
        session.add(KeywordRule(domain_id=domain.id, label_id=found.id, **values))
        rule_sets.mark_changed(session, domain)

    work(add)


def test_waiting_texts_are_scored_with_the_encoder_and_the_next_one_is_judged_against_it(context: JobContext) -> None:
    train_encoder(context)
    ask(context.work, *texts_of(PASSWORD, 12, gold=False, seed=3))
    assert select_questions(context)["scored"] > 0

    label_texts(World(context), 40, gold=12, seed=5)
    second = train_encoder(context)
    assert second.evaluation["gate"]["comparisons"]


def test_encoder_whose_answers_depend_on_their_neighbours_is_not_proved(context: JobContext) -> None:
    with pytest.raises(proving.NotProven, match="texts beside it"):
        train_encoder(context, neighbours=True)


def test_an_encoder_that_knows_its_scope_sends_what_is_beyond_it_to_a_person(context: JobContext) -> None:
    proof = train_encoder(context, scoped=True)
    assert proof.passed, proof.reasons
    told = proof.evaluation["scope"]
    assert told["most_flagged"] == 0.05
    assert 0.0 <= told["gold_flagged"] < 0.4

    loaded = serve(context).find("default")
    assert loaded is not None
    known = texts_of(PARCEL, 20, gold=False, seed=9)
    strange = ["zzz qqq xxx www", "77777 88888 99999", "what is the meaning of life"]
    decisions = decide_many([MaskedText(text) for text in [*known, *strange]], loaded.tiers, 0.0)

    assert [decision.trigger_check for decision in decisions[20:]] == [True] * 3
    assert sum(decision.trigger_check for decision in decisions[:20]) < 10
    assert all(decision.deciding and "out of scope" in str(decision.deciding.reason) for decision in decisions[20:])


def test_an_encoder_without_a_scope_is_proved_and_served_as_before(context: JobContext) -> None:
    proof = train_encoder(context)
    assert "scope" not in proof.evaluation
    loaded = serve(context).find("default")
    assert loaded is not None
    [decision] = decide_many([MaskedText("zzz qqq xxx www")], loaded.tiers, 0.0)
    assert not decision.trigger_check


@pytest.mark.parametrize("library", ["onnxruntime", "tokenizers"])
def test_where_the_extra_is_missing_everybody_says_so_in_one_sentence(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    train_encoder(context)
    there = importlib.util.find_spec
    monkeypatch.setattr("app.scorers.find_spec", lambda name: None if name == library else there(name))
    sentence = rf"needs {library}, which is not installed: pip install 'intentloop\[onnx\]'"
    release = context.work.read(domains.release, domain_id(context.work))

    with pytest.raises(LoadFailed, match=sentence) as failed:
        serve(context)

    # Not the artifact's fault: the version stays usable for the machines that have the library.
    assert not failed.value.corrupt
    runtime = Runtime(context.settings.artifacts)
    watcher = Watcher(
        runtime,
        states=lambda: [release.state],
        release=lambda _: release,
        report=lambda *_: None,
        poll_seconds=1.0,
    )
    watcher.look()
    assert sentence.replace("\\", "") in watcher.errors["default"]
    assert answers(runtime, "你好") == [None]
    [finding] = libraries(Patient(context.settings, context.work))
    assert (finding.level, sentence.replace("\\", "") in finding.says) == ("fail", True)


def test_doctor_is_content_where_the_libraries_are(context: JobContext) -> None:
    assert list(libraries(Patient(context.settings, context.work))) == []
    train_encoder(context)
    assert list(libraries(Patient(context.settings, context.work))) == []


def test_a_worker_s_threads_are_those_of_its_models(context: JobContext) -> None:
    train_encoder(context)
    runtime = Runtime(context.settings.artifacts, threads=2)
    runtime.swap(context.work.read(domains.release, domain_id(context.work)))

    [scorer] = runtime._scorers.values()
    options = scorer._encoder._session.get_session_options()  # type: ignore[attr-defined]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
