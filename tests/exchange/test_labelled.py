"""Reading labelled files: the forms, the encodings, and files that mean harm."""

import gzip
import json
import tracemalloc

import pytest

from app.exchange.labelled import BadRow, LabelledRow, UnreadableFile, read_labelled
from app.exchange.pieces import MAX_PIECE_BYTES

ROWS = [LabelledRow(1, "打开浏览器", "app"), LabelledRow(2, "明天下雨吗，带不带伞", "weather")]


@pytest.fixture
def read(tmp_path):
    """Write the content under a name and read it back whole."""

    def read_content(content, name="rows.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_labelled(path, **options))

    return read_content


def pairs(rows):
    return [(row.text, row.label) for row in rows]


def json_lines(*rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json_lines(*({"text": row.text, "label": row.label} for row in ROWS))),
        ("a.json", json.dumps([{"text": row.text, "label": row.label} for row in ROWS])),
        ("a.txt", json_lines(*({"user_input": row.text, "intent_code": row.label} for row in ROWS))),
        ("a.csv", "text,label\r\n打开浏览器,app\r\n明天下雨吗，带不带伞,weather\r\n"),
        ("a.csv", 'id,Label , TEXT\n1,app,"打开浏览器"\n\n2,weather,明天下雨吗，带不带伞'),
        ("a.tsv", "text\tlabel\n打开浏览器\tapp\n明天下雨吗，带不带伞\tweather\n"),
        ("a", "user_input;intent_code\n打开浏览器;app\n明天下雨吗，带不带伞;weather\n"),
    ],
)
def test_every_format_gives_the_same_rows_with_and_without_gzip_and_byte_order_mark(read, name, content, mark, packed):
    encoded = (mark + content).encode()
    rows = read(gzip.compress(encoded), name + ".gz") if packed else read(encoded, name)
    assert pairs(rows) == pairs(ROWS)


def test_gzip_is_known_by_its_content_and_not_by_the_name(read):
    assert pairs(read(gzip.compress(b'{"text": "a", "label": "b"}'), "plain.jsonl")) == [("a", "b")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json_lines({"text": "开不了机", "labels": ["硬件故障", " 电源问题 ", "无法开机"]})),
        ("a.csv", "text,labels\n开不了机,硬件故障 > 电源问题 > 无法开机\n"),
        ("a.csv", 'text,labels\n开不了机,"[""硬件故障"", ""电源问题"", ""无法开机""]"\n'),
    ],
)
def test_levels_of_one_label_are_joined_to_its_path(read, name, content):
    assert read(content, name) == [LabelledRow(int(name == "a.csv") + 1, "开不了机", "硬件故障 > 电源问题 > 无法开机")]


def test_labels_are_normalised_as_the_taxonomy_does_and_texts_stay_as_they_are(read):
    assert pairs(read('{"text": " Ａ  b ", "label": " ａ ＞  ｂ "}')) == [(" Ａ  b ", "a > b")]


def test_line_numbers_are_those_of_an_editor(read):
    array = '[\n  {"text": "a\\n",\n   "label": "x"},\n\n  7,\n  {"text": "b", "label": "y"}\n]'
    assert [row.line for row in read(array, "a.json")] == [2, 5, 6]
    quoted = 'text,label\n"a\nstill a",x\n\nb\nc,z\n'
    assert [(row.line, type(row)) for row in read(quoted, "a.csv")] == [
        (2, LabelledRow),
        (5, BadRow),
        (6, LabelledRow),
    ]
    assert [row.line for row in read('\n{"text": "a", "label": "x"}\n\n{}')] == [2, 4]


