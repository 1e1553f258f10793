"""A change of the taxonomy is taken back whole, but for what people did since."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect
from app.db.tables import Annotation, AuditEvent, Label, TaxonomyChange, Text
from app.errors import AlreadyLabelled, ChangedSince, LabelExists, NotFound, TaxonomyRefused, UnknownLabel
from app.intent.taxonomy_changes import KINDS
from app.services import annotations, labels_back, rule_wording, rules, taxonomy, taxonomy_undo, undoing
from app.services.audit import COMMAND_LINE
from app.services.texts import project_due
from tests.builders import (
    ask,
    column,
    domain_of,
    label,
    make_labelled_texts,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.conftest import Databases
from tests.services.taxonomies import active, assert_counters_are_right, change, everything, undo
from tests.services.test_taxonomy_changes import CHANGES, EACH

MORE = {"to": None, "into": (), "texts": "keep"}


def _world(work: UnitOfWork) -> list[str]:
    set_taxonomy(work, ["退款", "换货", "物流", "其他"])
    made = make_labelled_texts(work, {"退款": 3, "换货": 2, "物流": 1}, gold=1)
    rule_ids = [
        work(rules.create, "default", rule_wording.read(word), intent=path, by=COMMAND_LINE).rule.id
        for word, path in (("钱", "退款"), ("换", "退款"), ("换", "换货"))
    ]
    verdicts = [{"tier": "rules", "rules": rule_ids}]
    answer = {"intents": ["退款"], "topk": [["退款", 0.6], ["换货", 0.4]], "confidence": 0.6, "method": "local_model"}
    for path in ("退款", "换货", "物流"):
        [question_id] = ask(work, trainable_text(path), verdicts=verdicts, model_version="v1", **answer)
        made.append(question_id)
        label(work, question_id, path, by="bo")
    ask(work, trainable_text("退款"), **answer)
    return made


@EACH
def test_undo_brings_back_labels_texts_questions_rules_and_counters(
    work: UnitOfWork, kind: str, labels: tuple[str, ...], more: dict[str, Any]
) -> None:
    _world(work)
    work(lambda session: setattr(domain_of(session), "confusion_pairs", [["退款", "换货"]]))
    before = everything(work)
    made = change(work, kind, *labels, **more)
    undone = undo(work, made.id)
    assert everything(work) == before
    assert_counters_are_right(work)
    changed = kind in ("merge", "split") or more.get("texts") == "requeue"
    assert (undone.restored_texts, undone.kept_texts) == (made.touched.texts if changed else 0, 0)
    assert column(work, AuditEvent.action)[-1] == "taxonomy.undo"


def test_undo_never_takes_an_answer_back_that_people_gave_since(work: UnitOfWork) -> None:
    made = _world(work)[:3]
    split = change(work, "split", "退款", into=("质量", "七天"))
    label(work, made[0], "七天", by="bo")
    work(annotations.skip, made[1], labeler_id="bo")
    undone = undo(work, split.id)
    assert (undone.restored_texts, undone.kept_texts) == (4, 1)
    assert [work.read(_label_of, question_id) for question_id in made] == ["七天", "退款", "退款"]
    # The label that was given stays one, the other was for nothing.
    assert active(work) == ["七天", "其他", "换货", "物流", "退款"]
    assert_counters_are_right(work)


def _label_of(session: Session, question_id: str) -> str | None:
    found = session.get(Label, text_of(session, question_id).label_id or 0)
    return found.path if found else None


def test_undo_of_a_merge_keeps_what_was_answered_anew(work: UnitOfWork) -> None:
    made = _world(work)
    merge = change(work, "merge", "退款", to="换货")
    annotation_id = work.read(text_of, made[0]).annotation_id
    label(work, made[0], "物流", by="bo", supersedes=annotation_id)
    undone = undo(work, merge.id)
    assert (undone.restored_texts, undone.kept_texts) == (4, 1)
    assert [work.read(_label_of, question_id) for question_id in made[:2]] == ["物流", "退款"]
    assert_counters_are_right(work)


def test_who_answers_a_text_that_was_brought_back_is_refused(work: UnitOfWork) -> None:
    made = _world(work)
    split = change(work, "split", "退款", into=("质量", "七天"))
    undo(work, split.id)
    with pytest.raises(AlreadyLabelled):
        label(work, made[0], "换货", by="bo")


def test_undo_of_a_label_of_a_label_that_left_puts_the_text_back_in_the_queue(work: UnitOfWork) -> None:
    _world(work)
    [question_id] = ask(work, trainable_text("退款"))
    label(work, question_id, "退款")
    label(work, question_id, "换货")
    change(work, "merge", "退款", to="物流")
    assert work(undoing.undo, question_id, labeler_id="ana").state == "unlabelled"


def test_an_older_change_is_undone_alone_when_its_labels_are_as_it_left_them(work: UnitOfWork) -> None:
    _world(work)
    first = change(work, "rename", "退款", to="退钱")
    change(work, "rename", "物流", to="配送")
    undo(work, first.id)
    assert active(work) == ["其他", "换货", "退款", "配送"]
    assert_counters_are_right(work)


@pytest.mark.parametrize(
    ("kind", "labels", "more"),
    [
        ("rename", ("换货",), {"to": "别的"}),
        ("split", ("换货",), {"into": ("一", "二")}),
        ("merge", ("换货",), {"to": "物流"}),
        ("retire", ("换货",), {}),
    ],
)
def test_an_older_change_whose_labels_were_changed_since_is_refused_whole(
    work: UnitOfWork, kind: str, labels: tuple[str, ...], more: dict[str, Any]
) -> None:
    _world(work)
    first = change(work, "merge", "退款", to="换货")
    later = change(work, kind, *labels, **more)
    before = everything(work)
    with pytest.raises(ChangedSince, match="换货"):
        undo(work, first.id)
    assert everything(work) == before
    undo(work, later.id)
    undo(work, first.id)
    assert_counters_are_right(work)


def test_what_was_imported_since_counts_as_changed(sqlite_work: UnitOfWork) -> None:
    _world(sqlite_work)
    made = change(sqlite_work, "retire", "退款")
    set_taxonomy(sqlite_work, ["退款", "换货"])
    with pytest.raises(ChangedSince):
        undo(sqlite_work, made.id)


def test_labels_that_people_gave_and_that_have_no_place_beside_the_old_one_stop_the_undo(
    sqlite_work: UnitOfWork,
) -> None:
    made = _world(sqlite_work)
    split = change(sqlite_work, "split", "退款", into=("退款 > 质量", "退款 > 七天"))
    label(sqlite_work, made[0], "退款 > 质量", by="bo")
    before = everything(sqlite_work)
    with pytest.raises(ChangedSince, match="merge those first"):
        undo(sqlite_work, split.id)
    assert everything(sqlite_work) == before


def test_a_rule_that_somebody_changed_since_is_left_alone(sqlite_work: UnitOfWork) -> None:
    _world(sqlite_work)
    made = change(sqlite_work, "merge", "退款", to="物流")
    moved = sqlite_work.read(lambda session: rules.listing(session, domain_of(session).id, limit=9, keyword="钱"))[0]
    sqlite_work(rules.retire, moved.id, by=COMMAND_LINE)
    undo(sqlite_work, made.id)
    found = sqlite_work.read(rules.find, moved.id)
    assert (found.status, found.intent) == ("retired", "物流")


def test_a_change_is_undone_once_and_only_where_it_is(sqlite_work: UnitOfWork) -> None:
    _world(sqlite_work)
    made = change(sqlite_work, "rename", "退款", to="退钱")
    undo(sqlite_work, made.id)
    with pytest.raises(ChangedSince, match="already"):
        undo(sqlite_work, made.id)
    with pytest.raises(NotFound):
        undo(sqlite_work, 999)
    with pytest.raises(NotFound, match="no change"):
        sqlite_work.read(lambda session: taxonomy_undo.last(session, domain_of(session)))


def test_undo_leaves_a_row_for_every_answer_of_ours_that_counts_no_more(work: UnitOfWork) -> None:
    _world(work)
    made = change(work, "merge", "退款", to="换货")
    undo(work, made.id)
    again = change(work, "merge", "退款", to="换货")
    ours = [row[1:] for row in column(work, Annotation.labeler_id, Annotation.kind, Annotation.revision)
            if row[0] == "intentloop"]  # fmt: skip
    count = made.touched.texts
    assert sorted(ours) == sorted([("label", 1), ("retract", 2), ("label", 3)] * count)
    undo(work, again.id)
    assert_counters_are_right(work)


def test_the_clock_brings_back_what_is_too_much_for_one_undo(
    sqlite_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    _world(sqlite_work)
    before = everything(sqlite_work)
    made = change(sqlite_work, "split", "退款", into=("一", "二"))
    monkeypatch.setattr(labels_back, "MOST_ONE_BY_ONE", 1)
    undo(sqlite_work, made.id)
    assert sum(column(sqlite_work, Text.projection_due)) == made.touched.texts - 1
    while sqlite_work(project_due):
        pass
    assert everything(sqlite_work) == before


def test_what_is_kept_for_undoing_holds_no_word_of_a_user(work: UnitOfWork) -> None:
    _world(work)
    words = [text for text in column(work, Text.text) if text]
    for kind, labels, more in CHANGES[:1] + CHANGES[-1:]:
        change(work, kind, *(["退钱"] if kind == "split" else labels), **more)
    kept = str(column(work, TaxonomyChange.before, TaxonomyChange.arguments, TaxonomyChange.touched))
    assert not [word for word in words if word in kept]


NAMES = st.sampled_from(["甲", "乙", "丙", "丁", "甲 > 一", "甲 > 二", "乙 > 一", "上 > 甲", "上", "新"])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([*KINDS]),
            st.lists(NAMES, min_size=1, max_size=2, unique=True),
            st.fixed_dictionaries(
                {
                    "to": st.none() | NAMES,
                    "into": st.lists(NAMES, min_size=2, max_size=2, unique=True).map(tuple),
                    "texts": st.sampled_from(["keep", "requeue"]),
                }
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_changes_and_their_undos_bring_everything_back(
    steps: list[Any], databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("steps")
    engine = connect(databases.fresh("sqlite", folder))
    work = UnitOfWork(engine)
    make_labelled_texts(work, {"甲": 2, "乙": 1, "丙": 1}, gold=1)
    states, made = [everything(work)], []
    for kind, labels, more in steps:
        try:
            made.append(change(work, kind, *labels, **more).id)
        except (LabelExists, TaxonomyRefused, UnknownLabel):
            assert everything(work) == states[-1]
            continue
        assert_counters_are_right(work)
        paths = [row.path for row in work.read(lambda session: taxonomy.active(session, domain_of(session).id))]
        assert len(paths) == len(set(paths))
        states.append(everything(work))
    for change_id in reversed(made):
        states.pop()
        undo(work, change_id)
        assert_counters_are_right(work)
        assert everything(work) == states[-1]
    engine.dispose()
