"""What leaves a domain: every labelled text that may, once, in an order that only the texts decide."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import Text
from app.errors import DomainNotFound
from app.intent.text import MaskedText, text_hash
from app.services import annotations, domains, exports, imports, taxonomy
from app.services.exports import LabelledText
from tests.builders import ask, domain_id, gold_text, make_labelled_texts, set_taxonomy, trainable_text
from tests.services.test_imports import _take_in


def _all(work: UnitOfWork, *, limit: int = 1000, **wanted: object) -> list[LabelledText]:
    export = work.read(exports.begin, "default", **wanted)
    texts: list[LabelledText] = []
    after: str | None = ""
    while after is not None:
        page, after = work.read(exports.page, export, after, limit=limit)
        texts += page
    assert work.read(exports.summary, export).count == len(texts)
    return texts


def test_every_labelled_text_comes_once_in_the_order_of_its_hash(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 7, "乙": 6}, gold=2)
    ask(work, trainable_text("甲"))
    whole = _all(work)
    assert len(whole) == 17
    assert [text_hash(MaskedText(row.text)) for row in whole] == sorted(
        text_hash(MaskedText(row.text)) for row in whole
    )
    for limit in (1, 4, 17):
        assert _all(work, limit=limit) == whole
    assert {row.text[0] for row in whole if row.label == "甲"} == {"甲"}


def test_the_order_does_not_depend_on_the_order_of_coming(sqlite_work: UnitOfWork) -> None:
    pairs = [(trainable_text("甲"), "甲") for _ in range(9)]
    _take_in(sqlite_work, *pairs, create_labels=True)
    first = _all(sqlite_work)
    sqlite_work(domains.create, "other")
    sqlite_work(imports.take_in, "other", [imports.ImportRow(1, MaskedText(t), p) for t, p in reversed(pairs)],
                create_labels=True)  # fmt: skip
    export = sqlite_work.read(exports.begin, "other")
    assert sqlite_work.read(exports.page, export)[0] == first


def test_gold_and_the_rest_are_told_apart(work: UnitOfWork) -> None:
    _take_in(
        work, *[(gold_text("甲"), "甲"), (trainable_text("甲"), "甲"), (trainable_text("甲"), "甲")], create_labels=True
    )
    gold, train = _all(work, split="gold"), _all(work, split="train")
    assert (len(gold), len(train)) == (1, 2)
    assert sorted([*gold, *train], key=lambda row: text_hash(MaskedText(row.text))) == _all(work)


def test_only_what_was_labelled_since(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 3})
    past = datetime.now(UTC) - timedelta(days=2)

    def age(session: Session) -> None:
        session.execute(update(Text).where(Text.text.like("%")).values(labelled_at=past))

    work(age)
    make_labelled_texts(work, {"甲": 2})
    assert len(_all(work, since=past + timedelta(days=1))) == 2
    assert len(_all(work, since=past)) == 5


def test_what_must_not_leave_is_left_out_and_counted(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    (kept,) = ask(work, trainable_text("甲"))
    (forbidden,) = ask(work, trainable_text("甲"), train_allowed=False)
    (hidden,) = ask(work, trainable_text("甲"))
    (retired,) = ask(work, trainable_text("乙"))
    for question, label in ((kept, "甲"), (forbidden, "甲"), (hidden, "甲"), (retired, "乙")):
        work(annotations.submit, question, correct_intent=[label], labeler_id="ana")

    def hide(session: Session) -> None:
        session.execute(update(Text).where(Text.question_id == hidden).values(text=None))

    work(hide)
    set_taxonomy(work, ["甲"])
    (row,) = _all(work)
    assert row.label == "甲"
    export = work.read(exports.begin, "default")
    assert work.read(exports.summary, export).left_out == {"not_allowed": 1, "hash_only": 1, "label_retired": 1}


def test_a_proposal_and_the_number_of_twins_come_along(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    text = trainable_text("甲")
    question, _ = ask(work, text, text)
    work(annotations.submit, question, correct_intent=[], proposed_label="丙 > 丁", labeler_id="ana")
    assert _all(work) == [LabelledText(text, taxonomy.OTHER, 2, "丙 > 丁")]


def test_an_export_keeps_to_its_domain(sqlite_work: UnitOfWork) -> None:
    make_labelled_texts(sqlite_work, {"甲": 2})
    sqlite_work(domains.create, "other")
    make_labelled_texts(sqlite_work, {"甲": 3}, domain="other")
    assert len(_all(sqlite_work)) == 2
    assert sqlite_work.read(exports.summary, sqlite_work.read(exports.begin, "default")).left_out == {}
    assert domain_id(sqlite_work, "other") != domain_id(sqlite_work)
    with pytest.raises(DomainNotFound):
        sqlite_work.read(exports.begin, "none")
