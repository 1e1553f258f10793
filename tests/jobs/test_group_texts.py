"""The clock groups what is new before it selects and before it opens a batch."""

import pytest
from sqlalchemy import func, select

from app.db.session import UnitOfWork, connect
from app.db.tables import BatchItem, Text
from app.main import opening_rule
from app.settings import Settings
from jobs import group_texts
from jobs.context import JobContext
from jobs.select_questions import select_questions
from jobs.train_model import train_model
from tests.builders import ask, column, domain_of, label, make_labelled_texts
from tests.services.near import ask_one_by_one, groups, near_texts


@pytest.fixture
def context(database_url, tmp_path):
    settings = Settings(data_dir=tmp_path, batch_labels=10)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    made = JobContext(settings, UnitOfWork(connect(database_url)), opening_rule(settings))
    yield made
    made.work.engine.dispose()


def test_a_selection_groups_what_is_new_and_asks_one_of_each_group_first(context, monkeypatch):
    monkeypatch.setattr(group_texts, "PAGE", 2)
    ask_one_by_one(context.work, near_texts(5))
    ask(context.work, "开灯", "关灯")
    select_questions(context)
    assert sorted(map(len, groups(context.work))) == [1, 1, 5]
    assert column(context.work, Text.strategy).count("twin") == 4
    assert set(column(context.work, Text.is_grouped)) == {True}


def test_no_batch_opens_with_a_new_text_that_is_near_gold(context):
    make_labelled_texts(context.work, {"a": 8, "b": 8})
    for words in (*near_texts(1, gold=True), *near_texts(1)):
        label(context.work, ask(context.work, words)[0], "a")
    assert train_model(context) == {"opened": ["default-b1"]}
    roles = select(BatchItem.role, func.count()).group_by(BatchItem.role)
    assert dict(context.work.read(lambda session: session.execute(roles).all())) == {"new": 16, "gold": 2}


def test_what_a_stop_leaves_is_grouped_the_next_time(context):
    ask_one_by_one(context.work, near_texts(3))
    domain = context.work.read(domain_of)
    context.stopping.set()
    assert group_texts.group_texts(context, domain) == 0
    assert set(column(context.work, Text.is_grouped)) == {False}
    context.stopping.clear()
    assert group_texts.group_texts(context, domain) == 2
