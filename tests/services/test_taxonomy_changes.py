"""Labels that were given are renamed, moved, merged, retired and split, with all that hangs on them."""

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, AuditEvent, BatchItem, Domain, KeywordRule, Label, Text, UserQuestion
from app.errors import LabelExists, TaxonomyRefused, UnknownLabel
from app.services import (
    batches,
    label_projection,
    members,
    queue,
    recounting,
    rules,
    selection,
    taxonomy,
    taxonomy_changes,
    texts,
)
from app.services.audit import COMMAND_LINE
from app.services.rule_wording import read as wording
from app.services.selection import WaitingText
from tests.builders import (
    ask,
    batch_of,
    column,
    domain_id,
    domain_of,
    gold_text,
    label,
    make_labelled_texts,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.taxonomies import active, assert_counters_are_right, change, everything, labels_of_texts, undo

ANSWERED = {
    "method": "local_model",
    "intents": ["退款"],
    "topk": [["退款", 0.6], ["换货", 0.4]],
    "confidence": 0.6,
    "model_version": "v1",
}
CHANGES = [
    ("rename", ("退款",), {"to": "退钱"}),
    ("move", ("退款",), {"to": "售后"}),
    ("merge", ("退款",), {"to": "换货"}),
    ("merge", ("退款", "换货"), {"to": "售后"}),
    ("retire", ("退款",), {"texts": "keep"}),
    ("retire", ("退款",), {"texts": "requeue"}),
    ("split", ("退款",), {"into": ("退款 > 质量", "退款 > 七天")}),
]
EACH = pytest.mark.parametrize(("kind", "labels", "more"), CHANGES)


def _rule(work: UnitOfWork, keyword: str, path: str) -> int:
    return work(rules.create, "default", wording(keyword, (), (), None), intent=path, by=COMMAND_LINE).rule.id


def _world(work: UnitOfWork) -> list[str]:
    """Labelled texts of three labels, gold among them, one that waits, and rules."""
    set_taxonomy(work, ["退款", "换货", "物流", "其他"])
    made = make_labelled_texts(work, {"退款": 3, "换货": 2, "物流": 1}, gold=1)
    ask(work, trainable_text("退款"), **ANSWERED)
    _rule(work, "钱", "退款")
    _rule(work, "换", "换货")
    return made


@EACH
def test_dry_run_counts_what_is_then_touched_and_changes_nothing(
    work: UnitOfWork, kind: str, labels: tuple[str, ...], more: dict[str, object]
) -> None:
    _world(work)
    before = everything(work), column(work, Annotation.id), column(work, AuditEvent.id), column(work, Label.id)
    tried = change(work, kind, *labels, dry_run=True, **more)  # type: ignore[arg-type]
    assert tried.id is None
    assert (
        everything(work),
        column(work, Annotation.id),
        column(work, AuditEvent.id),
        column(work, Label.id),
    ) == before
    made = change(work, kind, *labels, **more)  # type: ignore[arg-type]
    assert made.touched == tried.touched
    both = len(labels) == 2
    assert (made.touched.texts, made.touched.gold_texts) == ((7, 2) if both else (4, 1))
    assert (made.touched.questions, made.touched.annotations) == ((7, 7) if both else (4, 4))
    assert (made.touched.labels, made.touched.rules) == ((2, 2) if both else (1, 1))
    assert made.touched.waiting_texts == (1 if kind in ("rename", "move") else 0)


@EACH
def test_every_change_keeps_the_counters_right_and_is_audited(
    work: UnitOfWork, kind: str, labels: tuple[str, ...], more: dict[str, object]
) -> None:
    _world(work)
    version = column(work, Domain.taxonomy_version)[0]
    made = change(work, kind, *labels, **more)  # type: ignore[arg-type]
    assert_counters_are_right(work)
    assert column(work, Domain.taxonomy_version) == [version + 1] == [made.taxonomy_version]
    action, after = column(work, AuditEvent.action, AuditEvent.after)[-1]
    assert action == f"taxonomy.{kind}"
    assert (after["change"], after["arguments"]["labels"]) == (made.id, list(labels))


def test_rename_keeps_the_id_and_shows_the_new_path_everywhere_but_in_the_past(work: UnitOfWork) -> None:
    made = _world(work)
    ids = dict(column(work, Label.path, Label.id))
    work(lambda session: setattr(domain_of(session), "confusion_pairs", [["退款", "换货"]]))
    change(work, "rename", "退款", to="售后 > 退钱")

    assert dict(column(work, Label.path, Label.id))["售后 > 退钱"] == ids["退款"]
    shown = work.read(lambda session: session.get(UserQuestion, made[0]))
    assert shown is not None
    assert shown.correct_intent == ["售后 > 退钱"]
    assert ["退款"] in column(work, Annotation.answer)
    waiting = [row for row in column(work, Text.state, Text.intents, Text.topk) if row[0] == "unlabelled"]
    assert waiting == [("unlabelled", ["售后 > 退钱"], [["售后 > 退钱", 0.6], ["换货", 0.4]])]
    assert set(column(work, KeywordRule.intent)) == {"售后 > 退钱", "换货"}
    assert work.read(lambda session: domain_of(session).confusion_pairs) == [["售后 > 退钱", "换货"]]


@pytest.mark.parametrize(
    ("kind", "named", "more", "pairs"),
    [
        ("merge", ("退款",), {"to": "换货"}, [["换货", "物流"]]),
        ("merge", ("退款", "换货"), {"to": "售后"}, [["售后", "物流"]]),
        ("retire", ("退款",), {"texts": "requeue"}, [["换货", "物流"]]),
        ("split", ("物流",), {"into": ("慢", "丢")}, [["换货", "退款"]]),
        ("retire", ("退款", "物流"), {"texts": "keep"}, None),
    ],
)
def test_confused_pairs_name_what_stands_for_a_label_that_left(
    sqlite_work: UnitOfWork, kind: str, named: tuple[str, ...], more: dict[str, Any], pairs: Any
) -> None:
    _world(sqlite_work)
    before = [["换货", "退款"], ["退款", "物流"], ["换货", "物流"]]
    sqlite_work(lambda session: setattr(domain_of(session), "confusion_pairs", before))
    made = change(sqlite_work, kind, *named, **more)
    assert sqlite_work.read(lambda session: domain_of(session).confusion_pairs) == pairs
    undo(sqlite_work, made.id)
    assert sqlite_work.read(lambda session: domain_of(session).confusion_pairs) == before


def test_confused_pairs_that_were_set_since_are_not_undone(sqlite_work: UnitOfWork) -> None:
    _world(sqlite_work)
    sqlite_work(lambda session: setattr(domain_of(session), "confusion_pairs", [["换货", "退款"]]))
    made = change(sqlite_work, "merge", "退款", to="换货")
    sqlite_work(lambda session: setattr(domain_of(session), "confusion_pairs", [["换货", "物流"]]))
    undo(sqlite_work, made.id)
    assert sqlite_work.read(lambda session: domain_of(session).confusion_pairs) == [["换货", "物流"]]


def test_who_names_the_old_path_is_told_the_new_one(sqlite_work: UnitOfWork) -> None:
    _world(sqlite_work)
    change(sqlite_work, "rename", "退款", to="全额返还")
    change(sqlite_work, "merge", "物流", to="换货")
    [question_id] = ask(sqlite_work, trainable_text("退款"))
    for old, new in (("退款", "全额返还"), ("物流", "换货")):
        with pytest.raises(UnknownLabel) as caught:
            label(sqlite_work, question_id, old)
        assert caught.value.details["near"][0] == new


def test_an_answer_with_the_old_path_still_counts_for_the_renamed_label(work: UnitOfWork) -> None:
    _world(work)
    change(work, "rename", "退款", to="退钱")
    # Given by a service that does not know the new path yet.
    ask(work, trainable_text("退款"), **ANSWERED)
    assert_counters_are_right(work)


def test_later_twins_and_rules_that_come_back_follow_the_new_path(work: UnitOfWork) -> None:
    _world(work)
    text = trainable_text("退款")
    [first] = ask(work, text)
    label(work, first, "退款")
    rule = _rule(work, "款", "退款")
    work(rules.retire, rule, by=COMMAND_LINE)
    change(work, "rename", "退款", to="退钱")
    [twin] = ask(work, text)
    assert work.read(lambda session: session.get(UserQuestion, twin).correct_intent) == ["退钱"]  # type: ignore[union-attr]
    assert work(rules.change, rule, {"status": "active"}, by=COMMAND_LINE).rule.status == "active"


def test_move_takes_all_that_lies_below(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"售后 > 退款": 1, "售后 > 换货": 1, "物流": 1})
    assert change(work, "move", "售后", to="服务").touched.labels == 2
    assert [path for _, path in labels_of_texts(work)] == ["服务 > 售后 > 退款", "服务 > 售后 > 换货", "物流"]
    change(work, "move", "服务 > 售后 > 换货")
    assert active(work) == ["换货", "服务 > 售后 > 退款", "物流"]
    assert_counters_are_right(work)


