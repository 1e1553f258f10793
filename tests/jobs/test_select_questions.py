"""The clock puts a mix of questions on top of each domain's queue, with reasons that a person can read."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Domain, ModelVersion, Text
from app.services import activations, annotations, counters, counting, domains, mix_selection, queue, rule_sets
from app.services.activations import Pairing
from jobs import selection_pool
from jobs.context import JobContext
from jobs.select_questions import select_questions
from tests.builders import ask, column, domain_of, set_taxonomy
from tests.jobs.test_jobs import World, context_on
from tests.jobs.test_rule_proving import add_rule
from tests.journeys.worlds import LABELS, PARCEL, PASSWORD, POWER, label_texts, texts_of, told_version, truth

SIZE = 20


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Any) -> Any:
    made = context_on(sqlite_url, tmp_path, selection_size=SIZE)
    yield made
    made.work.engine.dispose()


def _serve(context: JobContext, tmp_path: Any) -> str:
    version = told_version(World(context), tmp_path / "specs", shift=0)
    context.work(activations.activate, version, by="ana", reason="")
    return version


def _waiting(context: JobContext, each: int = 15) -> None:
    ask(context.work, *[text for label in LABELS for text in texts_of(label, each, gold=False, seed=5)])


def _selected(context: JobContext) -> list[Text]:
    return context.work.read(
        lambda session: session.scalars(
            select(Text).where(Text.priority > 1.0, Text.is_gold.is_(False)).order_by(Text.priority.desc())
        ).all()
    )


def test_a_selection_follows_the_mix_and_each_text_says_why(lite: JobContext, tmp_path: Any) -> None:
    label_texts(World(lite), 4, seed=9)
    version = _serve(lite, tmp_path)
    lite.work(domains.change, "default", {"selection_mix": {"margin": 0.5, "far": 0.3, "random": 0.2}})
    _waiting(lite)

    assert select_questions(lite)["selected"] == SIZE

    texts = _selected(lite)
    waiting = column(lite.work, Text.state).count("unlabelled")
    assert Counter(text.strategy for text in texts) == {"margin": 10, "far": 6, "random": 4}
    assert {text.scored_by for text in texts} == {version}
    for text in texts:
        wanted = {"margin": "unsure between", "far": "far from every labelled question", "random": "drawn at random"}
        assert text.reason is not None
        assert text.reason.startswith(wanted[text.strategy or ""])
        assert text.sampling_probability == (pytest.approx(4 / waiting) if text.strategy == "random" else 1.0)
    # What a labeler gets first is what was selected.
    items = lite.work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=SIZE))
    assert {item.question_id for item in items} == {text.question_id for text in texts}


def test_without_a_model_the_first_questions_are_typical_ones_of_all_that_is_asked(lite: JobContext) -> None:
    set_taxonomy(lite.work, LABELS)
    ask(
        lite.work,
        *texts_of(POWER, 60, gold=False),
        *texts_of(PASSWORD, 8, gold=False),
        *texts_of(PARCEL, 8, gold=False),
    )

    assert select_questions(lite) == {"scored": 0, "selected": SIZE, "gold_drawn": 0, "not_scored": []}

    texts = _selected(lite)
    assert {text.strategy for text in texts} == {"typical"}
    assert {text.sampling_probability for text in texts} == {1.0}
    # The others stay a random draw, below.
    others = [row for row in column(lite.work, Text.priority, Text.strategy) if row[1] != "typical"]
    assert all(priority <= 1.0 and strategy == "random" for priority, strategy in others)


def test_without_anything_new_a_run_neither_loads_nor_chooses(
    lite: JobContext, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(lite, tmp_path)
    lite.work(domains.create, "empty")
    lite.work(domains.create, "untaught")
    _waiting(lite)
    ask(lite.work, *texts_of(POWER, 40, gold=False), domain="untaught")
    assert select_questions(lite)["selected"] == 2 * SIZE

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("jobs.select_questions.load_scorer", never)
    monkeypatch.setattr("jobs.select_questions.gather", never)
    assert select_questions(lite) == {"scored": 0, "selected": 0, "gold_drawn": 0, "not_scored": []}


def test_another_version_chooses_anew(lite: JobContext, tmp_path: Any) -> None:
    _serve(lite, tmp_path)
    _waiting(lite)
    select_questions(lite)
    other = told_version(World(lite), tmp_path / "specs", shift=1)
    lite.work(activations.activate, other, by="ana", reason="")

    assert select_questions(lite)["selected"] == SIZE

    found = lite.work.read(domain_of).last_selection
    assert found is not None
    assert (found["version"], found["count"], sum(found["by_strategy"].values())) == (other, SIZE, SIZE)
    assert len(_selected(lite)) == SIZE


def test_rules_that_contradict_a_sure_answer_make_it_suspect(lite: JobContext, tmp_path: Any) -> None:
    _serve(lite, tmp_path)
    lite.work(domains.change, "default", {"selection_mix": {"suspect": 1.0}})
    _waiting(lite)
    # A rule that is wrong about every text with this word.
    add_rule(lite.work, "手机", PARCEL)
    lite.work(_serve_rules)
    select_questions(lite)
    texts = [text for text in _selected(lite) if text.strategy == "suspect"]
    assert texts
    for text in texts:
        assert "手机" in (text.text or "")
        assert text.reason is not None
        assert text.reason.startswith("the rules say something else than the model")


def _serve_rules(session: Session) -> None:
    """Serve the active rules with the version that serves, as if they had been proved."""
    domain = domains.locked(session, "default")
    frozen = rule_sets.freeze(session, domain, rule_sets.active_rules(session, domain.id))
    version = session.get(ModelVersion, domain.active_version_id)
    activations.flip(session, domain, version, Pairing(0.1, frozen.revision), by="ana", reason="", kind="rules")


def test_a_flip_while_it_is_chosen_leaves_the_queue_as_it_was(
    lite: JobContext, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _serve(lite, tmp_path)
    other = told_version(World(lite), tmp_path / "specs", shift=1)
    _waiting(lite)
    choose = mix_selection.place

    def flipped_before(session: Session, domain: Domain, *rest: Any, **more: Any) -> int | None:
        activations.activate(session, other, by="ana", reason="")
        return choose(session, domain, *rest, **more)

    monkeypatch.setattr(mix_selection, "place", flipped_before)
    assert select_questions(lite)["selected"] == 0
    assert _selected(lite) == []
    monkeypatch.setattr(mix_selection, "place", choose)
    assert select_questions(lite)["selected"] == SIZE
    assert {text.scored_by for text in _selected(lite)} == {other} != {first}


def test_what_was_labelled_while_it_was_chosen_is_passed_over(
    lite: JobContext, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(lite, tmp_path)
    _waiting(lite, 5)
    choose = mix_selection.place
    answered = column(lite.work, Text.question_id)[:6]

    def answered_before(session: Session, *rest: Any, **more: Any) -> int | None:
        for question_id in answered:
            annotations.submit(session, question_id, correct_intent=[POWER], labeler_id="ana")
        return choose(session, *rest, **more)

    monkeypatch.setattr(mix_selection, "place", answered_before)
    assert select_questions(lite)["selected"] == 9
    assert all(text.state == "unlabelled" for text in _selected(lite))


def test_a_large_model_is_shown_fewer_candidates(
    lite: JobContext, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(lite, tmp_path)
    _waiting(lite)
    seen: list[int] = []
    gather = selection_pool.gather

    def counted(*given: Any) -> Any:
        found = gather(*given)
        assert found is not None
        seen.append(found.pool.size)
        assert found.pool.embeddings.shape == (found.pool.size, 256)
        np.testing.assert_allclose(found.pool.probabilities.sum(axis=1), 1.0)
        return found

    monkeypatch.setattr("jobs.select_questions.gather", counted)
    monkeypatch.setattr(selection_pool, "MOST_NUMBERS", 25 * (256 + 2 * 3))
    monkeypatch.setattr(selection_pool, "PAGE", 7)
    assert select_questions(lite)["selected"] == SIZE
    assert seen == [25]


def test_a_clock_that_is_stopped_leaves_the_selection_for_the_next_one(lite: JobContext, tmp_path: Any) -> None:
    _serve(lite, tmp_path)
    _waiting(lite)
    lite.stopping.set()
    assert select_questions(lite)["selected"] == 0
    assert _selected(lite) == []
    assert lite.work.read(domain_of).last_selection is None


def test_gold_lies_among_what_was_selected(lite: JobContext, tmp_path: Any) -> None:
    _serve(lite, tmp_path)
    _waiting(lite)
    ask(lite.work, *texts_of(POWER, 10, gold=True))
    assert select_questions(lite) == {"scored": 48, "selected": 17, "gold_drawn": 3, "not_scored": []}
    gold = [priority for priority, is_gold in column(lite.work, Text.priority, Text.is_gold) if is_gold and priority]
    assert len(gold) == 3
    assert min(gold) > 1.0


def test_the_accuracy_of_what_serves_stays_unbiased_however_choosy_the_mix(lite: JobContext, tmp_path: Any) -> None:
    """People answer what the mix looks for, its errors; only gold, drawn uniformly, says how good the version is."""
    label_texts(World(lite), 6, seed=9)
    _serve(lite, tmp_path)
    lite.work(domains.change, "default", {"selection_mix": {"far": 0.5, "margin": 0.5}})
    pool = [text for label in LABELS for text in texts_of(label, 150, seed=5)]
    # What the version cannot know: of what is unlike its own texts, people say something else.
    odd = [f"这个{tail}要怎么处理才好呢{number}" for number, tail in enumerate("甲乙丙丁戊己庚辛壬癸" * 15)]
    ask(lite.work, *pool, *odd)
    answered = 0
    while answered < 200:
        select_questions(lite)
        for item in lite.work.read(lambda session: queue.unlabelled(session, domain_of(session), limit=SIZE)):
            wanted = truth(item.question) if item.question in pool else _other_than(item.intents)
            lite.work(annotations.submit, item.question_id, correct_intent=[wanted], labeler_id="ana")
            answered += 1

    figures = lite.work.read(counters.totals, 1)
    judged, right = (sum(figures.get(name, {}).values()) for name in (counting.JUDGED, counting.AGREED))
    rows = column(lite.work, Text.is_gold, Text.state, Text.strategy, Text.text)
    drawn = [row for row in rows if row[0] and row[1] == "labelled" and row[2] == "gold"]
    assert judged == len(drawn) > 20
    # The truth of what was asked: all of the pool's texts that are not odd are answered right.
    share = len(pool) / (len(pool) + len(odd))
    chosen = [row for row in rows if not row[0] and row[1] == "labelled" and row[2] in ("far", "margin")]
    assert binomtest(right, judged, share).pvalue > 1e-4
    assert sum(row[3] in pool for row in chosen) / len(chosen) < share - 0.2


def _other_than(intents: list[str]) -> str:
    return next(label for label in LABELS if label not in intents)
