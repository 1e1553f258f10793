"""Parquet, as we write it, as Hugging Face writes it, and broken."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.exchange import columns
from app.exchange.labelled import BadRow, LabelledRow, UnreadableFile, read_labelled


@pytest.fixture
def read(tmp_path):
    """The rows of a table that was written to a file."""

    def read_table(table, **options):
        path = tmp_path / "table.bin"
        pq.write_table(table, path)
        return list(read_labelled(path, **options))

    return read_table


def test_rows_are_read_whatever_the_file_is_called(read):
    table = pa.table({"id": [1, 2], "text": ["a", "b"], "labels": [["x", "y"], ["z"]], "vector": [[0.1], [0.2]]})
    assert read(table) == [LabelledRow(1, "a", "x > y"), LabelledRow(2, "b", "z")]


def test_a_bad_row_costs_only_itself(read):
    table = pa.table({"text": ["a", None, " ", "b" * 30_000, "c"], "label": ["x", "x", "x", "x", None]})
    rows = read(table)
    assert [type(row) for row in rows] == [LabelledRow, BadRow, BadRow, BadRow, BadRow]
    assert [row.reason for row in rows[1:3]] == ["text is null instead of a string", "text is empty"]
    assert rows[4].reason == "label is null instead of a string"


def test_a_string_that_is_not_utf8_costs_only_its_row(read):
    broken = pa.array([b"a", b"\xff\xfe", b"c"]).cast(pa.binary()).view(pa.string())
    rows = read(pa.table({"text": broken, "label": ["x", "x", "x"]}))
    assert [row.line for row in rows] == [1, 2, 3]
    assert [type(row) for row in rows] == [LabelledRow, BadRow, LabelledRow]
    assert rows[1].reason == "not UTF-8"


def test_numbered_labels_get_the_names_that_the_file_gives_them(read):
    features = {"text": {"dtype": "string"}, "label": {"names": ["甲", "乙"], "_type": "ClassLabel"}}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, 7]})
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert read(named) == [
        LabelledRow(1, "a", "乙"),
        LabelledRow(2, "b", "甲"),
        BadRow(3, "label is a number instead of a string"),
    ]
    assert all("is a number" in row.reason for row in read(table.replace_schema_metadata({"huggingface": "{"})))


def test_records_of_argilla_are_read_from_their_columns(read):
    nested = pa.table({"fields": [{"text": "a"}], "responses": [{"label": [{"value": "x", "status": "submitted"}]}]})
    assert read(nested) == [LabelledRow(1, "a", "x")]
    flat = pa.table({"text": ["a"], "label.responses": [["x"]], "label.responses.status": [["submitted"]]})
    assert read(flat) == [LabelledRow(1, "a", "x")]


def test_a_long_text_that_repeats_is_held_once(tmp_path):
    import resource

    path = tmp_path / "bomb.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["x" * 1_000_000])
    pq.write_table(pa.table({"text": column, "label": ["a"] * 200_000}), path, store_schema=False)
    assert path.stat().st_size < 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = read_labelled(path)
    assert "too long" in next(rows).reason
    # Five hundred of them are 500 MB; kilobytes here.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000


@pytest.mark.parametrize(
    "content", [b"PAR1", b"PAR1" + b"x" * 100, b"PAR1\0\0\0\0PAR1", b"PAR1" + b"\xff" * 20 + b"PAR1"]
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "broken.parquet"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=r"broken\.parquet is no Parquet file that can be read"):
        read_labelled(path)


def test_a_file_cut_in_the_middle_says_where(tmp_path):
    path = tmp_path / "cut.parquet"
    pq.write_table(
        pa.table({"text": [f"{n}-{n * 7919 % 10_007}" for n in range(50_000)], "label": ["x"] * 50_000}), path
    )
    content = bytearray(path.read_bytes())
    content[1000:60_000] = bytes(59_000)
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match="cannot be read from row 1 on"):
        list(read_labelled(path))


def test_what_is_no_labelled_text_is_refused_before_any_row(read, monkeypatch):
    with pytest.raises(UnreadableFile, match="none of the columns of a labelled text: data and annotations"):
        read(pa.table({"question": ["a"], "answer": ["b"]}))
    with pytest.raises(UnreadableFile, match="is no Parquet file"):
        read_labelled(__import__("pathlib").Path(__file__), form="parquet")
    monkeypatch.setattr(columns, "MAX_ROWS", 2)
    with pytest.raises(UnreadableFile, match="or 2 rows once unpacked"):
        read(pa.table({"text": ["a"] * 3, "label": ["b"] * 3}))
    with pytest.raises(UnreadableFile, match="is larger than 10 bytes"):
        read(pa.table({"text": ["a"], "label": ["b"]}), max_bytes=10)
