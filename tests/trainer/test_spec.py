import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.specs import INTENTS, write_spec
from trainer.spec import SpecInvalid, read_spec


def test_spec_is_ordered_by_id_whatever_order_the_files_have(tmp_path: Path) -> None:
    path = write_spec(tmp_path)
    ordered = read_spec(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    document["labels"].reverse()
    path.write_text(json.dumps(document), encoding="utf-8")
    lines = (tmp_path / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "examples.jsonl").write_text("\n".join(reversed(lines)), encoding="utf-8")

    assert read_spec(path) == ordered
    assert [label.id for label in ordered.labels] == [1, 2, 3]
    assert [example.text_id for example in ordered.examples] == list(range(101, 116))


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path, {**INTENTS, "odd": ("a\u2028b\x85c", "d")}))

    assert spec.examples[-2].text == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": None}, "'labels'"),
        ({"labels": [1]}, "labels"),
        ({"labels": [{"id": "1", "path": "a"}]}, "'id'"),
        ({"labels": [{"id": True, "path": "a"}]}, "'id'"),
        ({"labels": [{"id": 2**70, "path": "a"}]}, "64 bits"),
        ({"labels": [{"id": 1, "path": "a"}, {"id": 1, "path": "b"}]}, "label id twice"),
        ({"labels": [{"id": 1, "path": "a"}]}, "has the label 2"),
        ({"examples": "missing.jsonl"}, "missing.jsonl cannot be read"),
        ({"examples": 3}, "'examples'"),
        ({"references": "text"}, "'references'"),
        ({"references": [3]}, "reference text"),
        ({"references": ["\ud800"]}, "reference text"),
        ({"references": ["x"] * 1001}, "reference texts"),
        ({"config": []}, "'config'"),
        ({"seed": "0"}, "'seed'"),
        ({"taxonomy_digest": "../x"}, "'taxonomy_digest'"),
        ({"recipe": 3}, "'recipe'"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    path = write_spec(tmp_path)
    document = {**json.loads(path.read_text(encoding="utf-8")), **fields}
    path.write_text(json.dumps(document), encoding="utf-8")

    with pytest.raises(SpecInvalid) as refused:
        read_spec(path)
    assert said in str(refused.value)


@pytest.mark.parametrize("field", ["recipe", "labels", "examples", "taxonomy_digest", "items_digest"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = write_spec(tmp_path)
    document = json.loads(path.read_text(encoding="utf-8"))
    del document[field]
    path.write_text(json.dumps(document), encoding="utf-8")

    with pytest.raises(SpecInvalid, match=f"'{field}' is missing"):
        read_spec(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 of examples.jsonl is not JSON"),
        ("[]", "line 2 of examples.jsonl is not a JSON object"),
        ('{"text_id": 9, "text": "x"}', "line 2 of the examples: the field 'label' is missing"),
        ('{"text_id": 9, "text": 7, "label": 1}', "line 2 of the examples: the field 'text'"),
        ('{"text_id": 9, "text": "\\ud800", "label": 1}', "surrogate"),
        ('{"text_id": 101, "text": "x", "label": 1}', "the text 101 occurs more than once"),
        ('{"text_id": 9, "text": "x", "label": 77}', "the text 9 has the label 77"),
    ],
)
def test_a_wrong_example_is_named_by_its_line_and_never_quoted(tmp_path: Path, line: str, said: str) -> None:
    path = write_spec(tmp_path)
    lines = (tmp_path / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    lines[1] = line
    (tmp_path / "examples.jsonl").write_text("\n".join(lines), encoding="utf-8")

    with pytest.raises(SpecInvalid, match=said):
        read_spec(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{" * 5000, b"[" * 100_000])
def test_a_spec_that_is_no_spec_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spec.json").write_bytes(content)

    with pytest.raises(SpecInvalid, match=r"spec\.json"):
        read_spec(tmp_path / "spec.json")


def test_a_spec_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match=r"spec\.json cannot be read"):
        read_spec(tmp_path / "spec.json")
