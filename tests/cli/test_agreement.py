"""`intentloop agreement` says how far people agree."""

from app.db.session import UnitOfWork, connect
from app.services import domains
from tests.builders import ask, label, set_taxonomy, trainable_text


def test_agreement_is_told_for_people_and_for_programs(migrated, empty_folder):
    engine = connect(f"sqlite:///{empty_folder / 'data' / 'intentloop.db'}")
    work = UnitOfWork(engine)
    set_taxonomy(work, ["甲", "乙"])
    work(domains.change, "default", {"overlap": 2})
    for number, question_id in enumerate(ask(work, *[trainable_text("甲") for _ in range(4)])):
        label(work, question_id, ["甲", "乙"][number % 2], by="ana")
        label(work, question_id, ["甲", "乙", "甲", "甲"][number], by="bo")
    engine.dispose()

    told = migrated("agreement", "--json").json
    assert (told["domain"], told["texts"], told["answers"], told["share"]) == ("default", 4, 8, 0.75)
    shown = migrated("agreement")
    assert shown.status == 0
    for words in (f"α {told['alpha']:.3f}", "8 answers about 4 texts", "ana", "bo", "甲"):
        assert words in shown.out


def test_without_blind_answers_it_says_so(migrated):
    assert "α –" in migrated("agreement").out
    assert migrated("agreement", "--domain", "nowhere").status == 1
