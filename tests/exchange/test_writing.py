"""Writing: cells that a spreadsheet must not run, files that are whole, and what a form has no place for."""

import gzip
import io
import json
import stat
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.exchange.formulas import guarded, unguarded
from app.exchange.labelled import LabelledRow, read_labelled
from app.exchange.whole_files import whole_file
from app.exchange.writing import INSTRUCTION, WRITERS, Writing

ODD = [
    "=1+1", "+86", "-5度能开机吗", "@所有人", "'=1", "''=1", "'s Morgens", "'", "''", 'er sagte "ja"', "a,b;c", "#话题",
    "emoji 👨‍👩‍👧 好", "- 列表", "[a](b", "a: b", "{x}", "\\n", "C:\\新", "null", "1e5", "<b>", "%d %s {0}",
    "[red]x[/]", "| x", "'-'-'", "true", "NaN", "»«", "𠮷野家", "é", "ﷺ",
]  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    text: str
    label: str
    count: int = 1
    proposed: str | None = None


def written(form, rows, **options):
    out, writing = io.BytesIO(), Writing(**options)
    WRITERS[form](rows, out, writing)
    return out.getvalue(), writing


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("include_count", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_written_is_read_back_as_it_was(tmp_path, form, include_count, nested):
    if form == "rasa" and include_count:
        pytest.skip("the form has no place for a count")
    label = "硬件故障 > 电源问题 > 无法开机" if nested else "=无法开机"
    rows = [Labelled(text, label, count) for count, text in enumerate(ODD)]
    content, writing = written(form, rows, include_count=include_count, nested=nested)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert [(row.text, row.label) for row in read_labelled(path)] == [(text, label) for text in ODD]
    assert (writing.written, writing.left_out) == (len(ODD), {})
    assert (b"count" in content) == include_count
    # Named, it is read the same.
    assert [row.text for row in read_labelled(path, form=form)] == ODD


@pytest.mark.parametrize("form", WRITERS)
def test_nothing_is_written_as_a_file_without_rows(tmp_path, form):
    content, writing = written(form, [])
    assert writing.written == 0
    path = tmp_path / "file"
    path.write_bytes(content)
    if content:
        assert list(read_labelled(path)) == []


def test_the_forms_look_as_their_tools_expect():
    row = Labelled("开不了机", "硬件故障 > 电源问题 > 无法开机", 3)
    levels = ["硬件故障", "电源问题", "无法开机"]
    assert json.loads(written("labels", [row])[0]) == {"text": "开不了机", "labels": levels}
    assert json.loads(written("instruction", [row])[0]) == {
        "instruction": INSTRUCTION, "input": "开不了机", "output": row.label,
    }  # fmt: skip
    assert json.loads(written("instruction", [row], instruction="选一个")[0])["instruction"] == "选一个"
    assert written("csv", [row], include_count=True)[0].decode() == (
        f"user_input,intent_code,count\r\n开不了机,{row.label},3\r\n"
    )
    (tree,) = json.loads(written("label-studio", [row])[0])
    assert tree["annotations"][0]["result"][0]["value"] == {"taxonomy": [levels]}
    (flat,) = json.loads(written("label-studio", [Labelled("x", "a")], nested=False)[0])
    assert flat["annotations"][0]["result"][0] == {
        "from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["a"]},
    }  # fmt: skip
    assert json.loads(written("doccano", [row])[0])["label"] == [row.label]
    assert written("rasa", [row])[0].decode().endswith(f'- intent: "{row.label}"\n  examples: |\n    - 开不了机\n')


def test_a_proposal_is_marked_or_left_out_and_counted(tmp_path):
    rows = [Labelled("a", "其他", 1, "网络 > 掉线"), Labelled("b", "其他")]
    for form in WRITERS:
        content, writing = written(form, rows)
        (tmp_path / "file").write_bytes(content)
        read = [(row.text, row.proposed) for row in read_labelled(tmp_path / "file")]
        if form in ("instruction", "csv", "rasa"):
            assert (read, writing.left_out) == ([("b", None)], {"proposed": 1})
        else:
            assert (read, writing.left_out) == ([("a", "网络 > 掉线"), ("b", None)], {})


def test_rasa_leaves_out_what_it_would_read_as_another_text(tmp_path):
    rows = [Labelled(text, "a") for text in ("[北京](city)", "x\ufffe", "x\ufffd", "good")]
    content, writing = written("rasa", rows)
    (tmp_path / "file").write_bytes(content)
    assert [row.text for row in read_labelled(tmp_path / "file")] == ["good"]
    assert writing.left_out == {"not_writable": 3}


def test_rasa_brings_the_examples_of_an_intent_together():
    content, _ = written("rasa", [Labelled(str(number), "ab"[number % 2]) for number in range(100)])
    assert content.count(b"- intent:") == 2


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(alphabet="'=+-@\t\rab", max_size=8))
def test_a_guarded_cell_begins_no_formula_and_comes_back_as_it_was(cell):
    assert unguarded(guarded(cell)) == cell
    assert guarded(cell)[:1] not in set("=+-@\t\r")


def test_a_cell_that_no_spreadsheet_would_run_is_left_alone():
    for cell in ("'s Morgens", "''quoted''", "a=b", "", "5-3"):
        assert guarded(cell) == cell
        assert unguarded(cell) == cell


def test_a_foreign_cell_loses_its_guard_too(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n\"'=SUM(A1)\",x\n'quoted',x\n")
    assert [row.text for row in read_labelled(tmp_path / "a.csv")] == ["=SUM(A1)", "'quoted'"]


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "out.jsonl"
    with whole_file(path) as out:
        out.write(b"old")

    def break_off():
        with whole_file(path) as out:
            out.write(b"new")
            out.flush()
            assert path.read_bytes() == b"old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_rights_of_any_other_and_an_old_one_keeps_its_own(tmp_path):
    (tmp_path / "other").touch()
    path = tmp_path / "out"
    with whole_file(path) as out:
        out.write(b"x")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    path.chmod(0o640)
    with whole_file(path) as out:
        out.write(b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_same_rows_are_the_same_bytes_also_gzipped(tmp_path):
    for name in ("a.gz", "b.gz"):
        with whole_file(tmp_path / name) as out:
            out.write(b"rows\n" * 100)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4), "the time of writing"
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"rows\n" * 100


def test_a_link_leads_to_its_file_and_a_device_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with whole_file(link) as out:
        out.write(b"x")
    assert link.is_symlink()
    assert target.read_bytes() == b"x"
    from pathlib import Path

    with whole_file(Path("/dev/null")) as out:
        out.write(b"x")
    assert not Path("/dev/null").is_file()


def test_rows_are_written_as_they_come(tmp_path):
    """Nothing waits for the last row, so memory never holds them all."""
    written_before_the_end = {}
    for form in WRITERS:
        out = io.BytesIO()

        def rows(out=out, form=form):
            yield from (Labelled(f"{number}", "a") for number in range(12_000))
            written_before_the_end[form] = out.tell()

        WRITERS[form](rows(), out, Writing())
    assert min(written_before_the_end.values()) > 10_000


def test_a_row_is_what_the_reader_gives(tmp_path):
    (tmp_path / "a").write_bytes(written("labels", [Labelled("x", "a > b")])[0])
    assert list(read_labelled(tmp_path / "a")) == [LabelledRow(1, "x", "a > b")]