@pytest.mark.parametrize(("kind", "to"), [("rename", "换货"), ("rename", "旧的"), ("move", "上")])
def test_a_path_that_is_taken_is_refused_and_nothing_is_changed(sqlite_work: UnitOfWork, kind: str, to: str) -> None:
    make_labelled_texts(sqlite_work, {"退款": 1, "换货": 1, "旧的": 1, "上 > 退款": 1})
    change(sqlite_work, "retire", "旧的")
    before = everything(sqlite_work)
    with pytest.raises(LabelExists):
        change(sqlite_work, kind, "退款", to=to)
    assert everything(sqlite_work) == before
    with pytest.raises(TaxonomyRefused, match="上"):
        change(sqlite_work, "rename", "退款", to="上")


def test_merge_gives_the_target_by_an_annotation_of_the_system(work: UnitOfWork) -> None:
    set_taxonomy(work, ["退款", "换货"])
    [question_id] = ask(work, trainable_text("退款"))
    first = label(work, question_id, "退款", time_intent={"when": "now"})
    given = work.read(text_of, question_id).labelled_at
    change(work, "merge", "退款", to="换货")

    def read(session: Session) -> None:
        text, question = text_of(session, question_id), session.get(UserQuestion, question_id)
        annotation = session.get(Annotation, text.annotation_id)
        labels = {row.path: row for row in taxonomy.listing(session, text.domain_id)}
        assert annotation is not None
        assert question is not None
        assert (annotation.source, annotation.supersedes_id, annotation.answer) == (
            "system", first.annotation_id, ["换货"],
        )  # fmt: skip
        assert annotation.reason == "退款 was merged into 换货"
        assert (text.label_id, text.labelled_at) == (labels["换货"].id, given)
        assert (question.correct_intent, question.correct_time_intent) == (["换货"], {"when": "now"})
        assert (labels["退款"].status, labels["退款"].merged_into_id) == ("retired", labels["换货"].id)

    work.read(read)


