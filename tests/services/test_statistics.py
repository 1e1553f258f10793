"""The figures of a domain, each against a small world that was counted by hand."""

from app.db.session import UnitOfWork
from app.services import activations, annotations, batches, domains, imports, queue, runs, statistics, taxonomy
from app.services.batches import OpeningRule
from tests.builders import (
    ask,
    domain_of,
    gold_text,
    label,
    make_labelled_texts,
    make_version,
    set_taxonomy,
    trainable_text,
)

RULE = OpeningRule(labels=4, share=0.1, small_labels=0)


def _figures(work: UnitOfWork, domain: str = "default") -> dict[str, object]:
    return work.read(lambda session: statistics.of_domain(session, domain_of(session, domain), RULE))


def _some(figures: dict[str, object], *names: str) -> dict[str, object]:
    return {name: figures[name] for name in names}


def test_an_empty_domain_has_figures(work: UnitOfWork) -> None:
    assert _figures(work) == {
        "domain": "default",
        "questions": 0,
        "labelled": 0,
        "by_method": {},
        "texts": 0,
        "texts_labelled": 0,
        "texts_skipped": 0,
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
