"""Records of other tools: which tool they are of, and the one label that people agreed on."""

import json

import pytest

from app.exchange.labelled import BadRow, LabelledRow, read_labelled

PATH = "硬件故障 > 电源问题 > 无法开机"
LEVELS = ["硬件故障", "电源问题", "无法开机"]


@pytest.fixture
def read(tmp_path):
    """The rows of a file with these records."""

    def read_records(*records, **options):
        path = tmp_path / "records.json"
        path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records))
        return list(read_labelled(path, **options))

    return read_records


def choice(*labels, key="choices", **more):
    return {"result": [{"from_name": "a", "to_name": "b", "type": key, "value": {key: list(labels)}}]} | more


def task(*annotations, data=None, **more):
    return {"id": 1, "data": data or {"text": "开不了机"}, "annotations": list(annotations)} | more


GOOD = {
    "label studio, a choice": task(choice("a")),
    "label studio, one choice twice": task(choice("a", "a")),
    "label studio, two people who agree": task(choice("a"), choice("a")),
    "label studio, another skipped it": task(choice("b", was_cancelled=True), choice("a"), choice("c", skipped=True)),
    "label studio, the ground truth counts": task(choice("b"), choice("a", ground_truth=True)),
    "label studio, before version 1": {"data": {"text": "开不了机"}, "completions": [choice("a")]},
    "label studio, the only text": task(choice("a"), data={"Column 1": "开不了机", "id": 3}),
    "label studio, beside spans": task(
        {"result": [{"type": "labels", "value": {"labels": ["X"], "start": 0}}, *choice("a")["result"]]}
    ),
    "argilla": {"fields": {"text": "开不了机"}, "responses": {"label": [{"value": "a", "user_id": "u"}]}},
    "argilla, submitted beside a draft": {
        "fields": {"text": "开不了机"},
        "responses": {"label": [{"value": "b", "status": "draft"}, {"value": "a", "status": "submitted"}]},
    },
    "argilla, another question too": {
        "fields": {"text": "开不了机"},
        "responses": {"rating": [{"value": 5}], "intent": [{"value": "a"}]},
    },
    "argilla, a list of one": {"fields": {"text": "开不了机"}, "responses": {"labels": [{"value": ["a"]}]}},
    "argilla, responses as a list": {
        "fields": {"text": "开不了机"},
        "responses": [{"user_id": "u", "status": "submitted", "values": {"q": {"value": "a"}}}],
    },
    "argilla, flattened": {
        "id": "7", "text": "开不了机", "label.responses": ["b", "a"],
        "label.responses.status": ["discarded", "submitted"], "label.suggestion": "c", "label.suggestion.score": 0.9,
    },
    "argilla 1": {"text": "开不了机", "annotation": "a", "prediction": [["b", 0.9]], "status": "Validated"},
    "argilla 1, inputs": {"inputs": {"text": "开不了机"}, "annotation": ["a"]},
    "text and label beside a prediction": {"text": "开不了机", "label": "a", "prediction": "b"},
    "doccano": {"id": 1, "text": "开不了机", "label": ["a"], "Comments": []},
    "doccano, data": {"data": "开不了机", "label": ["a"]},
    "doccano, one label by two people": {"text": "开不了机", "label": ["a", "a"]},
    "instruction": {"instruction": "…", "input": "开不了机", "output": "a"},
}  # fmt: skip


@pytest.mark.parametrize("record", GOOD.values(), ids=GOOD.keys())
def test_a_record_is_known_by_its_keys(read, record):
    assert read(record) == [LabelledRow(1, "开不了机", "a")]


@pytest.mark.parametrize(
    "record",
    [
        task(choice(LEVELS, key="taxonomy")),
        task(choice(LEVELS)),
        task(choice(PATH)),
        {"text": "开不了机", "label": [PATH]},
        {"instruction": "…", "input": "开不了机", "output": PATH},
        {"fields": {"text": "开不了机"}, "responses": {"label": [{"value": PATH}]}},
    ],
)
def test_levels_and_paths_become_one_label(read, record):
    assert read(record) == [LabelledRow(1, "开不了机", PATH)]


