"""Labels that look wrong wait for a person, once: what is kept of them, and when it goes."""

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Label, Text
from app.intent.text import MaskedText
from app.services import counters, counting, forgetting, imports, queue, recounting, suspects, undoing
from app.services.suspects import Suspect
from tests.builders import column, domain_id, domain_of, expire_leases, label, make_labelled_texts, text_of


def doubt(work: UnitOfWork, *question_ids: str, answer: str = "乙", judged: list[str] | None = None, **changes) -> int:
    """Doubt the labels of these questions, the first the most."""

    def keep(session: Session) -> int:
        found = []
        domain = domain_of(session)
        (answer_id,) = [row.id for row in session.query(Label).where(Label.path == answer)]
        for place, question_id in enumerate(question_ids):
            text = text_of(session, question_id)
            values = {
                "text_id": text.id,
                "label_id": text.label_id or 0,
                "suspicion": 0.9 - place / 100,
                "answer_id": answer_id,
                "confidence": 0.8,
            }
            found.append(Suspect(**(values | changes)))
        ids = {text_of(session, question_id).id for question_id in (judged or question_ids)}
        return suspects.replace(session, domain, found, judged=ids, version="default-v1")

    return work(keep)


def suspicions(work: UnitOfWork, ids: list[str]) -> list[float | None]:
    return [work.read(text_of, question_id).suspicion for question_id in ids]


def waiting(work: UnitOfWork) -> int:
    return dict(work.read(counters.totals, domain_id(work)).get(counting.SUSPECT, {})).get("", 0)


def check_counts(work: UnitOfWork) -> None:
    kept = work.read(counters.of_domain, domain_id(work))
    assert {key: value for key, value in kept.items() if value} == work.read(recounting.counted, domain_id(work))


def use(work: UnitOfWork) -> None:
    """Let all that is labelled be trained on."""

    def mark(session: Session) -> None:
        for text in session.query(Text).where(Text.state == "labelled"):
            text.training_status = "used"

    work(mark)


@pytest.fixture
def ids(work: UnitOfWork) -> list[str]:
    return make_labelled_texts(work, {"甲": 3, "乙": 1})


def test_a_suspect_keeps_its_evidence_and_is_counted(work: UnitOfWork, ids: list[str]) -> None:
    near = work.read(text_of, ids[1]).id
    assert doubt(work, ids[0], neighbour_ids=(near,)) == 1

    text = work.read(text_of, ids[0])
    answer = work.read(text_of, ids[3]).label_id
    assert text.suspicion == 0.9
    assert text.suspicion_evidence == {
        "version": "default-v1", "answer": answer, "confidence": 0.8, "neighbours": [near],
    }  # fmt: skip
    assert waiting(work) == 1
    check_counts(work)


def test_the_next_training_replaces_what_it_judged_and_leaves_the_rest(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, *ids[:2])
    assert doubt(work, ids[2], judged=ids[1:3]) == 2

    assert suspicions(work, ids) == [0.9, None, 0.9, None]
    assert work.read(text_of, ids[1]).suspicion_evidence is None
    assert waiting(work) == 2
    check_counts(work)


def test_the_most_suspect_stay_when_there_are_too_many(
    work: UnitOfWork, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "MOST", 2)
    doubt(work, ids[0], suspicion=0.5)
    doubt(work, ids[1], suspicion=0.7)
    assert doubt(work, ids[2], suspicion=0.6) == 2

    assert suspicions(work, ids) == [None, 0.7, 0.6, None]
    check_counts(work)


def test_at_most_a_tenth_of_the_labels_and_a_thousand_are_suspect() -> None:
    assert [suspects.most(judged) for judged in (5, 100, 50_000)] == [0, 10, 1000]


def test_a_label_that_changed_meanwhile_is_not_doubted(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    was = sqlite_work.read(text_of, ids[0]).label_id
    label(sqlite_work, ids[0], "乙")

    assert doubt(sqlite_work, ids[0], label_id=was) == 0
    assert suspicions(sqlite_work, ids) == [None, None, None]


def test_a_label_that_was_taken_back_is_not_doubted(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    was = sqlite_work.read(text_of, ids[0]).label_id
    doubt(sqlite_work, ids[1])
    sqlite_work(undoing.undo, ids[0], labeler_id="ana")
    sqlite_work(undoing.undo, ids[1], labeler_id="ana")

    assert suspicions(sqlite_work, ids) == [None, None, None]
    assert waiting(sqlite_work) == 0
    assert doubt(sqlite_work, ids[0], label_id=was) == 0


def test_another_label_settles_the_doubt_and_the_text_is_trained_again(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    use(work)
    submitted = label(work, ids[0], "乙")

    text = work.read(text_of, ids[0])
    assert (text.suspicion, text.suspicion_evidence, text.training_status) == (None, None, "pending")
    assert text.confirmed_annotation_id is None
    assert text.annotation_id == submitted.annotation_id
    assert waiting(work) == 0
    check_counts(work)


def test_the_same_label_again_confirms_it_for_good(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    use(work)
    submitted = label(work, ids[0], "甲")

    text = work.read(text_of, ids[0])
    assert (text.suspicion, text.training_status) == (None, "used")
    assert text.confirmed_annotation_id == text.annotation_id == submitted.annotation_id
    assert doubt(work, ids[0]) == 0
    check_counts(work)


def test_a_confirmation_that_is_taken_back_confirms_nothing(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    doubt(sqlite_work, ids[0])
    label(sqlite_work, ids[0], "甲")
    sqlite_work(undoing.undo, ids[0], labeler_id="ana")

    assert doubt(sqlite_work, ids[0]) == 1


def test_taking_back_a_doubted_answer_does_not_confirm_the_same_one_before(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    label(sqlite_work, ids[0], "甲")
    doubt(sqlite_work, ids[0])
    sqlite_work(undoing.undo, ids[0], labeler_id="ana")

    assert sqlite_work.read(text_of, ids[0]).confirmed_annotation_id is None
    assert suspicions(sqlite_work, ids) == [None, None, None]


def test_a_text_that_somebody_reviews_is_left_alone(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    work(lambda session: queue.unlabelled(session, domain_of(session), limit=1, strategy="review", labeler_id="bo"))
    doubt(work, ids[1], judged=ids)
    assert suspicions(work, ids) == [0.9, 0.9, None, None]

    expire_leases(work)
    doubt(work, ids[1], judged=ids)
    assert suspicions(work, ids) == [None, 0.9, None, None]


def test_what_was_forgotten_is_doubted_no_longer(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, *ids[:2])
    work(lambda session: forgetting.forget_slice(session, forgetting.of_question(ids[0])))

    assert sorted(column(work, Text.suspicion), key=str) == [0.89, None, None, None]
    assert sum(evidence is not None for evidence in column(work, Text.suspicion_evidence)) == 1
    assert waiting(work) == 1


def test_an_import_confirms_nothing(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    doubt(sqlite_work, ids[0])
    words = sqlite_work.read(text_of, ids[0]).text or ""
    sqlite_work(imports.take_in, "default", [imports.ImportRow(1, MaskedText(words), "甲")])

    assert suspicions(sqlite_work, ids) == [0.9, None, None]