def test_merge_wakes_a_retired_label_and_makes_a_new_one(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"退款": 1, "换货": 1, "旧的": 1, "物流": 1})
    change(work, "retire", "旧的")
    change(work, "merge", "退款", to="旧的")
    change(work, "merge", "换货", "物流", to="新的")
    assert active(work) == ["新的", "旧的"]
    assert [path for _, path in labels_of_texts(work)] == ["旧的", "新的", "旧的", "新的"]


def test_merge_brings_the_rules_and_retires_those_that_would_be_double(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"退款": 1, "换货": 1})
    moved, double, there = _rule(work, "钱", "退款"), _rule(work, "换", "退款"), _rule(work, "换", "换货")
    change(work, "merge", "退款", to="换货")
    found = {row[0]: row[1:] for row in column(work, KeywordRule.id, KeywordRule.intent, KeywordRule.status)}
    assert found == {moved: ("换货", "active"), double: ("退款", "retired"), there: ("换货", "active")}
    target = dict(column(work, Label.path, Label.id))["换货"]
    assert dict(column(work, KeywordRule.id, KeywordRule.label_id))[moved] == target


def test_merge_judges_a_rule_by_the_label_that_it_speaks_for_now(work: UnitOfWork) -> None:
    set_taxonomy(work, ["退款", "换货", "物流"])
    rule = _rule(work, "钱", "退款")
    verdicts = [{"tier": "rules", "rules": [rule]}]
    for path in ("退款", "退款", "换货", "物流"):
        [question_id] = ask(work, trainable_text(path), verdicts=verdicts)
        label(work, question_id, path)

    def judged() -> list[tuple[int, int]]:
        return column(work, KeywordRule.judged_count, KeywordRule.success_count)

    assert judged() == [(4, 2)]
    made = change(work, "merge", "退款", to="换货")
    assert judged() == [(4, 3)]
    split = change(work, "split", "换货", into=("换货 > 一", "换货 > 二"))
    assert judged() == [(1, 0)]
    assert split.touched.texts == 3
    assert made.touched.texts == 2


def test_a_batch_keeps_the_label_that_it_froze_and_the_merged_texts_wait_for_the_next(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"退款": 2, "换货": 2})
    batch = work(batches.open_batch, "default", opened_by="test")
    work(batches.run, batch.batch_id)
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None
    made = change(work, "merge", "退款", to="换货")
    assert made.touched.batches == [batch.batch_id]
    assert sorted(column(work, BatchItem.label)) == ["换货", "换货", "退款", "退款"]
    to_train = work.read(taxonomy.to_train, domain_id(work), {*column(work, BatchItem.label_id)})
    assert [row.path for row in to_train] == ["换货", "退款"]
    work(batches.fail, batch.id, claimed.token, error="test")
    assert work.read(batch_of, batch.batch_id).training_status == "failed"
    assert column(work, Text.training_status) == ["pending"] * 4
    assert_counters_are_right(work)


