"""Labels in doubt go to one person each, whose answer replaces or confirms whatever label there is."""

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Annotation, Lease, Text
from app.errors import AlreadyLabelled, Leased, LeaseLost
from app.services import annotations, counters, counting, queue, undoing
from app.services.queue import QueueItem
from tests.builders import (
    ask,
    column,
    domain_id,
    domain_of,
    expire_leases,
    gold_text,
    label,
    make_labelled_texts,
    text_of,
)
from tests.services.test_suspects import check_counts, doubt, use
from tests.services.together import in_threads


def take(work: UnitOfWork, labeler: str | None, limit: int = 10, strategy: str = "review") -> list[QueueItem]:
    def hand_out(session: Session) -> list[QueueItem]:
        return queue.unlabelled(session, domain_of(session), limit=limit, strategy=strategy, labeler_id=labeler)

    return work(hand_out) if labeler is not None else work.read(hand_out)


def ids_of(items: list[QueueItem]) -> list[str]:
    return [item.question_id for item in items]


@pytest.fixture
def ids(work: UnitOfWork) -> list[str]:
    return make_labelled_texts(work, {"甲": 4, "乙": 1})


def test_the_most_suspect_comes_first_and_nothing_else_comes(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, *ids[1:4])

    assert ids_of(take(work, None)) == ids[1:4]
    assert ids_of(take(work, "bo", 2)) == ids[1:3]
    assert ids_of(take(work, "cy")) == ids[3:4]
    assert ids_of(take(work, "bo", strategy="priority")) == []


def test_a_labeler_gets_the_reviews_that_they_hold_first_under_the_same_token(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, *ids[:3])
    held = take(work, "bo", 2)
    again = take(work, "bo", 3)

    assert ids_of(again) == ids[:3]
    assert [item.lease_token for item in again[:2]] == [item.lease_token for item in held]
    assert take(work, "cy") == []


def test_an_item_shows_the_label_the_doubt_and_the_evidence(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 3, "乙": 1})
    near = [sqlite_work.read(text_of, question_id) for question_id in (ids[3], ids[1])]
    doubt(sqlite_work, ids[0], neighbour_ids=(*(text.id for text in near), 10_000))
    [item] = take(sqlite_work, None)

    assert item.strategy == "review"
    assert item.review is not None
    assert (item.review.label, item.review.suspicion) == ("甲", 0.9)
    assert (item.review.answer, item.review.confidence, item.review.model_version) == ("乙", 0.8, "default-v1")
    assert [(one.question, one.label) for one in item.review.neighbours] == [
        (near[0].text, "乙"), (near[1].text, "甲"),
    ]  # fmt: skip
    assert item.reason == (
        "labelled 甲; a model that had not seen it says 乙 (0.80), and so do 1 of its 2 nearest labelled questions"
    )


def test_a_neighbour_shows_the_label_that_it_has_now(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 3, "乙": 1})
    doubt(sqlite_work, ids[0], neighbour_ids=(sqlite_work.read(text_of, ids[1]).id,))
    label(sqlite_work, ids[1], "乙")
    [item] = take(sqlite_work, None)

    assert item.review is not None
    assert [one.label for one in item.review.neighbours] == ["乙"]


def test_the_lease_is_the_right_to_replace_anothers_label(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, *ids[:2])
    use(work)
    before = work.read(text_of, ids[0]).annotation_id
    [item] = take(work, "bo", 1)

    with pytest.raises(AlreadyLabelled):
        label(work, ids[1], "乙", by="bo")
    submitted = label(work, ids[0], "乙", by="bo", lease_token=item.lease_token)

    assert submitted.supersedes == before
    text = work.read(text_of, ids[0])
    assert (text.annotation_id, text.training_status, text.suspicion) == (submitted.annotation_id, "pending", None)
    assert column(work, Lease.text_id) == []
    assert take(work, "cy", 1)[0].question_id == ids[1]
    check_counts(work)


