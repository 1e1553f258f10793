"""Labelled texts in and out by command: round trips, the report of each row, breaks, and files that mean harm."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from app.db.sqlite_library import DRIVER
from app.exchange.writing import WRITERS
from tests.exchange.test_writing import ODD

LABELS = ["硬件故障 > 电源问题 > 无法开机", "物流 > 快递延误", "=其他事", "其他"]


@pytest.fixture
def moved(run, empty_folder, monkeypatch):
    """Move to another, fresh database."""

    def move(name):
        monkeypatch.setenv("INTENTLOOP_DATA_DIR", str(empty_folder / name))
        assert run("migrate").status == 0
        return run

    return move


def write_rows(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    return path


def bring(run, path, *options):
    said = run("import", path, "--create-labels", "--json", *options)
    assert said.json["refused"] == [], said
    return said.json["counts"]


def odd_rows():
    return [
        {"text": text, "label": LABELS[number % 4]} for number, text in enumerate([*ODD, "a\n b\t c", "\ufeffＡ＝"])
    ]


@pytest.mark.parametrize(("form", "packed"), [*((form, False) for form in WRITERS), ("labels", True), ("rasa", True)])
def test_what_is_exported_comes_back_as_it_was(moved, empty_folder, form, packed):
    run = moved("first")
    bring(run, write_rows(empty_folder / "odd.jsonl", odd_rows()))
    there = empty_folder / ("there" + ".gz" * packed)
    said = run("export", "--output", there, "--format", form, "--json")
    assert said.json == {"written": len(ODD) + 2, "left_out": {}}
    labels = run("export").out

    run = moved("second")
    assert bring(run, there) == {"imported": len(ODD) + 2}
    back = empty_folder / ("back" + ".gz" * packed)
    assert run("export", "--output", back, "--format", form).status == 0
    assert back.read_bytes() == there.read_bytes()
    assert run("export").out == labels
    # Nothing is new, and nothing is another's.
    assert bring(run, there) == {"duplicate": len(ODD) + 2}


def test_proposals_come_back_too(moved, empty_folder):
    rows = [{"text": "一", "labels": ["其他"], "proposed_label": "网络 > 掉线"}, {"text": "二", "labels": ["其他"]}]
    for form in ("labels", "parquet"):
        run = moved(f"first-{form}")
        bring(run, write_rows(empty_folder / "rows.jsonl", rows))
        run("export", "-o", empty_folder / "there", "--format", form)
        run = moved(f"second-{form}")
        bring(run, empty_folder / "there")
        exported = [json.loads(line) for line in run("export").out.splitlines()]
        assert sorted(exported, key=lambda row: row["text"]) == rows
    assert run("export", "--format", "csv").out.splitlines() == ["user_input,intent_code", "二,其他"]
    assert "left out: 1 proposed" in run("export", "--format", "csv").err


def test_a_report_says_what_became_of_each_row_and_never_what_it_says(migrated, empty_folder):
    rows = [
        {"data": {"text": "充不进电"}, "annotations": [{"result": [{"value": {"choices": ["a"]}}]}]},
        {"data": {"text": "还没人看过"}, "annotations": []},
        {"text": "充不进电", "label": "a"},
        {"text": "充不进电", "label": "b"},
        {"text": "快递没到", "label": "b > c"},
        {"text": "快递没到", "label": ["b", "c"]},
    ]
    path, report = write_rows(empty_folder / "mixed.jsonl", rows), empty_folder / "report.jsonl"
    said = migrated("import", path, "--create-labels", "--report", report)
    assert said.status == 1
    assert said.out.splitlines() == [
        "1 conflict, 1 duplicate, 1 ignored, 1 imported, 2 refused",
        "  line 5: the label can be none: it would lie inside another one, or another inside it",
        "  line 6: label holds 2 labels, and a single-label domain takes one",
    ]
    reported = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(row["line"], row["status"]) for row in reported] == [
        (1, "imported"), (2, "ignored"), (3, "duplicate"), (4, "conflict"), (5, "refused"), (6, "refused"),
    ]  # fmt: skip
    assert reported[3]["reason"] == "the text has another label: a"
    assert "充" not in report.read_text()
    assert "快递" not in report.read_text()


def test_rows_without_a_label_are_no_failure(migrated, empty_folder):
    path = write_rows(empty_folder / "tasks.jsonl", [{"data": {"text": "x"}, "annotations": []}] * 3)
    said = migrated("import", path)
    assert (said.status, said.out) == (0, "3 ignored\n")


def test_an_import_stands_in_the_audit_trail_once_with_its_counts(migrated, empty_folder):
    path = write_rows(empty_folder / "秘密 rows.jsonl", [{"text": f"第{n}句", "label": "a"} for n in range(1200)])
    bring(migrated, path)
    with DRIVER.connect(empty_folder / "data" / "intentloop.db") as connection:
        rows = connection.execute("SELECT actor, action, subject, after FROM intent_audit_events").fetchall()
    assert [(*row[:3], json.loads(row[3])) for row in rows] == [
        ("command line", "labels.import", "秘密 rows.jsonl", {"imported": 1200})
    ]


def test_a_file_that_breaks_off_is_reported_and_what_came_before_is_in(migrated, empty_folder):
    lines = "".join(json.dumps({"text": f"{n * 7919 % 10_007} 句", "label": "a"}) + "\n" for n in range(5000))
    path = empty_folder / "cut.jsonl.gz"
    packed = gzip.compress(lines.encode())
    path.write_bytes(packed[: len(packed) * 2 // 3])
    said = migrated("import", path, "--create-labels")
    assert (said.status, len(said.sentences)) == (1, 1)
    assert "not a whole gzip file" in said.sentences[0]
    with DRIVER.connect(empty_folder / "data" / "intentloop.db") as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM intent_texts").fetchall()
        ((after,),) = connection.execute("SELECT after FROM intent_audit_events").fetchall()
    assert count > 1000
    assert json.loads(after) == {"imported": count}


HOSTILE = [
    b"{", b'{"text": "a\\u0000", "label": "a"}', b"\xff\xfe\xfd", b'{"text": 5, "label": "a"}', b'["a"]',
    b'{"text": "   ", "label": "a"}', ('{"text": "' + "长" * 20_001 + '", "label": "a"}').encode(),
    b'{"text":' + b"[" * 5000,
    b'{"text": "a", "label": "\\ud800"}', b'{"text": "a", "label": null}', b'{"text": "a", "label": ["a", "b"]}',
    b'{"text": "a", "label": "' + b"x" * 300 + b'"}', b'{"text": "' + b"a" * (1 << 20) + b'", "label": "a"}',
    b'{"text": "a", "label": NaN}', b'{"data": {"text": "a"}, "annotations": 5}', b"\x00\x01\x02",
]  # fmt: skip


def test_one_row_in_twenty_that_means_harm_stops_none_of_the_others(migrated, empty_folder):
    path, report = empty_folder / "hostile.jsonl", empty_folder / "report.jsonl"
    count = 10_000
    bad = {number for number in range(1, count + 1) if number % 20 == 7}
    with path.open("wb") as file:
        for number in range(1, count + 1):
            good = json.dumps({"text": f"第{number}句，好的", "label": f"类{number % 15}"}).encode()
            file.write((HOSTILE[number // 20 % len(HOSTILE)] if number in bad else good) + b"\n")
    said = migrated("import", path, "--create-labels", "--report", report, "--json")
    assert said.json["counts"] == {"imported": count - len(bad), "refused": len(bad)}
    reported = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["line"] for row in reported] == list(range(1, count + 1))
    assert {row["line"] for row in reported if row["status"] == "refused"} == bad
    assert all(row["reason"] for row in reported if row["status"] == "refused")
    again = migrated("import", path, "--create-labels", "--json")
    assert again.json["counts"] == {"duplicate": count - len(bad), "refused": len(bad)}


def test_an_import_that_was_killed_and_run_again_is_as_if_it_had_not_been(moved, empty_folder):
    rows = [{"text": f"第{number}句", "label": f"类{number % 7}"} for number in range(3000)]
    path, report = write_rows(empty_folder / "rows.jsonl", rows), empty_folder / "report.jsonl"
    run = moved("whole")
    bring(run, path)
    whole = run("export").out

    run = moved("broken")
    command = [sys.executable, "-m", "app", "import", str(path), "--create-labels", "--report", str(report)]
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        # Until the first slices are in.
        while running.poll() is None and (not report.exists() or report.stat().st_size == 0):
            time.sleep(0.005)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    # Behind the last slice that is in; the rows before it are told of as they were.
    assert bring(run, path) == {"imported": 3000}
    assert run("export").out == whole


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,label\n" + "打开浏览器,应用\n" * 5, "looks like GBK"),
        ("a.yml", "nlu:\n- &a {intent: x, examples: '- y'}\n- *a\n", "YAML alias"),
        ("a.parquet", "PAR1 not at all", "no Parquet file that can be read"),
        ("a.json", "[]x", None),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(migrated, empty_folder, name, content, sentence):
    path = empty_folder / name
    path.write_bytes(content.encode("gbk"))
    said = migrated("import", path, "--create-labels")
    if sentence is None:
        assert (said.status, said.out) == (0, "The file is empty.\n")
    else:
        assert (said.status, len(said.sentences)) == (1, 1)
        assert sentence in said.sentences[0]


@pytest.mark.parametrize(
    "arguments",
    [("import", "rows.jsonl", "--format", "xml"), ("import", "rows.jsonl", "--report", "rows.jsonl"),
     ("export", "--format", "xml"), ("export", "--split", "some"), ("export", "--since", "yesterday"),
     ("export", "--json"),
     ("export", "--format", "rasa", "--include-count"), ("export", "--output", ".")],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_call_ends_with_status_2_and_changes_nothing(migrated, empty_folder, arguments):
    path = write_rows(empty_folder / "rows.jsonl", [{"text": "x", "label": "a"}])
    before = path.read_bytes()
    assert migrated(*arguments).status == 2
    assert path.read_bytes() == before


def test_the_name_of_a_file_says_its_form(migrated, empty_folder):
    bring(migrated, write_rows(empty_folder / "rows.jsonl", [{"text": "开不了机", "label": "a"}]))
    for name, begins in [("a.csv", "user_input"), ("a.yml", "version"), ("a.json", "{"), ("a.csv.gz", "user_input")]:
        assert migrated("export", "-o", empty_folder / name).out == "1 texts written\n"
        content = (empty_folder / name).read_bytes()
        assert (gzip.decompress(content) if name.endswith(".gz") else content).decode().startswith(begins)
    migrated("export", "-o", empty_folder / "a.parquet")
    assert (empty_folder / "a.parquet").read_bytes().startswith(b"PAR1")


def test_an_export_takes_what_was_asked_for(migrated, empty_folder):
    bring(migrated, write_rows(empty_folder / "rows.jsonl", [{"text": f"第{n}句", "label": "a"} for n in range(60)]))
    splits = {split: migrated("export", "--split", split).out.splitlines() for split in ("all", "train", "gold")}
    assert sorted(splits["train"] + splits["gold"]) == sorted(splits["all"])
    assert len(splits["gold"]) > 0
    assert migrated("export", "--since", "2999-01-01").out == ""
    assert len(migrated("export", "--since", "2020-01-01T08:00+08:00").out.splitlines()) == 60
    line = migrated(
        "export", "--format", "instruction", "--instruction", "选一个标签", "--include-count"
    ).out.splitlines()[0]
    assert set(json.loads(line)) == {"instruction", "input", "output", "count"}
    assert json.loads(line)["instruction"] == "选一个标签"
    assert migrated("export", "--domain", "none").status == 1


def test_an_export_that_fails_leaves_the_old_file_and_no_other(migrated, empty_folder):
    bring(migrated, write_rows(empty_folder / "rows.jsonl", [{"text": "x", "label": "a"}]))
    old = empty_folder / "out" / "old.jsonl"
    old.parent.mkdir()
    old.write_text("old")
    with DRIVER.connect(empty_folder / "data" / "intentloop.db") as connection:
        connection.execute("ALTER TABLE intent_texts RENAME COLUMN proposed_label TO gone")
    said = migrated("export", "-o", old)
    assert (said.status, len(said.sentences)) == (1, 1)
    assert [path.read_text() for path in old.parent.iterdir()] == ["old"]
    said = migrated("export", "-o", empty_folder / "nowhere" / "a.jsonl")
    assert (said.status, len(said.sentences)) == (1, 1)


def test_a_reader_that_has_seen_enough_ends_the_export_quietly(migrated, empty_folder):
    bring(
        migrated, write_rows(empty_folder / "rows.jsonl", [{"text": f"第{n}句" * 9, "label": "a"} for n in range(3000)])
    )
    # Unbuffered, nothing would be left to write when the pipe is closed.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    running = subprocess.Popen([sys.executable, "-m", "app", "export"], env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert running.stdout.readline().startswith(b'{"text"')
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait() == 0


def test_without_the_extra_parquet_is_one_sentence(migrated, empty_folder, monkeypatch):
    bring(migrated, write_rows(empty_folder / "rows.jsonl", [{"text": "x", "label": "a"}]))
    assert migrated("export", "-o", empty_folder / "a.parquet").status == 0
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    for command in (("import", empty_folder / "a.parquet"), ("export", "-o", empty_folder / "b.parquet")):
        said = migrated(*command)
        assert (said.status, len(said.sentences)) == (1, 1)
        assert "install intentloop[parquet]" in said.sentences[0]
    assert not (empty_folder / "b.parquet").exists()
