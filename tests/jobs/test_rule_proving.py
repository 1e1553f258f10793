"""Changed rules are tried with the version that serves, on gold and as a whole, before anybody is answered by them."""

import shutil

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import KeywordRule, Label, ModelActivation, ModelVersion, RuleSet
from app.intent.cascade import decide_many
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.services import activations, annotations, domains, rule_sets, taxonomy
from app.services.activations import Pairing
from jobs.answering import cascade
from jobs.context import JobContext
from jobs.rule_proving import prove_next, prove_rules
from jobs.train_model import train_model
from jobs.training import train_next
from tests.builders import ask, column, domain_id, domain_of, set_taxonomy
from tests.jobs.test_jobs import World, context_on
from tests.journeys.worlds import LABELS, PARCEL, PASSWORD, POWER, label_texts, texts_of

NEW = "费用 > 发票"


@pytest.fixture
def context(sqlite_url, tmp_path):
    """A domain whose first version serves, trained by the real trainer."""
    made = context_on(sqlite_url, tmp_path, batch_labels=10, extract_keywords=False)
    label_texts(World(made), 12, gold=12)
    train_model(made)
    assert train_next(made) == "default-b1"
    assert column(made.work, ModelActivation.kind) == ["activate"]
    yield made
    made.work.engine.dispose()


def add_rule(work: UnitOfWork, word: str, label: str) -> int:
    def add(session: Session) -> int:
        domain = domains.locked(session, "default")
        found = session.scalars(select(Label).where(Label.domain_id == domain.id, Label.path == label)).one()
        rule = KeywordRule(
            domain_id=domain.id,
            keyword=word,
            intent=label,
            label_id=found.id,
            all_of=[word],
            status="active",
            source="manual",
        )
        session.add(rule)
        rule_sets.mark_changed(session, domain)
        return rule.id

    return work(add)


def label_more(context: JobContext, each: int, *, seed: int, shift: int = 0) -> None:
    """Label more texts of the three labels; the taxonomy stays as it is."""
    for place, label in enumerate(LABELS):
        given = LABELS[(place + shift) % len(LABELS)]
        for question_id in ask(context.work, *texts_of(label, each, gold=False, seed=seed)):
            context.work(annotations.submit, question_id, correct_intent=[given], labeler_id="bo", supersedes=None)


def answer(context: JobContext, text: str) -> tuple[str | None, float | None]:
    """What the release of this moment answers."""
    release = context.work.read(domains.release, domain_id(context.work))
    scorer = load_scorer(context.settings.artifacts / str(release.artifact_digest))
    pairing = Pairing(release.threshold, release.rule_set_revision, release.fusion)
    tiers = cascade(scorer, str(release.version), release.rules, pairing)
    [decision] = decide_many([MaskedText(text)], tiers, release.threshold)
    return (release.paths[decision.label_id] if decision.label_id else None), decision.confidence


def test_a_rule_by_hand_names_a_label_that_the_model_never_saw(context):
    set_taxonomy(context.work, [*LABELS, NEW])
    assert answer(context, "发票抬头写错了")[0] != NEW
    rule_id = add_rule(context.work, "发票", NEW)
    assert answer(context, "发票抬头写错了")[0] != NEW

    assert prove_rules(context, "default") == "served"

    label, confidence = answer(context, "发票抬头写错了")
    assert label == NEW
    assert 0.0 < confidence < 1.0
    assert answer(context, "手机充不进电怎么办")[0] == POWER
    assert column(context.work, ModelActivation.kind) == ["activate", "rules"]
    (boost,) = column(context.work, KeywordRule.confidence_boost)
    assert boost > 0.0
    assert column(context.work, KeywordRule.id, KeywordRule.status) == [(rule_id, "active")]
    assert prove_rules(context, "default") is None


def test_a_rule_that_contradicts_what_people_labelled_moves_no_answer(context):
    add_rule(context.work, "充不进电", PASSWORD)
    prove_rules(context, "default")
    assert answer(context, "手机充不进电怎么办")[0] == POWER


