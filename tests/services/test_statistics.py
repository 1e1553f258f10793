"""The figures of a domain, each against a small world that was counted by hand."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import KeywordRule, Text, UserQuestion
from app.services import (
    activations,
    annotations,
    batches,
    domains,
    imports,
    intake,
    queue,
    runs,
    selection,
    statistics,
    taxonomy,
    worth,
)
from app.services.batches import OpeningRule
from tests.builders import (
    ask,
    asked,
    batch_of,
    column,
    domain_id,
    domain_of,
    gold_text,
    label,
    make_labelled_texts,
    make_version,
    set_taxonomy,
    trainable_text,
)

RULE = OpeningRule(labels=4, share=0.1, small_labels=0)


ONE_DAY = timedelta(days=1)
TODAY = datetime.now(UTC).date()
NOW = datetime.now(UTC)
EMPTY_DAY = {
    "questions": 0,
    "above_threshold": 0,
    "to_person": 0,
    "llm_calls": 0,
    "labels": 0,
    "judged": 0,
    "right": 0,
    "answers": 0,
    "p50_ms": None,
    "p99_ms": None,
}


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _figures(work: UnitOfWork, domain: str = "default", **options: Any) -> dict[str, Any]:
    return work.read(lambda session: statistics.of_domain(session, domain_of(session, domain), RULE, **options))


def _some(figures: dict[str, object], *names: str) -> dict[str, object]:
    return {name: figures[name] for name in names}


def test_an_empty_domain_has_figures(work: UnitOfWork) -> None:
    assert _figures(work, days=2) == {
        "domain": "default",
        "questions": 0,
        "labelled": 0,
        "by_method": {},
        "texts": 0,
        "texts_labelled": 0,
        "texts_skipped": 0,
        "texts_discarded": 0,
        "texts_disputed": 0,
        "texts_flagged": 0,
        "suspects": 0,
        "gold_labelled": 0,
        "gold_candidates": 0,
        "label_rate": 0.0,
        "queue": 0,
        "by_label": {},
        "active_version": None,
        "epoch": 0,
        "versions": [],
        "batches": {},
        "next_batch": {"labels_new": 0, "labels_missing": 4, "due": False, "reason": "0 of 4 new labels are in"},
        "clock_running": False,
        "answers": {
            "served": 0,
            "external": 0,
            "above_threshold": 0,
            "above_threshold_share": None,
            "to_person": 0,
            "to_person_share": None,
            "llm_calls": 0,
            "llm_call_rate": None,
            "outside_taxonomy": 0,
        },
        "by_answer": {},
        "live_accuracy": {
            "overall": {"judged": 0, "right": 0, "accuracy": None, "low": 0.0, "high": 1.0},
            "active_version": None,
        },
        "selection": {"selected_at": None, "version": None, "selected": {}, "labelled": {}},
        "rules": {"by_status": {}, "usage": 0, "judged": 0, "success": 0, "success_rate": None},
        "training": {"finished": 0, "success_rate": None, "by_outcome": {}, "median_seconds": None},
        "worth": worth.of_versions([]),
        "latency": {"days": 2, "answers": 0, "p50_ms": None, "p99_ms": None},
        "by_day": [EMPTY_DAY | {"start": TODAY - timedelta(days=1)}, EMPTY_DAY | {"start": TODAY}],
        "by_week": [EMPTY_DAY | {"start": monday} for monday in sorted({_monday(TODAY - ONE_DAY), _monday(TODAY)})],
    }


def test_each_figure_is_what_was_counted_by_hand(work: UnitOfWork) -> None:
    work(domains.create, "shop")
    set_taxonomy(work, ["甲", "乙"])
    often, once, waiting, dropped = (trainable_text("甲") for _ in range(4))
    gold, other_gold = gold_text("乙"), gold_text("乙")
    ids = ask(work, often, often, often, once, waiting, dropped, gold, method="local_model", topk=[["甲", 0.6]])
    ids += ask(work, other_gold, often)
    ask(work, trainable_text("甲"), domain="shop")
    label(work, ids[0], "甲")
    label(work, ids[3], "乙")
    label(work, ids[6], "乙")
    for labeler in ("ana", "bo"):
        work(annotations.skip, ids[5], labeler_id=labeler)
    row = imports.ImportRow(1, trainable_text("乙"), "乙")  # type: ignore[arg-type]
    work(imports.take_in, "default", [row])
    work(lambda session: queue.unlabelled(session, domain_of(session), limit=1, labeler_id="cy"))

    figures = _figures(work)

    # Asked nine times: 7 answered by a model, 2 by none. `often` 4 times, the others once each; one text imported.
    assert _some(figures, "questions", "labelled", "by_method", "label_rate") == {
        "questions": 9,
        "labelled": 6,
        "by_method": {"local_model": 7, "none": 2},
        "label_rate": 6 / 9,
    }
    assert _some(figures, "texts", "texts_labelled", "texts_skipped", "gold_labelled", "gold_candidates") == {
        "texts": 7,
        "texts_labelled": 4,
        "texts_skipped": 1,
        "gold_labelled": 1,
        "gold_candidates": 1,
    }
    # `waiting` waits, leased or not; gold that was not drawn does not.
    assert figures["queue"] == 1
    assert figures["by_label"] == {"乙": 3, "甲": 1}
    assert list(figures["by_label"]) == ["乙", "甲"]  # type: ignore[call-overload]
    assert figures["next_batch"] == {
        "labels_new": 3,
        "labels_missing": 1,
        "due": False,
        "reason": "3 of 4 new labels are in",
    }
    assert _figures(work, "shop")["questions"] == 1


def test_versions_and_batches_are_told_with_their_quality(sqlite_work: UnitOfWork) -> None:
    proof = {
        "gold": {"count": 60, "macro_f1": {"value": 0.9}, "accuracy": {"value": 0.8}},
        "gate": {"evidence": "weak"},
    }
    first = sqlite_work(make_version, evaluation=proof, train_count=7)
    sqlite_work(make_version, evaluation={}, status="refused", reason="worse")
    sqlite_work(activations.activate, first.version, by="ana", reason="x")
    make_labelled_texts(sqlite_work, {"甲": 2, "乙": 2})
    sqlite_work(batches.open_batch, "default", opened_by="ana")

    figures = _figures(sqlite_work)

    assert _some(figures, "active_version", "epoch", "batches") == {
        "active_version": "default-v1",
        "epoch": 1,
        "batches": {"pending": 1},
    }
    refused, active = figures["versions"]  # type: ignore[misc]
    assert (refused["status"], refused["is_active"], refused["macro_f1"], refused["reason"]) == (
        "refused",
        False,
        None,
        "worse",
    )
    assert _some(active, "version", "is_active", "train_count", "gold_count", "macro_f1", "accuracy", "evidence") == {
        "version": "default-v1",
        "is_active": True,
        "train_count": 7,
        "gold_count": 60,
        "macro_f1": {"value": 0.9},
        "accuracy": {"value": 0.8},
        "evidence": "weak",
    }


def test_figures_say_why_no_batch_has_run(sqlite_work: UnitOfWork) -> None:
    def why() -> tuple[object, object, object, str]:
        answer = _figures(sqlite_work)["next_batch"]
        assert isinstance(answer, dict)
        return answer["labels_new"], answer["labels_missing"], answer["due"], answer["reason"]

    make_labelled_texts(sqlite_work, {"甲": 4})
    assert why() == (4, 0, False, "fewer than two labels have two texts to train on")

    (proposal,) = ask(sqlite_work, trainable_text("甲"))
    label(sqlite_work, proposal, taxonomy.OTHER, proposed_label="丁")
    assert why()[0] == 4

    make_labelled_texts(sqlite_work, {"乙": 2})
    assert why() == (6, 0, True, "6 new labels, 4 are needed")

    batch = sqlite_work(batches.open_due, "default", RULE)
    assert batch is not None
    assert why() == (0, 4, False, "0 of 4 new labels are in")

    make_labelled_texts(sqlite_work, {"甲": 4})
    assert why()[2:] == (False, "a batch of this domain is queued or running")

    claimed = sqlite_work(batches.claim_next, worker="w")
    assert claimed is not None
    sqlite_work(batches.fail, batch.id, claimed.token, error="x")
    assert why()[2] is False
    assert why()[3].startswith(f"batch {batch.batch_id} failed; it is tried again at ")


def test_a_clock_that_reported_lately_is_running(sqlite_work: UnitOfWork) -> None:
    sqlite_work(runs.report_replica, "host:1", role="service", domain_id=1)
    assert _figures(sqlite_work)["clock_running"] is False
    sqlite_work(runs.report_replica, "host:1", role="clock")
    assert _figures(sqlite_work)["clock_running"] is True


def test_a_domain_without_texts_has_no_queue(sqlite_work: UnitOfWork) -> None:
    sqlite_work(domains.create, "secret", keep_text=False)
    assert _figures(sqlite_work, "secret")["queue"] == 0


# What counters bring

ANSWERED: dict[str, Any] = {
    "method": "local_model",
    "intents": ["甲"],
    "topk": [["甲", 0.9], ["乙", 0.1]],
    "confidence": 0.9,
    "model_version": "default-v1",
    "trigger_check": False,
    "latency_ms": 4.0,
    "route_used": ["discriminative"],
}


def test_answers_are_told_by_what_became_of_them(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    ask(work, *[trainable_text("甲")] * 3, **ANSWERED)
    ask(work, trainable_text("乙"), **(ANSWERED | {"trigger_check": True, "route_used": ["discriminative", "llm"]}))
    ask(work, trainable_text("乙"), source="external", intents=["别处的标签"])
    ask(work, trainable_text("乙"), source="external", intents=["乙"])

    figures = _figures(work)

    assert figures["answers"] == {
        "served": 4,
        "external": 2,
        "above_threshold": 3,
        "above_threshold_share": 0.75,
        "to_person": 1,
        "to_person_share": 0.25,
        "llm_calls": 1,
        "llm_call_rate": 0.25,
        "outside_taxonomy": 1,
    }
    assert figures["by_answer"] == {"甲": 4, "乙": 1}


def test_questions_count_from_their_commit_on_not_from_their_folding(work: UnitOfWork) -> None:
    owner = domain_id(work)
    ask(work, trainable_text("甲"), **ANSWERED)
    work(domains.create, "shop")
    shop = domain_id(work, "shop")
    work(intake.record, [asked(trainable_text("甲"), domain_id=id_) for id_ in (owner, owner, shop)])
    assert _some(_figures(work), "questions", "by_method") == {
        "questions": 3,
        "by_method": {"local_model": 1, "none": 2},
    }
    assert _figures(work, "shop")["questions"] == 1


def test_live_accuracy_is_of_the_random_slice_with_its_interval(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    version = sqlite_work(make_version)
    sqlite_work(activations.activate, version.version, by="ana", reason="x")
    ids = ask(sqlite_work, *[gold_text("甲") for _ in range(8)], **ANSWERED)
    ids += ask(sqlite_work, *[gold_text("甲") for _ in range(2)], **(ANSWERED | {"model_version": "default-v0"}))
    rng = np.random.default_rng(1)
    sqlite_work(lambda session: selection.draw_gold(session, domain_of(session), size=100, rng=rng))
    for number, question_id in enumerate(ids):
        label(sqlite_work, question_id, "乙" if number in (0, 1, 9) else "甲")

    found = _figures(sqlite_work)["live_accuracy"]

    assert _some(found["active_version"], "judged", "right", "accuracy") == {"judged": 8, "right": 6, "accuracy": 0.75}
    assert (round(found["active_version"]["low"], 4), round(found["active_version"]["high"], 4)) == (0.4093, 0.9285)
    assert _some(found["overall"], "judged", "right") == {"judged": 10, "right": 7}


def test_days_and_weeks_add_up(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    for days_ago, count in ((0, 1), (3, 2), (9, 4), (40, 8)):
        moment = NOW - timedelta(days=days_ago)
        answer = ANSWERED | {"asked_at": moment, "latency_ms": 2.0 + days_ago}
        ids = ask(work, *[trainable_text("甲") for _ in range(count)], **answer)
    label(work, ids[0], "甲")

    figures = _figures(work, days=14)

    assert [day["start"] for day in figures["by_day"]] == [TODAY - timedelta(days=n) for n in range(13, -1, -1)]
    assert [day["questions"] for day in figures["by_day"]] == [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 2, 0, 0, 1]
    assert sum(week["questions"] for week in figures["by_week"]) == 7
    assert all(week["start"].weekday() == 0 for week in figures["by_week"])
    assert figures["by_day"][-1]["labels"] == 1
    assert figures["latency"] == {
        "days": 14,
        "answers": 7,
        "p50_ms": pytest.approx(11, rel=0.19),
        "p99_ms": pytest.approx(11, rel=0.19),
    }
    assert figures["by_day"][-1]["p50_ms"] == pytest.approx(2.0, rel=0.19)
    assert figures["questions"] == 15


def test_rules_are_told_with_their_use(work: UnitOfWork) -> None:
    owner = domain_id(work)
    set_taxonomy(work, ["甲"])

    def make(session: Session) -> None:
        for number, status in enumerate(["candidate", "retired", "retired"]):
            session.add(
                KeywordRule(
                    domain_id=owner,
                    keyword=f"词{number}",
                    intent="甲",
                    status=status,
                    usage_count=10,
                    judged_count=4,
                    success_count=3,
                )
            )

    work(make)
    assert _figures(work)["rules"] == {
        "by_status": {"candidate": 1, "retired": 2},
        "usage": 30,
        "judged": 12,
        "success": 9,
        "success_rate": 0.75,
    }


def test_training_is_told_by_outcome_and_duration(work: UnitOfWork) -> None:
    make_labelled_texts(work, {"甲": 2, "乙": 2})
    opened = [work(batches.open_batch, "default", opened_by="ana", retrain=True).batch_id]
    claim = None
    for outcome, seconds in (("activated", 10), ("refused", 30), (None, 99)):
        if claim is not None:
            make_labelled_texts(work, {"甲": 2})
            opened.append(work(batches.open_batch, "default", opened_by="ana", retrain=True).batch_id)
        work(batches.run, opened[-1])
        claim = work(batches.claim_next, worker="w")
        assert claim is not None
        _end(work, claim, outcome, seconds)

    assert _figures(work)["training"] == {
        "finished": 3,
        "success_rate": 2 / 3,
        "by_outcome": {"activated": 1, "refused": 1},
        "median_seconds": 20.0,
    }


def _end(work: UnitOfWork, claim: batches.Claimed, outcome: str | None, seconds: int) -> None:
    if outcome is None:
        work(batches.fail, claim.batch.id, claim.token, error="x")
    else:
        version = work(make_version)
        work(batches.complete, claim.batch.id, claim.token, outcome=outcome, version=version)

    def set_times(session: Session) -> None:
        batch = batch_of(session, claim.batch.batch_id)
        batch.started_at, batch.finished_at = NOW, NOW + timedelta(seconds=seconds)

    work(set_times)


# The cost of looking


def _grow(work: UnitOfWork, count: int) -> None:
    """Many questions and texts, as if they had been asked and folded long ago; a tenth is labelled."""
    owner = domain_id(work)
    (label_id,) = work.read(lambda s: [row.id for row in taxonomy.active(s, owner) if row.path == "甲"])
    values: dict[str, Any] = {"domain_id": owner, "count": 1, "is_gold": False, "train_allowed": True}

    def insert_all(session: Session) -> None:
        for number in range(count):
            labelled = number % 10 == 0
            session.add(
                Text(
                    text_hash=f"{number:064d}",
                    group_hash=f"{number:064d}",
                    text=f"第{number}",
                    state="labelled" if labelled else "unlabelled",
                    label_id=label_id if labelled else None,
                    labelled_at=NOW if labelled else None,
                    training_status="used" if labelled else "pending",
                    priority=None if labelled else 0.5,
                    **values,
                )
            )
        session.flush()
        ids = session.scalars(select(Text.id).order_by(Text.id)).all()
        rows = [asked(f"第{n}", domain_id=owner, **ANSWERED) for n in range(count)]
        session.execute(
            insert(UserQuestion),
            [
                dict(zip(intake._COLUMNS, intake._values(row), strict=True))
                | {"text_id": ids[n], "is_labeled": n % 10 == 0, "training_status": "pending"}
                for n, row in enumerate(rows)
            ],
        )

    work(insert_all)


def test_figures_cost_the_same_whatever_was_asked(sqlite_work: UnitOfWork) -> None:
    """Counted in the steps of SQLite's virtual machine: the same on every machine."""

    def steps() -> int:
        taken = 0

        def step() -> None:
            nonlocal taken
            taken += 1

        def read(session: Session) -> None:
            domain = domain_of(session)
            driver: Any = session.connection().connection.driver_connection
            driver.set_progress_handler(step, 1)
            try:
                statistics.of_domain(session, domain, RULE)
            finally:
                driver.set_progress_handler(None, 0)

        sqlite_work.read(read)
        return taken

    set_taxonomy(sqlite_work, ["甲", "乙"])
    for path in ("甲", "乙"):
        for question_id in ask(sqlite_work, *[trainable_text(path) for _ in range(2)], **ANSWERED):
            label(sqlite_work, question_id, path)
    few = steps()
    _grow(sqlite_work, 5_000)
    assert len(column(sqlite_work, Text.id)) == 5_004
    many = steps()
    assert many < few * 1.25, (few, many)
