"""Labelled texts come in with a report for each row, and running an import again changes nothing."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import Engine

from app.db.session import UnitOfWork, transaction
from app.db.tables import Annotation, Label, Text, UserQuestion
from app.intent.text import MaskedText
from app.services import annotations, batches, folding, imports, intake, undoing
from app.services.imports import ImportReport, ImportRow
from tests.builders import (
    ask,
    asked,
    column,
    domain_id,
    gold_text,
    label,
    set_taxonomy,
    text_of,
    trainable_text,
)
from tests.services.together import in_processes, in_threads


def _rows(*pairs: tuple[str, str]) -> list[ImportRow]:
    return [ImportRow(line, MaskedText(text), path) for line, (text, path) in enumerate(pairs, start=1)]


def _take_in(work: UnitOfWork, *pairs: tuple[str, str], create_labels: bool = False) -> ImportReport:
    return work(imports.take_in, "default", _rows(*pairs), create_labels=create_labels)


def test_an_import_labels_texts_and_reports_each_row(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    one, two, three = (trainable_text("甲") for _ in range(3))

    report = _take_in(work, (one, "甲"), (two, "丁"), (one, "甲"), (one, "乙"), (three, "乙"))

    assert report.counts == {"imported": 2, "refused": 1, "duplicate": 1, "conflict": 1}
    assert report.refused == [(2, "the label is not in the taxonomy")]
    assert [(row.line, row.status, row.reason) for row in report.rows] == [
        (1, "imported", None),
        (2, "refused", "the label is not in the taxonomy"),
        (3, "duplicate", None),
        (4, "conflict", "the text has another label: 甲"),
        (5, "imported", None),
    ]
    labels = dict(column(work, Label.id, Label.path))
    rows = column(work, Text.text, Text.label_id, Text.state, Text.label_source, Text.training_status, Text.count)
    assert {row[0]: (labels[row[1]], *row[2:]) for row in rows} == {
        one: ("甲", "labelled", "import", "pending", 0),
        three: ("乙", "labelled", "import", "pending", 0),
    }
    assert set(column(work, Annotation.labeler_id, Annotation.source, Annotation.revision)) == {("import", "import", 1)}


def test_an_import_that_is_run_again_changes_nothing(work: UnitOfWork) -> None:
    pairs = [(trainable_text("甲"), "甲乙"[line % 2]) for line in range(6)]
    _take_in(work, *pairs[:3], create_labels=True)
    assert _take_in(work, *pairs, create_labels=True).counts == {"duplicate": 3, "imported": 3}
    before = column(work, Annotation.id), column(work, Text.id, Text.labelled_at)
    assert _take_in(work, *pairs, create_labels=True).counts == {"duplicate": 6}
    assert (column(work, Annotation.id), column(work, Text.id, Text.labelled_at)) == before


def test_a_persons_label_stands_against_an_import(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    text = trainable_text("甲")
    (question_id,) = ask(sqlite_work, text)
    label(sqlite_work, question_id, "甲")
    assert _take_in(sqlite_work, (text, "乙")).counts == {"conflict": 1}
    assert sqlite_work.read(intake.find, question_id).correct_intent == ["甲"]


def test_an_import_labels_what_was_asked_before_and_what_is_asked_later(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    text = trainable_text("甲")
    ask(work, text, text)
    _take_in(work, (text, "甲"))
    ask(work, text)
    assert column(work, UserQuestion.correct_intent, UserQuestion.labeler_id) == [(["甲"], "import")] * 3
    assert column(work, Text.count, Text.priority) == [(3, None)]


def test_an_imported_label_can_be_replaced_by_a_person_who_names_it(sqlite_work: UnitOfWork) -> None:
    set_taxonomy(sqlite_work, ["甲", "乙"])
    text = trainable_text("甲")
    _take_in(sqlite_work, (text, "甲"))
    (question_id,) = ask(sqlite_work, text)
    imported = sqlite_work.read(text_of, question_id).annotation_id
    assert label(sqlite_work, question_id, "乙", supersedes=imported).supersedes == imported
    sqlite_work(undoing.undo, question_id, labeler_id="ana")
    assert sqlite_work.read(intake.find, question_id).correct_intent == ["甲"]


def test_imported_gold_is_chosen_by_its_hash_and_never_trained_on(sqlite_work: UnitOfWork) -> None:
    pairs = [(gold_text("甲"), "甲"), (gold_text("乙"), "乙")]
    pairs += [(trainable_text(path), path) for path in "甲甲乙乙"]
    _take_in(sqlite_work, *pairs, create_labels=True)
    assert column(sqlite_work, Text.is_gold).count(True) == 2
    batch = sqlite_work(batches.open_batch, "default", opened_by="ana")
    assert (batch.question_count, batch.gold_count) == (4, 2)


def test_unknown_labels_are_made_only_when_that_is_wanted(sqlite_work: UnitOfWork) -> None:
    assert _take_in(sqlite_work, (trainable_text("甲"), "甲")).counts == {"refused": 1}
    assert column(sqlite_work, Text.id) == []
    _take_in(sqlite_work, (trainable_text("甲"), "甲"), (trainable_text("甲"), "甲"), create_labels=True)
    assert column(sqlite_work, Label.path) == ["甲"]


def test_a_label_that_can_be_none_costs_only_its_row(work: UnitOfWork) -> None:
    deep = " > ".join("abcdefghi")
    bad = ["x" * 300, deep, "甲 >  > 乙", "甲 > 丙 > 丁", "乙 > 丙"]
    pairs = [(trainable_text("甲"), path) for path in ["甲 > 丙", "乙", *bad, "甲 > 戊"]]
    report = _take_in(work, *pairs, create_labels=True)
    assert report.counts == {"imported": 3, "refused": 5}
    assert sorted(column(work, Label.path)) == sorted(["甲 > 丙", "乙", "甲 > 戊"])
    assert {reason.partition(":")[0] for _, reason in report.refused} == {"the label can be none"}


def test_a_taxonomy_is_not_filled_without_end(sqlite_work: UnitOfWork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MOST_LABELS", 2)
    report = _take_in(sqlite_work, *[(trainable_text(path), path) for path in "甲乙丙"], create_labels=True)
    assert report.counts == {"imported": 2, "refused": 1}
    assert "no place for another" in report.refused[0][1]


def test_an_import_brings_proposals_along(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "其他"])
    one, two, three = (trainable_text("甲") for _ in range(3))
    rows = [
        ImportRow(1, MaskedText(one), "其他", "乙 > 丙"),
        ImportRow(2, MaskedText(two), "其他", "甲"),
        ImportRow(3, MaskedText(three), "其他", "x" * 300),
    ]
    report = work(imports.take_in, "default", rows)
    assert report.refused == [(3, "proposed_label can be no label")]
    labels = dict(column(work, Label.id, Label.path))
    found = {text: (labels[label], proposed) for text, label, proposed in
             column(work, Text.text, Text.label_id, Text.proposed_label)}  # fmt: skip
    assert found == {one: ("其他", "乙 > 丙"), two: ("甲", None)}
    assert sorted(map(str, column(work, Annotation.proposed_label))) == ["None", "乙 > 丙"]


def test_an_import_in_bulk_leaves_what_one_answer_after_the_other_would(sqlite_work: UnitOfWork) -> None:
    """The same columns, whether a text was asked before (labelled as by a person) or came with the file."""
    set_taxonomy(sqlite_work, ["甲"])
    names = (
        "state",
        "label_id",
        "label_source",
        "training_status",
        "is_gold",
        "proposed_label",
        "priority",
        "train_allowed",
    )
    for new, known in ((trainable_text("甲"), trainable_text("甲")), (gold_text("甲"), gold_text("甲"))):
        ask(sqlite_work, known)
        _take_in(sqlite_work, (new, "甲"), (known, "甲"))
        rows = {row[0]: row[1:] for row in column(sqlite_work, Text.text, *(getattr(Text, name) for name in names))}
        assert dict(zip(names, rows[new], strict=True)) == dict(zip(names, rows[known], strict=True))
    for text, annotation_id, labelled_at in column(sqlite_work, Text.id, Text.annotation_id, Text.labelled_at):
        of = {row[0]: row[1:] for row in column(sqlite_work, Annotation.id, Annotation.text_id, Annotation.created_at)}
        assert of[annotation_id] == (text, labelled_at)


def test_a_report_names_a_thousand_refusals_and_counts_all() -> None:
    report = ImportReport()
    for line in range(1500):
        report.refuse(line, "empty")
    assert (report.counts["refused"], len(report.refused)) == (1500, 1000)


def test_two_imports_of_one_file_at_once_label_each_text_once(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    pairs = [(trainable_text("甲"), "甲") for _ in range(20)]
    reports = in_threads(3, lambda _: _take_in(work, *pairs))
    assert sum((report.counts for report in reports[1:]), reports[0].counts) == {"imported": 20, "duplicate": 40}
    assert len(column(work, Annotation.id)) == 20


def test_an_answer_that_is_being_given_while_a_file_comes_in_stands(engine: Engine, work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    text = trainable_text("甲")
    (question,) = ask(work, text)
    with ThreadPoolExecutor(1) as beside:
        with transaction(engine) as session:
            annotations.submit(session, question, correct_intent=["甲"], labeler_id="ana")
            coming = beside.submit(_take_in, work, (text, "乙"))
            # It waits for this transaction, wherever it has come to by then.
            wait([coming], timeout=0.5)
        assert coming.result(timeout=30).counts == {"conflict": 1}
    assert work.read(intake.find, question).correct_intent == ["甲"]


def _import_or_ask(work: UnitOfWork, number: int, words: list[str], owner: int) -> None:
    if number == 0:
        _take_in(work, *[(text, "甲") for text in words])
    else:
        for text in words:
            work(intake.record, [asked(text, domain_id=owner)])
            work(folding.fold)


def test_texts_that_are_imported_while_they_are_asked_are_one(database_url: str, work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲"])
    words = [trainable_text("甲") for _ in range(15)]
    in_processes(3, _import_or_ask, database_url, words, domain_id(work))
    while work(folding.fold):
        pass
    assert column(work, Text.count, Text.state) == [(2, "labelled")] * 15
    assert column(work, UserQuestion.is_labeled) == [True] * 30
