"""The mining job on real rows: what it finds, what it never reads, and that it is one at a time for each domain."""

import threading

import pytest
from sqlalchemy import select, update

from app.db.session import UnitOfWork, connect, database_lock
from app.db.tables import Domain, KeywordRule
from app.errors import ExtractionRunning
from app.main import opening_rule
from app.services import domains, rules
from app.services.audit import Actor
from app.settings import Settings
from jobs.context import JobContext
from jobs.mine_keywords import mine_domain, mine_keywords, retire_failing
from jobs.timetable import TIMETABLE
from tests.builders import ask, domain_id, domain_of, gold_text, label, make_labelled_texts, set_taxonomy


def context_on(url: str, folder) -> JobContext:
    settings = Settings(_env_file=None, data_dir=folder)
    return JobContext(settings, UnitOfWork(connect(url)), opening_rule(settings))


@pytest.fixture
def context(database_url, tmp_path):
    made = context_on(database_url, tmp_path)
    yield made
    made.work.engine.dispose()


@pytest.fixture
def lite(sqlite_url, tmp_path):
    made = context_on(sqlite_url, tmp_path)
    yield made
    made.work.engine.dispose()


def words(work: UnitOfWork, **wanted) -> dict[str, str]:
    """Keyword → status."""
    rows = work.read(lambda s: rules.listing(s, domain_of(s).id, limit=500, **wanted))
    return {row.keyword: row.status for row in rows}


def test_the_job_mines_every_domain_and_adds_up(context):
    context.work(domains.create, "other")
    context.work(domains.create, "hashes", keep_text=False)
    make_labelled_texts(context.work, {"退款": 40, "换货": 40})
    make_labelled_texts(context.work, {"天气": 10, "股票": 10}, domain="other")
    found = mine_keywords(context)
    assert found["new"] == found["mined"] >= 4
    assert "rule_ids" not in found
    assert words(context.work)["退款"] == "active"
    assert context.work.read(lambda s: domain_of(s).epoch) == 1
    assert mine_keywords(context)["new"] == 0


def test_what_only_gold_says_is_never_mined(lite):
    make_labelled_texts(lite.work, {"退款": 40, "换货": 40})
    secret = "鹦鹉螺"
    for _ in range(20):
        label(lite.work, ask(lite.work, f"{gold_text('换货')}")[0], "换货")
    planted = [f"{secret}{number}号" for number in range(40)]
    for question in ask(lite.work, *planted):
        label(lite.work, question, "退款")
    # Whatever the hash said: they are all held out.
    from app.db.tables import Text

    lite.work(lambda s: s.execute(update(Text).where(Text.text.like(f"{secret}%")).values(is_gold=True)))
    mine_domain(lite, "default")
    assert "退款" in words(lite.work)
    assert not [word for word in words(lite.work) if secret[0] in word]


def test_one_label_alone_gives_no_rule(lite):
    make_labelled_texts(lite.work, {"退款": 20})
    assert mine_domain(lite, "default")["mined"] == 0


def test_an_empty_domain_gives_no_rule(lite):
    assert mine_domain(lite, "default")["mined"] == 0


def test_mining_asks_for_so_much_precision_and_keeps_so_many(lite):
    make_labelled_texts(lite.work, {"退款": 20, "换货": 20, "天气": 20})
    assert mine_domain(lite, "default", limit=2)["new"] == 2


def test_the_job_retires_what_fails(context):
    make_labelled_texts(context.work, {"退款": 40, "换货": 40})
    mine_domain(context, "default")
    fail = update(KeywordRule).where(KeywordRule.keyword == "退款").values(judged_count=20, success_count=2)
    context.work(lambda session: session.execute(fail))
    assert len(retire_failing(context)) == 1
    assert words(context.work)["退款"] == "retired"
    # Found again, and left where it is.
    mine_domain(context, "default")
    assert words(context.work)["退款"] == "retired"
    assert retire_failing(context) == []


def test_one_process_at_a_time_mines_a_domain(context, database_url):
    if context.work.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no lock that outlives a transaction: the service keeps its own order")
    make_labelled_texts(context.work, {"退款": 5, "换货": 5})
    other = connect(database_url)
    with database_lock(other, f"intentloop-mine-{domain_id(context.work)}"), pytest.raises(ExtractionRunning):
        mine_domain(context, "default", patience_seconds=0.0)
    other.dispose()
    mine_domain(context, "default", patience_seconds=0.0)


def test_the_clock_signs_as_the_clock_and_a_person_by_name(lite):
    from app.db.tables import AuditEvent

    make_labelled_texts(lite.work, {"退款": 40, "换货": 40})
    mine_domain(lite, "default", limit=1)
    mine_domain(lite, "default", by=Actor("ana"))
    made_by = lite.work.read(lambda s: list(s.scalars(select(KeywordRule.created_by).order_by(KeywordRule.id))))
    assert made_by[0] == "clock"
    assert set(made_by[1:]) == {"ana"}
    assert lite.work.read(lambda s: list(s.scalars(select(AuditEvent.action)))) == ["rules.mine"]


def test_a_clock_that_stops_leaves_the_rest(lite):
    make_labelled_texts(lite.work, {"退款": 40, "换货": 40})
    stopped = threading.Event()
    stopped.set()
    context = JobContext(lite.settings, lite.work, lite.rule, stopping=stopped)
    assert mine_keywords(context) == {}


def test_the_job_is_on_the_timetable():
    assert TIMETABLE["mine_keywords"].cron(Settings(_env_file=None)) == "0 3 * * *"


def test_a_domain_of_people_waits_for_them(lite):
    set_taxonomy(lite.work, ["退款", "换货"])
    lite.work(lambda s: s.execute(update(Domain).values(rule_policy="manual")))
    make_labelled_texts(lite.work, {"退款": 40, "换货": 40})
    mine_domain(lite, "default")
    assert set(words(lite.work).values()) == {"candidate"}
