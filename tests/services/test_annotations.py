"""Every answer stays, the last one counts, and nobody overwrites another's by accident."""

from typing import Any

import pytest
from sqlalchemy import text as sql
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Label, Lease, Text, UserQuestion
from app.errors import (
    AlreadyLabelled,
    Discarded,
    IntentError,
    Leased,
    LeaseLost,
    Malformed,
    NoTexts,
    NotFound,
    NothingToUndo,
    Retired,
    TaxonomyEmpty,
    UnknownLabel,
)
from app.services import (
    annotations,
    batches,
    domains,
    flags,
    folding,
    imports,
    intake,
    queue,
    taxonomy,
    undoing,
)
from tests.builders import (
    ask,
    asked,
    column,
    domain_id,
    domain_of,
    expire_leases,
    gold_text,
    label,
    make_labelled_texts,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.together import in_threads


def _one(work: UnitOfWork, twins: int = 1) -> str:
    """A question in a domain with three labels."""
    set_taxonomy(work, ["甲", "乙", "丙"])
    words = trainable_text("甲")
    return ask(work, *[words] * twins)[0]


def _lease(work: UnitOfWork, labeler: str) -> list[queue.QueueItem]:
    return work(lambda session: queue.unlabelled(session, domain_of(session), limit=10, labeler_id=labeler))


def _answer(work: UnitOfWork, question_id: str) -> list[str] | None:
    return work.read(intake.find, question_id).correct_intent


def _state(work: UnitOfWork, question_id: str) -> tuple[str, str]:
    text = work.read(text_of, question_id)
    return text.state, text.training_status


def test_a_label_goes_to_all_twins(work: UnitOfWork) -> None:
    first = _one(work, twins=3)

    submitted = label(work, first, "甲", time_intent={"type": "this_year", "target_years": [2026]})

    assert (submitted.label, submitted.twins, submitted.supersedes) == ("甲", 3, None)
    assert column(work, UserQuestion.correct_intent, UserQuestion.labeler_id) == [(["甲"], "ana")] * 3
    assert column(work, Annotation.id, Annotation.answer, Annotation.kind) == [
        (submitted.annotation_id, ["甲"], "label")
    ]
    assert column(work, Text.state, Text.training_status, Text.priority) == [("labelled", "pending", None)]


def test_a_question_can_be_labelled_before_it_is_folded(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    question = asked(trainable_text("甲"))
    sqlite_work(intake.record, [question])
    assert label(sqlite_work, question.question_id, "甲").twins == 1


def test_many_who_label_what_nobody_folded_yet_fold_it_once(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    rows = [asked(words, domain_id=domain_id(work)) for words in [trainable_text("甲") for _ in range(6)] * 2]
    work(intake.record, rows)

    def act(number: int) -> int:
        return label(work, rows[number].question_id, "甲").twins

    assert in_threads(6, act) == [2] * 6
    assert column(work, Text.count) == [2] * 6


def test_ones_own_second_answer_supersedes_the_first(work: UnitOfWork) -> None:
    question_id = _one(work)
    first = label(work, question_id, "甲")
    second = label(work, question_id, "乙")
    assert second.supersedes == first.annotation_id
    assert _answer(work, question_id) == ["乙"]
    assert column(work, Annotation.revision, Annotation.answer) == [(1, ["甲"]), (2, ["乙"])]


def test_anothers_answer_stands_unless_it_is_named(work: UnitOfWork) -> None:
    question_id = _one(work)
    first = label(work, question_id, "甲")

    with pytest.raises(AlreadyLabelled) as caught:
        label(work, question_id, "乙", by="bo")
    assert caught.value.details == {"annotation_id": first.annotation_id}
    assert _answer(work, question_id) == ["甲"]

    second = label(work, question_id, "乙", by="bo", supersedes=first.annotation_id)
    assert second.supersedes == first.annotation_id
    assert _answer(work, question_id) == ["乙"]

    with pytest.raises(AlreadyLabelled) as caught:
        label(work, question_id, "丙", by="cy", supersedes=first.annotation_id)
    assert caught.value.details == {"annotation_id": second.annotation_id}


def test_nothing_can_be_superseded_where_nothing_counts(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(AlreadyLabelled):
        label(sqlite_work, _one(sqlite_work), "甲", supersedes=7)


def test_of_two_first_answers_at_once_one_counts(work: UnitOfWork) -> None:
    question_id = _one(work)

    def act(number: int) -> str:
        try:
            return label(work, question_id, ["甲", "乙"][number % 2], by=f"labeler-{number}").label
        except AlreadyLabelled:
            return "late"

    answers = in_threads(6, act)

    assert answers.count("late") == 5
    assert _answer(work, question_id) == [answer for answer in answers if answer != "late"]
    assert len(column(work, Annotation.id)) == 1


def test_what_another_holds_cannot_be_answered(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    _lease(sqlite_work, "ana")
    for act in (
        lambda: label(sqlite_work, question_id, "甲", by="bo"),
        lambda: sqlite_work(annotations.skip, question_id, labeler_id="bo"),
        lambda: sqlite_work(annotations.release, question_id, labeler_id="bo"),
    ):
        with pytest.raises(Leased) as caught:
            act()
        assert caught.value.details["lease_expires_at"].endswith("Z")
    label(sqlite_work, question_id, "甲", by="ana")
    assert column(sqlite_work, Lease.text_id) == []


def test_a_late_writer_whose_lease_another_took_over_changes_nothing(work: UnitOfWork) -> None:
    question_id = _one(work)
    _lease(work, "ana")
    expire_leases(work)
    _lease(work, "bo")

    with pytest.raises(Leased):
        label(work, question_id, "甲", by="ana")
    label(work, question_id, "乙", by="bo")
    with pytest.raises(AlreadyLabelled):
        label(work, question_id, "甲", by="ana")

    assert _answer(work, question_id) == ["乙"]


def test_the_token_of_an_ended_lease_fences_off_a_second_person_of_the_same_name(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    [old] = _lease(sqlite_work, "ana")
    expire_leases(sqlite_work)
    [new] = _lease(sqlite_work, "ana")

    for act in (annotations.skip, annotations.release):
        with pytest.raises(LeaseLost):
            sqlite_work(act, question_id, labeler_id="ana", lease_token=old.lease_token)
    with pytest.raises(LeaseLost):
        sqlite_work(
            annotations.submit, question_id, correct_intent=["甲"], labeler_id="ana", lease_token=old.lease_token
        )
    assert _state(sqlite_work, question_id) == ("unlabelled", "pending")

    sqlite_work(annotations.submit, question_id, correct_intent=["乙"], labeler_id="ana", lease_token=new.lease_token)
    assert _answer(sqlite_work, question_id) == ["乙"]


def test_a_token_counts_only_while_its_lease_is_there_whatever_became_of_the_text_since(work: UnitOfWork) -> None:
    question_id = _one(work)
    [old] = _lease(work, "ana")
    expire_leases(work)
    [new] = _lease(work, "bo")
    label(work, question_id, "乙", by="bo", lease_token=new.lease_token)
    work(undoing.undo, question_id, labeler_id="bo")

    # Nobody holds it now; still it was with another, who is not done with it.
    acts = (annotations.skip, annotations.discard, flags.flag)
    for act in acts:
        with pytest.raises(LeaseLost):
            work(act, question_id, labeler_id="ana", lease_token=old.lease_token)
    with pytest.raises(LeaseLost):
        label(work, question_id, "甲", by="ana", lease_token=old.lease_token)
    with pytest.raises(LeaseLost):
        label(work, question_id, "甲", by="bo", lease_token=old.lease_token)
    assert column(work, Annotation.labeler_id) == ["bo", "bo"]
    assert not work.read(text_of, question_id).is_flagged
    label(work, question_id, "甲", by="ana")


def test_a_skip_or_discard_that_is_sent_once_more_is_answered_as_before(sqlite_work: UnitOfWork) -> None:
    for act, state in ((annotations.skip, "unlabelled"), (annotations.discard, "discarded")):
        question_id = _one(sqlite_work)
        held = {item.question_id: item.lease_token for item in _lease(sqlite_work, "ana")}
        for _ in range(2):
            text = sqlite_work(act, question_id, labeler_id="ana", lease_token=held[question_id])
            assert text.state == state
    assert column(sqlite_work, Annotation.kind) == ["skip", "discard"]


def test_an_expired_lease_that_nobody_took_still_counts_for_who_had_it(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    [item] = _lease(sqlite_work, "ana")
    expire_leases(sqlite_work)
    label(sqlite_work, question_id, "甲", lease_token=item.lease_token)
    assert column(sqlite_work, Lease.text_id) == []


def test_an_expired_lease_that_nobody_took_hinders_nobody(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    _lease(sqlite_work, "ana")
    expire_leases(sqlite_work)
    label(sqlite_work, question_id, "甲", by="bo")
    assert column(sqlite_work, Lease.text_id) == []


def test_release_hands_a_text_back_at_once(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    _lease(sqlite_work, "ana")
    sqlite_work(annotations.release, question_id, labeler_id="ana")
    sqlite_work(annotations.release, question_id, labeler_id="ana")
    assert [item.question_id for item in _lease(sqlite_work, "bo")] == [question_id]
    assert column(sqlite_work, Annotation.id) == []


def test_undo_brings_back_what_counted_before(work: UnitOfWork) -> None:
    question_id = _one(work, twins=2)
    first = label(work, question_id, "甲", time_intent={"type": "today"})
    label(work, question_id, "乙", by="bo", supersedes=first.annotation_id)

    assert work(undoing.undo, question_id, labeler_id="bo").label_id is not None
    assert column(work, UserQuestion.correct_intent, UserQuestion.labeler_id) == [(["甲"], "ana")] * 2
    assert column(work, UserQuestion.correct_time_intent) == [{"type": "today"}] * 2

    work(undoing.undo, question_id, labeler_id="ana")
    assert _state(work, question_id) == ("unlabelled", "pending")
    assert column(work, UserQuestion.is_labeled, UserQuestion.correct_intent) == [(False, None)] * 2
    assert work.read(text_of, question_id).priority is not None


def test_undo_walks_back_through_ones_own_answers(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    for path in ("甲", "乙", "丙"):
        label(sqlite_work, question_id, path)
    seen = []
    for _ in range(3):
        sqlite_work(undoing.undo, question_id, labeler_id="ana")
        seen.append(_answer(sqlite_work, question_id))
    assert seen == [["乙"], ["甲"], None]
    with pytest.raises(NothingToUndo):
        sqlite_work(undoing.undo, question_id, labeler_id="ana")


def test_undo_passes_over_an_answer_that_was_taken_back_before(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    label(sqlite_work, question_id, "甲")
    label(sqlite_work, question_id, "乙")
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    label(sqlite_work, question_id, "丙")
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert _answer(sqlite_work, question_id) == ["甲"]


def test_undo_takes_back_nothing_of_another(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    first = label(sqlite_work, question_id, "甲")
    with pytest.raises(NothingToUndo):
        sqlite_work(undoing.undo, question_id, labeler_id="bo")
    second = label(sqlite_work, question_id, "乙", by="bo", supersedes=first.annotation_id)
    with pytest.raises(NothingToUndo) as caught:
        sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert caught.value.details == {"annotation_id": second.annotation_id}


def test_one_skip_hides_and_two_retire(work: UnitOfWork) -> None:
    question_id = _one(work, twins=2)
    work(annotations.skip, question_id, labeler_id="ana", reason="not a question")
    work(annotations.skip, question_id, labeler_id="ana")
    assert _state(work, question_id) == ("unlabelled", "pending")

    work(annotations.skip, question_id, labeler_id="bo")
    assert _state(work, question_id) == ("skipped", "skipped")
    assert column(work, UserQuestion.training_status) == ["skipped"] * 2
    assert _lease(work, "cy") == []
    for act in (
        lambda: label(work, question_id, "甲", by="cy"),
        lambda: work(annotations.skip, question_id, labeler_id="cy"),
    ):
        with pytest.raises(Retired):
            act()


def test_what_is_discarded_is_never_asked_or_trained_again(work: UnitOfWork) -> None:
    question_id = _one(work, twins=2)
    _lease(work, "ana")
    text = work(annotations.discard, question_id, labeler_id="ana", reason="spam")
    assert (text.state, text.training_status, text.priority) == ("discarded", "skipped", None)
    assert column(work, UserQuestion.training_status) == ["skipped"] * 2
    assert (_lease(work, "bo"), column(work, Lease.text_id)) == ([], [])
    ask(work, text.text or "")
    assert _state(work, question_id) == ("discarded", "skipped")
    for act in (
        lambda: label(work, question_id, "甲", by="bo"),
        lambda: label(work, question_id, "甲", by="ana"),
        lambda: work(annotations.skip, question_id, labeler_id="bo"),
        lambda: work(annotations.discard, question_id, labeler_id="bo"),
    ):
        with pytest.raises(Discarded):
            act()
    report = work(imports.take_in, "default", [imports.ImportRow(1, text.text, "甲")])  # type: ignore[arg-type]
    assert report.counts == {"conflict": 1}

    assert work(undoing.undo, question_id, labeler_id="ana").state == "unlabelled"
    assert _state(work, question_id) == ("unlabelled", "pending")
    assert column(work, UserQuestion.training_status) == ["pending"] * 3
    assert [item.question_id for item in _lease(work, "bo")] == [question_id]


def test_a_labelled_or_retired_text_is_not_discarded_and_what_another_holds_neither(sqlite_work: UnitOfWork) -> None:
    labelled, retired, held = _one(sqlite_work), _one(sqlite_work), _one(sqlite_work)
    label(sqlite_work, labelled, "甲")
    for labeler in ("ana", "bo"):
        sqlite_work(annotations.skip, retired, labeler_id=labeler)
    _lease(sqlite_work, "bo")
    for question_id, error in ((labelled, AlreadyLabelled), (retired, Retired), (held, Leased)):
        with pytest.raises(error):
            sqlite_work(annotations.discard, question_id, labeler_id="ana")


def test_undo_of_a_skip_asks_again(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    for labeler in ("ana", "bo"):
        sqlite_work(annotations.skip, question_id, labeler_id=labeler)
    sqlite_work(undoing.undo, question_id, labeler_id="bo")
    assert _state(sqlite_work, question_id) == ("unlabelled", "pending")
    assert [item.question_id for item in _lease(sqlite_work, "bo")] == [question_id]
    assert sqlite_work.read(intake.find, question_id).training_status == "pending"


def test_a_text_stays_retired_while_two_skips_stand(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    for labeler in ("ana", "ana", "bo"):
        sqlite_work(annotations.skip, question_id, labeler_id=labeler)
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert _state(sqlite_work, question_id) == ("skipped", "skipped")
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert _state(sqlite_work, question_id) == ("unlabelled", "pending")


def test_a_labelled_text_is_not_skipped(sqlite_work: UnitOfWork) -> None:
    question_id = _one(sqlite_work)
    label(sqlite_work, question_id, "甲")
    with pytest.raises(AlreadyLabelled):
        sqlite_work(annotations.skip, question_id, labeler_id="bo")


def test_taking_back_a_label_does_not_queue_what_may_not_be_trained_on(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    (question_id,) = ask(sqlite_work, trainable_text("甲"), train_allowed=False)
    label(sqlite_work, question_id, "甲")
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert sqlite_work.read(text_of, question_id).priority is None


def test_taking_back_a_label_of_gold_keeps_its_draw(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    drawn, other = ask(sqlite_work, gold_text("甲"), gold_text("甲"))

    def draw(session: Session) -> None:
        text = text_of(session, drawn)
        text.priority, text.strategy = 0.9, "gold"

    sqlite_work(draw)
    for question_id in (drawn, other):
        label(sqlite_work, question_id, "甲")
        assert _state(sqlite_work, question_id) == ("labelled", "skipped")
        sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert sqlite_work.read(text_of, drawn).priority is not None
    assert sqlite_work.read(text_of, other).priority is None


def test_refusals_say_what_is_wrong_and_change_nothing(sqlite_work: UnitOfWork) -> None:
    (early,) = ask(sqlite_work, trainable_text("甲"))
    for proposed in (None, "丁"):
        with pytest.raises(TaxonomyEmpty):
            label(sqlite_work, early, taxonomy.OTHER, proposed_label=proposed)
    question_id = _one(sqlite_work)
    secret = sqlite_work(domains.create, "secret", keep_text=False).id
    hashed = asked("甲", domain_id=secret)
    hashed = type(hashed)(**{name: getattr(hashed, name) for name in hashed.__dataclass_fields__} | {"text": None})
    sqlite_work(intake.record, [hashed])
    with pytest.raises(UnknownLabel):
        label(sqlite_work, question_id, "丁")
    with pytest.raises(NotFound):
        label(sqlite_work, "nothing", "甲")
    with pytest.raises(NoTexts):
        label(sqlite_work, hashed.question_id, "甲")
    assert column(sqlite_work, Annotation.id) == []


def test_no_annotation_is_ever_changed_or_deleted(sqlite_work: UnitOfWork) -> None:
    for verb in ("UPDATE", "DELETE"):
        with sqlite_work.engine.begin() as connection:
            connection.execute(
                sql(
                    f"CREATE TRIGGER no_{verb} BEFORE {verb} ON intent_annotations "
                    "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
                )
            )
    question_id, other = _one(sqlite_work), _one(sqlite_work)
    first = label(sqlite_work, question_id, "甲")
    label(sqlite_work, question_id, "乙")
    label(sqlite_work, question_id, "丙", by="bo", supersedes=first.annotation_id + 1)
    sqlite_work(undoing.undo, question_id, labeler_id="bo")
    sqlite_work(annotations.skip, other, labeler_id="ana")
    sqlite_work(undoing.undo, other, labeler_id="ana")
    for number, proposal in enumerate(ask(sqlite_work, trainable_text("丁"), trainable_text("丁"))):
        label(sqlite_work, proposal, taxonomy.OTHER, proposed_label="丁", proposal_size=2, by=f"labeler-{number}")
    kinds = column(sqlite_work, Annotation.kind, Annotation.source)
    assert len(kinds) == 10
    assert kinds.count(("label", "system")) == 2
    with pytest.raises(Exception, match="append-only"):
        sqlite_work(lambda session: session.execute(update(Annotation).values(revision=9)).close())


# Proposals


def _propose(work: UnitOfWork, proposed: str, *, count: int, size: int) -> list[str]:
    ids = ask(work, *[trainable_text(proposed) for _ in range(count)])
    for question_id in ids:
        label(work, question_id, taxonomy.OTHER, proposed_label=proposed, proposal_size=size)
    return ids


def test_proposals_collect_under_other_and_become_a_label_at_their_number(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    ids = _propose(work, "硬件 > 键盘", count=2, size=3)
    assert [_answer(work, question_id) for question_id in ids] == [[taxonomy.OTHER]] * 2
    assert "硬件 > 键盘" not in column(work, Label.path)

    ids += _propose(work, "硬件 > 键盘", count=1, size=3)

    assert "硬件 > 键盘" in column(work, Label.path)
    assert [_answer(work, question_id) for question_id in ids] == [["硬件 > 键盘"]] * 3
    assert column(work, Text.proposed_label, Text.training_status) == [(None, "pending")] * 3
    assert column(work, Annotation.source).count("system") == 3


def test_a_proposal_that_is_a_label_by_now_is_that_label(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    _propose(sqlite_work, "丁", count=2, size=2)
    (late,) = _propose(sqlite_work, " 丁 ", count=1, size=2)
    assert _answer(sqlite_work, late) == ["丁"]
    assert sqlite_work.read(text_of, late).proposed_label is None


def test_proposals_are_one_however_they_are_spaced(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    _propose(sqlite_work, "硬件 > 键盘", count=1, size=2)
    _propose(sqlite_work, " 硬件  >  键盘", count=1, size=2)
    assert "硬件 > 键盘" in column(sqlite_work, Label.path)


def test_a_text_that_changes_its_proposal_counts_for_the_new_one_only(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲"])
    (question_id,) = _propose(sqlite_work, "丁", count=1, size=2)
    label(sqlite_work, question_id, taxonomy.OTHER, proposed_label="戊", proposal_size=2)
    _propose(sqlite_work, "丁", count=1, size=2)
    assert sorted(column(sqlite_work, Label.path)) == sorted(["甲", taxonomy.OTHER])


@pytest.mark.parametrize("proposed", ["", " > ", "x" * 101, "硬件", "硬件 > 屏幕 > 花屏"])
def test_a_proposal_that_could_not_be_a_label_is_refused(sqlite_work: UnitOfWork, proposed: str) -> None:
    set_taxonomy(sqlite_work, ["硬件 > 屏幕"])
    (question_id,) = ask(sqlite_work, trainable_text("甲"))
    with pytest.raises(Malformed):
        label(sqlite_work, question_id, taxonomy.OTHER, proposed_label=proposed)


def test_a_proposal_beside_a_label_is_refused(sqlite_work: UnitOfWork) -> None:
    with pytest.raises(Malformed, match=taxonomy.OTHER):
        label(sqlite_work, _one(sqlite_work), "甲", proposed_label="丁")


def test_of_many_who_bring_the_last_proposals_at_once_one_makes_the_label(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    ids = ask(work, *[trainable_text("丁") for _ in range(8)])

    def act(number: int) -> None:
        label(work, ids[number], taxonomy.OTHER, proposed_label="丁", proposal_size=8, by=f"labeler-{number}")

    in_threads(8, act)

    assert [_answer(work, question_id) for question_id in ids] == [["丁"]] * 8
    assert column(work, Label.path).count("丁") == 1


# Labels and batches


def _used(work: UnitOfWork) -> str:
    """A text that a finished batch was trained on."""
    question_id, *_ = make_labelled_texts(work, {"甲": 2, "乙": 2})

    def use(session: Session) -> None:
        session.execute(update(Text).values(training_status="used"))

    work(use)
    return question_id


def test_a_new_answer_to_a_used_text_waits_for_the_next_batch(sqlite_work: UnitOfWork) -> None:
    question_id = _used(sqlite_work)
    label(sqlite_work, question_id, "乙")
    assert _state(sqlite_work, question_id) == ("labelled", "pending")


def test_the_same_answer_again_trains_nothing_again(sqlite_work: UnitOfWork) -> None:
    question_id = _used(sqlite_work)
    label(sqlite_work, question_id, "甲")
    assert _state(sqlite_work, question_id) == ("labelled", "used")


def test_a_new_answer_while_its_batch_runs_leaves_the_batch(work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(work, {"甲": 2, "乙": 2})
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(batches.run, batch.batch_id)
    claimed = work(batches.claim_next, worker="w")
    assert claimed is not None

    label(work, question_id, "乙")
    work(batches.fail, batch.id, claimed.token, error="x")

    assert work.read(text_of, question_id).claimed_by is None
    assert _state(work, question_id) == ("labelled", "pending")
    frozen = {item.text_id: item.label for item in work.read(batches.items, batch.id)}
    assert frozen[work.read(text_of, question_id).id] == "甲"


def test_taking_an_answer_back_while_its_batch_runs_leaves_the_batch(sqlite_work: UnitOfWork) -> None:
    question_id, *_ = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    sqlite_work(batches.open_batch, "default", opened_by="ana")
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    text = sqlite_work.read(text_of, question_id)
    assert (text.state, text.training_status, text.claimed_by) == ("unlabelled", "pending", None)


def test_a_label_outlives_a_crowd_that_changes_it_at_once(work: UnitOfWork) -> None:
    question_id = _one(work)
    label(work, question_id, "甲", by="labeler-0")

    def act(number: int) -> Any:
        for path in ("乙", "丙", "甲"):
            try:
                current = work.read(text_of, question_id).annotation_id
                label(work, question_id, path, by=f"labeler-{number}", supersedes=current)
                work(undoing.undo, question_id, labeler_id=f"labeler-{number}")
            except IntentError:
                pass

    in_threads(5, act)

    text = work.read(text_of, question_id)
    counting = dict(column(work, Annotation.id, Annotation.answer))
    assert text.annotation_id is not None
    assert _answer(work, question_id) == counting[text.annotation_id]
    retracted = column(work, Annotation.kind, Annotation.supersedes_id)
    assert ("retract", text.annotation_id) not in retracted
    work(folding.fold)