BAD = {
    "not json": ("{'text': 'a'}", "not JSON"),
    "cut off": ('{"text": "a", "la', "not JSON"),
    "a list": ('["a", "b"] x', "not JSON"),
    "a string": ('"text label"', "a string instead of an object"),
    "NaN": ('{"text": "a", "label": "b", "score": NaN}', "NaN is no JSON"),
    "Infinity": ('{"text": "a", "label": "b", "score": -Infinity}', "-Infinity is no JSON"),
    "a huge integer": ('{"text": "a", "label": "b", "n": ' + "9" * 5000 + "}", "not JSON that can be read"),
    "deep nesting": (
        '{"text": ' + "[" * 100_000 + "]" * 100_000 + ', "label": "b"}',
        "not JSON that can be read",
    ),
    "a NUL": ('{"text": "a\\u0000", "label": "b"}', "holds NUL"),
    "a lone surrogate": ('{"text": "a\\ud800", "label": "b"}', "holds NUL or half a character"),
    "a lone surrogate in the label": (
        '{"text": "a", "label": "\\udfff"}',
        "label holds NUL or half a character",
    ),
    "a number": ('{"text": 5, "label": "b"}', "text is a number instead of a string"),
    "a boolean": ('{"text": "a", "label": true}', "label is a boolean instead of a string"),
    "null": ('{"text": null, "label": "b"}', "text is null instead of a string"),
    "an object": ('{"text": "a", "label": {}}', "label is an object instead of a string"),
    "blank": ('{"text": " \\t", "label": "b"}', "text is empty"),
    "invisible": ('{"text": "\\u200b\\u2060", "label": "b"}', "text is empty"),
    "a text that the service refuses": (
        '{"text": "' + "多" * 20_001 + '", "label": "b"}',
        "text is too long",
    ),
    "a wide separator": ('{"text": "a", "labels": ["b", "c ＞ d"]}', "which parts levels"),
    "no label": ('{"text": "a"}', "neither text and label"),
    "levels as a string": ('{"text": "a", "labels": "b"}', "labels is a string instead of a list of levels"),
    "no levels": ('{"text": "a", "labels": []}', "labels is empty instead of a list of levels"),
    "a level that is a list": (
        '{"text": "a", "labels": ["b", ["c"]]}',
        "labels is a list instead of a string",
    ),
    "a level with the separator": ('{"text": "a", "labels": ["b", "c > d"]}', "which parts levels"),
    "not UTF-8": (b'{"text": "\xb4\xf2", "label": "b"}', "not UTF-8"),
    "too long": ('{"text": "' + "a" * MAX_PIECE_BYTES + '", "label": "b"}', "longer than 1048576 bytes"),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_says_why_and_costs_only_itself(read, row, reason):
    row = row if isinstance(row, bytes) else row.encode()
    good = b'{"text": "good", "label": "x"}'

    before, bad, after = read(good + b"\n" + row + b"\n" + good)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert (before.line, bad.line, after.line) == (1, 2, 3)

    if reason != "not JSON":  # a row that is no JSON may take the brackets of its neighbours along
        inside = read(b"[" + good + b",\n" + row + b",\n" + good + b"]", "a.json")
        assert [type(row) for row in inside] == [LabelledRow, BadRow, LabelledRow]
        assert reason in inside[1].reason


def test_a_reason_never_holds_what_the_row_says(read):
    rows = [
        '{"text": "13812345678", "label": 5}',
        '{"13812345678": 1}',
        '{"text": 13812345678, "label": "a"}',
        '{"text": "13812345678',
    ]
    assert all("13812345678" not in bad.reason for bad in read("\n".join(rows)))


def test_an_array_that_ends_in_the_middle_gives_its_whole_elements_and_says_so(read):
    rows = read('[{"text": "a", "label": "b"},\n {"text": "c", "lab', "a.json")
    assert rows == [LabelledRow(1, "a", "b"), BadRow(2, "the array ends in the middle")]
    assert read('[{"text": "a, ]}", "label": "b"}, ', "a.json")[0].text == "a, ]}"


def test_brackets_quotes_and_backslashes_in_strings_do_not_cut_an_array(read):
    texts = [
        '"}]',
        "\\",
        "[[{{",
        '\\"',
        "a,b",
        '\\\\"]',
        "多",
    ] * 9000  # well past one chunk, escapes on every boundary
    rows = read(json.dumps([{"text": text, "label": "x"} for text in texts]), "a.json")
    assert [row.text for row in rows] == texts


@pytest.mark.parametrize("content", ["[]", "[ ]\n", "[\n]"])
def test_an_empty_array_has_no_rows(read, content):
    assert read(content, "a.json") == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("only one", "1 columns, the header has 2"),
        ("a,b,c", "3 columns, the header has 2"),
        ('"a"b,c', "not CSV"),
        ("a" * 200_000 + ",b", "not CSV: field larger than field limit"),
        (b"\xb4\xf2,b", "not UTF-8"),
        ("a\x00,b", "holds NUL"),
        (",b", "text is empty"),
    ],
)
def test_a_bad_csv_record_says_why_and_costs_only_itself(read, record, reason):
    record = record if isinstance(record, bytes) else record.encode()
    before, bad, after = read(b"text,label\ngood,x\n" + record + b"\ngood,x\n", "a.csv")
    assert (before.text, after.text) == ("good", "good")
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


