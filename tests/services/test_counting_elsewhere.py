"""What other services do to texts and questions is counted too: forgetting, importing, mining, choosing."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.intent.text import MaskedText
from app.services import forgetting, imports
from tests.builders import ask, domain_id, gold_text, label, make_labelled_texts, set_taxonomy, trainable_text
from tests.services.test_counters import ANSWERED, anew, kept

LEVELS = ("text", "queued", "labelled", "text_label", "trainable")


def levels(counted: dict) -> dict:
    return {key: value for key, value in counted.items() if key[1] in LEVELS}


@pytest.mark.parametrize("labelled", [False, True])
def testlevels_follow_what_is_forgotten(work: UnitOfWork, labelled: bool) -> None:
    set_taxonomy(work, ["甲", "乙"])
    shared, own, gold = trainable_text("甲"), trainable_text("乙"), gold_text("甲")
    ids = ask(work, shared, own, gold, user_hash="a" * 64, **ANSWERED)
    ask(work, shared, shared, trainable_text("乙"), **ANSWERED)
    if labelled:
        for question_id in ids:
            label(work, question_id, "甲")

    def forget(session: Session) -> forgetting.Forgotten:
        return forgetting.forget_slice(session, forgetting.of_user("a" * 64, domain_id(work)))

    assert work(forget).questions == 3
    assert levels(kept(work)) == levels(anew(work))

    def forget_all(session: Session) -> forgetting.Forgotten:
        line = datetime(2100, 1, 1, tzinfo=UTC)
        return forgetting.forget_slice(session, forgetting.asked_before(domain_id(work), line))

    assert work(forget_all).questions == 3
    assert levels(kept(work)) == levels(anew(work))


def testlevels_follow_what_is_imported_and_then_forgotten(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2}, gold=1)
    rows = [imports.ImportRow(n, MaskedText(trainable_text("甲")), "甲") for n in range(5)]
    rows += [imports.ImportRow(9, MaskedText(gold_text("甲")), "甲"), rows[0]]
    for _ in range(2):
        work(imports.take_in, "default", rows)
        assert kept(work) == anew(work)