def test_the_same_label_confirms_it_in_a_row_of_its_own(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    use(work)
    take(work, "bo")
    submitted = label(work, ids[0], "甲", by="bo")

    text = work.read(text_of, ids[0])
    assert (text.training_status, text.suspicion) == ("used", None)
    assert text.confirmed_annotation_id == text.annotation_id == submitted.annotation_id
    assert [row for row in column(work, Annotation.labeler_id) if row == "bo"] == ["bo"]
    assert take(work, "cy") == []
    check_counts(work)


def test_a_confirmation_keeps_the_time_that_was_meant(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    label(sqlite_work, ids[0], "甲", time_intent={"type": "this_year"})
    doubt(sqlite_work, ids[0])
    take(sqlite_work, "bo")
    label(sqlite_work, ids[0], "甲", by="bo")

    assert column(sqlite_work, Annotation.time_intent)[-1] == {"type": "this_year"}


def test_while_one_reviews_a_label_no_other_changes_it(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    take(work, "bo")
    standing = work.read(text_of, ids[0]).annotation_id

    with pytest.raises(Leased):
        label(work, ids[0], "乙", by="ana")
    with pytest.raises(Leased):
        label(work, ids[0], "乙", by="cy", supersedes=standing)
    with pytest.raises(LeaseLost):
        label(work, ids[0], "乙", by="bo", lease_token="another")
    assert work.read(text_of, ids[0]).annotation_id == standing


def test_a_reviewer_who_is_late_changes_nothing(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    [late] = take(work, "bo")
    expire_leases(work)
    with pytest.raises(AlreadyLabelled):
        label(work, ids[0], "乙", by="bo")
    take(work, "cy")
    with pytest.raises(Leased):
        label(work, ids[0], "乙", by="bo", lease_token=late.lease_token)

    label(work, ids[0], "甲", by="cy")
    with pytest.raises(AlreadyLabelled):
        label(work, ids[0], "乙", by="bo", lease_token=late.lease_token)
    assert work.read(text_of, ids[0]).label_id == work.read(text_of, ids[1]).label_id


def test_a_skip_hides_the_review_from_that_labeler_and_clears_nothing(work: UnitOfWork, ids: list[str]) -> None:
    doubt(work, ids[0])
    for labeler in ("bo", "cy"):
        take(work, labeler)
        work(annotations.skip, ids[0], labeler_id=labeler)
        assert take(work, labeler) == []

    text = work.read(text_of, ids[0])
    assert (text.state, text.suspicion) == ("labelled", 0.9)
    assert ids_of(take(work, None)) == ids[:1]
    work(undoing.undo, ids[0], labeler_id="bo")
    assert ids_of(take(work, "bo")) == ids[:1]
    check_counts(work)


def test_who_does_not_hold_the_review_cannot_skip_it(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    doubt(sqlite_work, ids[0])
    with pytest.raises(AlreadyLabelled):
        sqlite_work(annotations.skip, ids[0], labeler_id="bo")


def test_a_review_that_is_handed_back_is_free_at_once(sqlite_work: UnitOfWork) -> None:
    ids = make_labelled_texts(sqlite_work, {"甲": 2, "乙": 1})
    doubt(sqlite_work, ids[0])
    take(sqlite_work, "bo")
    sqlite_work(annotations.release, ids[0], labeler_id="bo")

    assert ids_of(take(sqlite_work, "cy")) == ids[:1]


def test_a_review_leaves_the_accuracy_of_the_random_slice_to_what_was_judged(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 1, "乙": 1})
    ids = ask(sqlite_work, *[gold_text("甲") for _ in range(3)])

    def draw(session: Session) -> None:
        for text in session.query(Text).where(Text.state == "unlabelled"):
            text.is_gold, text.strategy, text.priority = True, "gold", 0.5
            text.intents, text.scored_by = ["甲"], "v1"

    def rescore(session: Session) -> None:
        for text in session.query(Text):
            text.scored_by = "v2"

    sqlite_work(draw)
    for question_id, given in zip(ids, ("甲", "乙", "乙"), strict=True):
        label(sqlite_work, question_id, given)
    sqlite_work(rescore)
    assert judged(sqlite_work) == ({"v1": 3}, {"v1": 1})

    doubt(sqlite_work, *ids)
    take(sqlite_work, "bo")
    label(sqlite_work, ids[0], "乙", by="bo")  # the version had said 甲, and this was right, it seemed
    label(sqlite_work, ids[1], "乙", by="bo")
    label(sqlite_work, ids[2], "甲", by="bo")  # what the version had said was not kept
    assert judged(sqlite_work) == ({"v1": 2}, {})
    check_counts(sqlite_work)


def judged(work: UnitOfWork) -> tuple[dict[str, int], dict[str, int]]:
    totals = work.read(counters.totals, domain_id(work))
    return tuple(
        {key: value for key, value in totals.get(name, {}).items() if value}
        for name in (counting.JUDGED, counting.AGREED)
    )  # type: ignore[return-value]


def test_twelve_labelers_at_once_get_different_reviews(work: UnitOfWork) -> None:
    ids = make_labelled_texts(work, {"甲": 24, "乙": 1})
    doubt(work, *ids[:24])
    taken = in_threads(12, lambda number: ids_of(take(work, f"labeler-{number}", 2)))

    found = [question_id for each in taken for question_id in each]
    assert len(found) == len(set(found))
    assert set(found) <= set(ids[:24])
    assert set(column(work, Text.state)) == {"labelled"}