def test_a_quote_that_never_closes_does_not_swallow_the_file(read):
    rows = read('text,label\n"never closed,x\n' + "good,x\n" * 100_000, "a.csv")
    assert sum(isinstance(row, BadRow) for row in rows) <= 2
    assert sum(isinstance(row, LabelledRow) for row in rows) > 50_000


def test_a_record_over_many_short_fields_is_bounded(read):
    record = "".join('"\n",' for _ in range(500_000))
    rows = read("text,label\n" + record, "a.csv")
    assert all(isinstance(row, BadRow) for row in rows)
    assert "longer than" in rows[0].reason


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.jsonl", "is empty"),
        (b" \n\n", "a.jsonl", "is empty"),
        (b"\xef\xbb\xbf", "a.csv", "is empty"),
        ("text,label".encode("utf-16"), "a.csv", "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a.png", "not UTF-8"),
        (b"question,answer\n1,2\n", "a.csv", "user_input/intent_code"),
        (b"hello", "a.txt", "neither JSON nor CSV"),
        (b"\x1f\x8b not gzip at all", "a.jsonl.gz", "not a whole gzip file"),
        # A stamp of now would give the test another name in every process that collects it.
        (gzip.compress(b"", mtime=0), "a.jsonl.gz", "is empty"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence_before_any_row(tmp_path, content, name, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=message):
        read_labelled(path)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "a\x00b"])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        read_labelled(tmp_path / name)


def test_a_truncated_gzip_gives_its_rows_and_then_says_that_it_is_not_whole(tmp_path):
    lines = "".join(json_lines({"text": f"question {n * 7919 % 10_007}", "label": "x"}) + "\n" for n in range(50_000))
    packed = gzip.compress(lines.encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    rows = read_labelled(path)
    assert next(rows).text == "question 0"
    with pytest.raises(UnreadableFile, match="not a whole gzip file"):
        list(rows)


@pytest.mark.parametrize("begins", [b"{", b"["])
def test_a_file_that_unpacks_to_more_than_the_bound_is_refused_within_bounded_memory(tmp_path, begins):
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as bomb:
        bomb.write(begins)
        for _ in range(64):
            bomb.write(b"a" * MAX_PIECE_BYTES)
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableFile, match="holds more than"):
            list(read_labelled(path.rename(tmp_path / "bomb.json.gz"), max_bytes=32 * MAX_PIECE_BYTES))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MAX_PIECE_BYTES


def test_many_rows_are_read_in_the_memory_of_one(tmp_path):
    path = tmp_path / "many.json"
    path.write_text("[" + ",\n".join(['{"text": "a question", "label": "x"}'] * 30_000) + "]")
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_labelled(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < MAX_PIECE_BYTES