LEFT_OUT = {
    "label studio, nobody answered": (task(), "it has no annotation", True),
    "label studio, only a prediction": (task(predictions=[choice("a")]), "it has no annotation", True),
    "label studio, all skipped": (task(choice("a", was_cancelled=True)), "skipped", True),
    "label studio, submitted empty": (task({"result": []}), "nobody labelled it", True),
    "label studio, two choices": (task(choice("a", "b")), "holds 2 labels", False),
    "label studio, two paths": (task(choice(["a", "b"], ["a", "c"], key="taxonomy")), "holds 2 labels", False),
    "label studio, they disagree": (task(choice("a"), choice("b")), "its 2 annotations disagree", False),
    "label studio, only spans": (
        task({"result": [{"type": "labels", "value": {"labels": ["X"]}}]}), "neither choices nor a taxonomy", False,
    ),
    "label studio, a choice that is a number": (task(choice(3)), "is a number instead of a string", False),
    "label studio, several texts": (task(choice("a"), data={"x": "1", "y": "2"}), "data holds 2 texts", False),
    "label studio, no text": (task(choice("a"), data={"image": 1}), "data holds 0 texts", False),
    "label studio, broken": (task({"result": 5}), "no list of results", False),
    "label studio, a level with the separator": (
        task(choice(["a", "b > c"], key="taxonomy")), "which parts levels", False,
    ),
    "argilla, nobody answered": ({"fields": {"text": "x"}, "responses": {}}, "nobody submitted", True),
    "argilla, only a draft": (
        {"fields": {"text": "x"}, "responses": {"label": [{"value": "a", "status": "draft"}]}},
        "nobody submitted", True,
    ),
    "argilla, only a suggestion": (
        {"fields": {"text": "x"}, "suggestions": {"label": {"value": "a"}}}, "nobody submitted", True,
    ),
    "argilla, they disagree": (
        {"fields": {"text": "x"}, "responses": {"label": [{"value": "a"}, {"value": "b"}]}},
        "2 responses disagree", False,
    ),
    "argilla, two labels": (
        {"fields": {"text": "x"}, "responses": {"label": [{"value": ["a", "b"]}]}}, "holds 2 labels", False,
    ),
    "argilla, which question": (
        {"fields": {"text": "x"}, "responses": {"p": [{"value": "a"}], "q": [{"value": "a"}]}}, "none is called label",
        False,
    ),
    "argilla 1, discarded": ({"text": "x", "annotation": "a", "status": "Discarded"}, "nobody labelled it", True),
    "argilla 1, only a prediction": ({"text": "x", "prediction": [["a", 0.9]]}, "nobody labelled it", True),
    "doccano, nobody answered": ({"text": "x", "label": []}, "nobody labelled it", True),
    "doccano, spans": ({"text": "x", "label": [[0, 1, "ORG"]]}, "marks spans", False),
    "doccano, several labels": ({"text": "x", "label": ["a", "b"]}, "holds 2 labels", False),
    "a numbered label": ({"text": "x", "label": 3}, "label is a number instead of a string", False),
}  # fmt: skip


@pytest.mark.parametrize(("record", "reason", "ignored"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_a_record_without_one_label_is_left_out_and_says_why(read, record, reason, ignored):
    (row,) = read(record)
    assert isinstance(row, BadRow)
    assert reason in row.reason
    assert row.ignored == ignored


@pytest.mark.parametrize(
    "record",
    [
        task(predictions=[choice("b"), choice("a")]),
        {"fields": {"text": "开不了机"}, "responses": {}, "suggestions": {"label": {"value": "a", "score": 0.9}}},
        {"fields": {"text": "开不了机"}, "suggestions": [{"question_name": "label", "value": "a"}]},
        {"text": "开不了机", "label.responses": None, "label.suggestion": "a"},
        {"text": "开不了机", "annotation": None, "prediction": [{"label": "b"}, {"label": "a", "score": 0.8}]},
        {"text": "开不了机", "prediction": [["b", 0.2], ["a", 0.8]]},
        {"text": "开不了机", "label": None, "prediction": "a"},
    ],
)  # fmt: skip
def test_what_a_model_suggested_is_taken_only_when_that_is_wanted(read, record):
    assert read(record)[0].ignored
    assert read(record, guesses=True) == [LabelledRow(1, "开不了机", "a")]


def test_an_answer_of_a_person_goes_before_what_a_model_suggested(read):
    assert read(task(choice("a"), predictions=[choice("b")]), guesses=True)[0].label == "a"


def test_a_named_format_is_held_to(read):
    ours = {"text": "x", "labels": ["a", "b"]}
    assert read(ours) == [LabelledRow(1, "x", "a > b")]
    assert "holds 2 labels" in read(ours, form="doccano")[0].reason
    assert read({"text": "x", "labels": ["a"]}, form="doccano") == [LabelledRow(1, "x", "a")]
    assert "no label-studio record, which has data and annotations" in read(ours, form="label-studio")[0].reason


def test_a_proposal_comes_with_its_row(read):
    rows = read(
        {"text": "x", "labels": ["其他"], "proposed_label": " Ａ > b "},
        {"text": "x", "label": ["其他"], "proposed_label": "a"},
        task(choice("其他"), meta={"proposed_label": "a"}),
        {"text": "x", "labels": ["其他"], "proposed_label": 5},
    )
    assert [getattr(row, "proposed", None) for row in rows] == ["A > b", "a", "a", None]
    assert rows[3].reason == "proposed_label is a number instead of a string"


def test_a_reason_never_holds_what_the_record_says(read):
    secret = "13812345678"
    records = [
        task(choice(secret, "b")), task(choice({secret: 1})), task(choice("a"), data={secret: secret, "y": secret}),
        {"fields": {secret: 1}, "responses": {secret: [{"value": secret}]}}, {"text": secret, "label": [secret, "b"]},
        {"fields": {"text": secret}, "responses": {secret: [{"value": 1}], "q": [{"value": 2}]}},
    ]  # fmt: skip
    rows = read(*records)
    assert len(rows) == len(records)
    assert all(secret not in row.reason for row in rows)