def test_rules_that_hurt_on_gold_are_refused_and_nothing_flips(context):
    # Only gold holds this word: the fit has nothing that speaks against the rule, gold has.
    set_taxonomy(context.work, [*LABELS, NEW])
    marked = _gold_texts_with("请速回电", context, 24)
    before = [answer(context, text) for text in marked]
    add_rule(context.work, "请速回电", NEW)

    assert prove_rules(context, "default") == "refused"

    assert [answer(context, text) for text in marked] == before
    assert column(context.work, ModelActivation.kind) == ["activate"]
    ((status, reason),) = column(context.work, KeywordRule.status, KeywordRule.reason)
    assert status == "candidate"
    assert "Macro-F1" in reason or "collapsed" in reason
    assert column(context.work, RuleSet.status) == ["refused"]
    assert prove_rules(context, "default") is None


def _gold_texts_with(word: str, context: JobContext, count: int) -> list[str]:
    """So many labelled gold texts about parcels that hold this word."""
    from app.intent.selection import is_gold_candidate
    from app.intent.text import text_hash

    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        text = f"快递{word}包裹还没到第{number}次"
        if is_gold_candidate(text_hash(MaskedText(text))):
            found.append(text)
    for question_id in ask(context.work, *found):
        context.work(annotations.submit, question_id, correct_intent=[PARCEL], labeler_id="ana")
    return found


def test_the_next_version_is_fitted_and_proved_with_the_rules_that_serve(context):
    set_taxonomy(context.work, [*LABELS, NEW])
    add_rule(context.work, "发票", NEW)
    prove_rules(context, "default")
    label_more(context, 6, seed=5)
    train_model(context)
    assert train_next(context) == "default-b2"

    versions = context.work.read(lambda session: session.scalars(select(ModelVersion).order_by(ModelVersion.id)).all())
    assert versions[1].rule_set_revision == 1
    assert versions[1].fusion is not None
    assert versions[1].evaluation["rules"]["count"] == 1
    assert set(versions[1].evaluation["rules"]["model_alone"]) == {"macro_f1", "accuracy"}
    assert answer(context, "发票抬头写错了")[0] == NEW


def test_a_rollback_answers_the_same_to_the_last_bit(context):
    set_taxonomy(context.work, [*LABELS, NEW])
    add_rule(context.work, "发票", NEW)
    prove_rules(context, "default")
    probes = ["发票抬头写错了", "手机充不进电怎么办", "忘记密码", "快递丢了", "发票和快递都没有"]
    before = [answer(context, text) for text in probes]
    second = context.work.read(lambda session: activations.current(session, domain_of(session)).version_id)
    label_more(context, 6, seed=5, shift=1)
    train_model(context)
    train_next(context)
    context.work(activations.activate, "default-v2", by="ana", reason="try", force=True)
    context.work(activations.rollback, "default", by="ana", reason="worse")
    assert context.work.read(lambda session: activations.current(session, domain_of(session)).version_id) == second
    assert [answer(context, text) for text in probes] == before


def test_rules_beside_an_artifact_that_is_gone_wait_and_are_not_tried_in_a_storm(context):
    (digest,) = column(context.work, ModelVersion.artifact_digest)
    shutil.rmtree(context.settings.artifacts / digest)
    add_rule(context.work, "发票", POWER)
    tried: dict[str, float] = {}
    assert prove_next(context, tried) is False
    assert list(tried) == ["default"]
    first = tried["default"]
    assert prove_next(context, tried) is False
    assert tried["default"] == first
    assert column(context.work, KeywordRule.status) == ["active"]


def test_a_retired_label_takes_its_rules_out_of_the_answers(context):
    set_taxonomy(context.work, [*LABELS, NEW])
    add_rule(context.work, "发票", NEW)
    prove_rules(context, "default")
    assert answer(context, "发票抬头写错了")[0] == NEW
    set_taxonomy(context.work, list(LABELS))
    assert answer(context, "发票抬头写错了")[0] != NEW
    assert context.work.read(lambda session: [label.path for label in taxonomy.active(session, 1)]) == list(LABELS)
