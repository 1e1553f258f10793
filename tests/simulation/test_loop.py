"""The loop, played on a small part of the sample against a service and a clock of its own."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import sample
from app.cli import app
from app.simulation.client import Client, LoopFailed
from app.simulation.loop import Plan, default_batch_size, measure, play, settings
from app.simulation.service import running_service
from tests.pretrained import bert

ROWS = [row for row in sample.questions() if row.label.startswith(("硬件故障", "其他"))]
TRAIN, TEST = ROWS[:240], ROWS[240:300]
BATCH = 80
TWO = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'


class Notes:
    """Hears the loop and remembers."""

    def __init__(self):
        self.heard = Counter()
        self.points = []

    def stage(self, name, _total=None):
        self.heard[name] += 1

    def advance(self, steps):
        self.heard["steps"] += steps

    def progress(self, _name, done):
        assert 0.0 <= done <= 1.0

    def measured(self, point):
        self.points.append(point)

    def refused(self, _batch, reason):
        assert reason


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The outcome of one whole loop, its notes, and the service that is still there to be asked."""
    with (
        running_service(tmp_path_factory.mktemp("loop"), settings(BATCH)) as service,
        Client(service.address).open() as client,
    ):
        notes = Notes()
        outcome = play(client, Plan(TRAIN, TEST, BATCH), notes)
        yield outcome, notes, client


def test_all_labels_are_given_trained_and_measured_without_a_failed_request(played):
    outcome, notes, client = played
    stats = client.stats()
    assert outcome.labels == len(TRAIN) == stats["texts_labelled"]
    assert client.failed == 0, client.failures
    assert outcome.versions == len(stats["versions"]) >= 3
    assert stats["next_batch"]["labels_new"] == 0
    assert notes.points == outcome.curve.points
    assert outcome.curve.last.labels == len(TRAIN)


def test_what_was_learned_is_far_better_than_guessing(played):
    outcome, _, _ = played
    most_common = Counter(row.label for row in TEST).most_common(1)[0][1] / len(TEST)
    assert outcome.curve.last.scores.accuracy > most_common + 0.2


def test_test_texts_are_never_queued_labelled_or_trained(played):
    _, _, client = played
    stats = client.stats()
    assert stats["queue"] == 0
    assert stats["texts"] == len(TRAIN) + len(TEST)
    assert sum(stats["by_label"].values()) == len(TRAIN)
    newest = client.newest_batch()
    assert newest["question_count"] + newest["replay_count"] + newest["gold_count"] == len(TRAIN)


def test_a_version_that_is_not_served_is_waited_for_and_named(played, monkeypatch):
    _, _, client = played
    monkeypatch.setattr("app.simulation.loop.FLIP_SECONDS", 0.2)
    with pytest.raises(LoopFailed, match="the service to serve no-such-version"):
        measure(client, TEST, version="no-such-version", watch=Notes())


def test_a_taxonomy_that_the_service_refuses_ends_the_loop_with_its_reason(played):
    _, _, client = played
    bad = [row.__class__(row.line, row.text, label) for row, label in zip(TRAIN[:2], ("a", "a > b"), strict=True)]
    with pytest.raises(LoopFailed, match="is a label and also has"):
        play(client, Plan(bad, TEST, BATCH), Notes())


def test_default_batch_is_the_products_or_eight_percent():
    assert [default_batch_size(size) for size in (10, 1_250, 1_251, 15_000)] == [100, 100, 101, 1_200]


def write(path, rows):
    path.write_text("\n".join(json.dumps({"text": row.text, "label": row.label}) for row in rows))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def test_simulate_ends_with_one_line_of_json_and_a_plot(tmp_path):
    train, test = write(tmp_path / "train.jsonl", TRAIN[:120]), write(tmp_path / "test.jsonl", TEST)
    with train.open("a") as file:
        file.write('\n{"text": 5}\n')
    options = ["--train", train, "--test", test, "--batch-size", 40, "--max-labels", 60, "--json"]
    ended = run(*options, "--plot", tmp_path / "curve.svg", "--data-dir", tmp_path / "data")
    assert ended.exit_code == 0, ended.stderr
    [line] = ended.stdout.splitlines()
    figures = json.loads(line)
    assert list(figures) == ["accuracy", "macro_f1", "labels", "versions", "failed_requests", "curve"]
    assert (figures["labels"], figures["failed_requests"]) == (60, 0)
    assert figures["curve"][-1] == [60, figures["accuracy"]]
    assert "1 rows left out; the first: line 121: " in ended.stderr
    assert (tmp_path / "curve.svg").stat().st_size > 1000
    assert (tmp_path / "data" / "intentloop.db").exists()

    again = run(*options, "--data-dir", tmp_path / "data")
    assert again.exit_code == 2
    assert "holds a database already" in again.stderr


def test_a_frozen_encoder_learns_in_the_loop_and_serves_without_a_failed_request(tmp_path):
    train, test = write(tmp_path / "train.jsonl", TRAIN[:120]), write(tmp_path / "test.jsonl", TEST)
    recipe = ["--recipe", "head", "--base", bert(tmp_path / "tiny")]
    ended = run(
        "--train", train, "--test", test, "--batch-size", 50, "--json", "--data-dir", tmp_path / "data", *recipe
    )
    assert ended.exit_code == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert (figures["labels"], figures["failed_requests"]) == (120, 0)
    assert figures["accuracy"] > 0.3, "random weights know the characters all the same"
    with sqlite3.connect(tmp_path / "data" / "intentloop.db") as database:
        assert database.execute("SELECT DISTINCT recipe FROM intent_model_versions").fetchall() == [("head",)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", [], "is empty"),
        ("question,answer\n1,2\n", [], "neither JSON nor CSV"),
        ('{"text": 1}\n', [], "has no row that can be used; the first: line 1: "),
        ('{"text": "a", "label": "x"}\n', [], "has one label"),
        ('{"text": "a", "label": "x"}\n', ["--plot", "curve.gif"], "not as .gif"),
        ('{"text": "a", "label": "x"}\n', ["--batch-size", "1"], "batch-size"),
        (TWO, ["--recipe", "head"], "--base"),
        (TWO, ["--recipe", "lora", "--base", "."], "no recipe 'lora' to simulate"),
        (TWO, ["--recipe", "head", "--base", "nowhere"], "is not here"),
    ],
)
def test_simulate_refuses_wrong_files_and_options_with_status_2(tmp_path, content, options, message):
    train = tmp_path / "train.jsonl"
    train.write_text(content)
    ended = run("--train", train, "--test", train, *options)
    assert ended.exit_code == 2
    assert message in ended.stderr
    assert ended.stdout == ""


def test_simulate_that_is_stopped_leaves_no_process_and_no_folder(tmp_path):
    train = write(tmp_path / "train.jsonl", TRAIN)
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "simulate", "--train", str(train), "--test", str(train)],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(processes_within(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(processes_within(folder)) >= 3, "up, the service and the clock"
    process.terminate()
    assert process.wait(60) != 0
    assert processes_within(folder) == []
    assert list(folder.glob("intentloop-simulate-*")) == []


def processes_within(folder):
    """The processes whose working directory lies in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return found