def test_retire_keeps_the_texts_labelled_and_trains_them_no_more(work: UnitOfWork) -> None:
    _world(work)
    change(work, "retire", "退款")
    assert [state for state, path in zip(column(work, Text.state), labels_of_texts(work), strict=True)
            if path[1] == "退款"] == ["labelled"] * 4  # fmt: skip
    assert len(work.read(_trainable)) == 3


def _trainable(session: Session) -> list[int]:
    return list(session.scalars(select(Text.id).where(members.trainable(domain_of(session).id))))


def test_what_is_split_comes_back_first_with_the_old_label_shown(work: UnitOfWork) -> None:
    _world(work)
    change(work, "split", "退款", into=("退款 > 质量", "退款 > 七天"))
    items = work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=10))
    again = [item for item in items if item.reason and item.reason.startswith("was labelled")]
    assert items[:4] == again
    assert {item.reason for item in again} == {"was labelled 退款 before it was split into 退款 > 质量, 退款 > 七天"}
    assert {item.strategy for item in again} == {"split"}
    assert column(work, Annotation.answer).count(["退款"]) == 4
    label(work, again[0].question_id, "退款 > 七天")
    with pytest.raises(UnknownLabel):
        label(work, again[1].question_id, "退款")
    assert_counters_are_right(work)


def test_retire_may_ask_the_texts_again(work: UnitOfWork) -> None:
    _world(work)
    change(work, "retire", "退款", texts="requeue")
    again = [row for row in column(work, Text.strategy, Text.reason, Text.state) if row[0] == "retire"]
    assert again == [("retire", "was labelled 退款 before it left the taxonomy", "unlabelled")] * 4


def test_what_is_asked_again_keeps_its_place_when_it_is_asked_and_scored_anew(work: UnitOfWork) -> None:
    set_taxonomy(work, ["退款", "换货"])
    text = trainable_text("退款")
    [question_id] = ask(work, text)
    label(work, question_id, "退款")
    change(work, "split", "退款", into=("一", "二"))
    ask(work, text, **ANSWERED)
    found = work.read(text_of, question_id)
    waiting = [WaitingText(found.id, text, found.text_hash, 2)]
    work(selection.rescore, waiting, [[["换货", 0.9], ["一", 0.1]]], version="v2")
    after = work.read(text_of, question_id)
    assert (after.priority, after.strategy, after.scored_by, after.count) == (1.5, "split", "v2", 2)
    assert after.reason == "was labelled 退款 before it was split into 一, 二"


def test_gold_that_is_asked_again_stays_gold_of_the_uniform_draw(work: UnitOfWork) -> None:
    set_taxonomy(work, ["退款", "换货"])
    [question_id] = ask(work, gold_text("退款"), **ANSWERED)
    work(lambda session: session.execute(update(Text).values(strategy="gold", priority=0.5, sampling_probability=0.1)))
    label(work, question_id, "退款")
    work(lambda session: recounting.rebuild(session, domain_of(session)))
    for kind, more in (("merge", {"to": "换货"}), ("split", {"into": ("一", "二")})):
        change(work, kind, {"merge": "退款", "split": "换货"}[kind], **more)  # type: ignore[arg-type]
        assert_counters_are_right(work)
    found = work.read(text_of, question_id)
    assert (found.is_gold, found.strategy, found.sampling_probability, found.priority) == (True, "gold", 0.1, 1.5)


@pytest.mark.parametrize(("kind", "labels", "more"), CHANGES)
def test_the_clock_brings_what_is_too_much_for_one_change(
    sqlite_work: UnitOfWork,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    labels: tuple[str, ...],
    more: dict[str, object],
) -> None:
    _world(sqlite_work)
    monkeypatch.setattr(label_projection, "MOST_TWINS", 2)
    popular = trainable_text("退款")
    label(sqlite_work, ask(sqlite_work, *[popular] * 5)[0], "退款")
    change(sqlite_work, kind, *labels, **more)  # type: ignore[arg-type]
    changed = kind != "retire" or more["texts"] != "keep"
    assert sum(column(sqlite_work, Text.projection_due)) == int(changed)
    while sqlite_work(texts.project_due):
        pass
    assert not any(column(sqlite_work, Text.projection_due))
    assert_counters_are_right(sqlite_work)


def test_history_lists_the_newest_first_and_pages(sqlite_work: UnitOfWork) -> None:
    _world(sqlite_work)
    first, second = change(sqlite_work, "rename", "退款", to="一"), change(sqlite_work, "rename", "一", to="二")
    owner = domain_id(sqlite_work)
    page = sqlite_work.read(taxonomy_changes.listing, owner, limit=1)
    assert [row.id for row in page] == [second.id]
    assert [row.id for row in sqlite_work.read(taxonomy_changes.listing, owner, limit=9, before=second.id)] == [
        first.id
    ]
