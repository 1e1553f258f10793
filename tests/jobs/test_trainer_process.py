"""Every way in which a trainer can end, in words: real processes, real signals, real limits."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.trainer_process import TrainerFailed, TrainerStopped, train
from tests.journeys.processes import ROOT, pids
from tests.journeys.worlds import LABELS, texts_of

LONG = {"folds": 20, "strengths": [n / 4 for n in range(1, 120)], "tolerance": 1e-6}


def write_spec(
    folder: Path, config: dict | None = None, labels: int = 3, each: int = 12, recipe: str = "ngram"
) -> Path:
    rows = [
        {"text_id": place * 100 + number, "text": text, "label": place + 1}
        for place, label in enumerate(LABELS[:labels])
        for number, text in enumerate(texts_of(label, each))
    ]
    (folder / "examples.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    spec = {
        "recipe": recipe, "labels": [{"id": place + 1, "path": label} for place, label in enumerate(LABELS)],
        "examples": "examples.jsonl", "references": list(LABELS), "config": config or {}, "seed": 0,
        "taxonomy_digest": "", "items_digest": "",
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec, ensure_ascii=False))
    return folder / "spec.json"


def run(spec: Path, *, wanted=lambda: True, timeout_seconds: float = 60.0, said: list | None = None, recipe="ngram"):
    noted = said if said is not None else []
    train(
        recipe, spec, spec.parent / "artifact", wanted=wanted, timeout_seconds=timeout_seconds,
        progress=lambda progress, stage: noted.append((progress, stage)),
    )  # fmt: skip


def trainers(folder: Path) -> list[int]:
    mark = os.fsencode(folder)
    return [pid for pid in pids() if mark in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_good_training_says_how_far_it_is_and_leaves_an_artifact(tmp_path):
    said = []
    run(write_spec(tmp_path), said=said)
    assert (tmp_path / "artifact" / "manifest.json").exists()
    assert [progress for progress, _ in said] == sorted(progress for progress, _ in said)
    assert said[0][0] == 0.0
    assert said[-1] == (1.0, "done")
    assert len({stage for _, stage in said}) >= 4


def test_one_class_is_one_sentence(tmp_path):
    with pytest.raises(TrainerFailed, match=r"^training needs two labels with at least 2 texts each; .* have 1$"):
        run(write_spec(tmp_path, labels=1))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"folds": 1}, "folds"),
        ({"fold": 5}, "fold"),
        ({"strengths": "many"}, "strengths"),
        ({"folds": "x" * 9}, "folds"),
    ],
)
def test_a_bad_config_is_one_sentence_that_names_it(tmp_path, config, word):
    with pytest.raises(TrainerFailed, match=word) as caught:
        run(write_spec(tmp_path, config))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_unknown_recipe_is_one_sentence(tmp_path):
    with pytest.raises(TrainerFailed, match="invalid choice: 'alchemy'"):
        run(write_spec(tmp_path), recipe="alchemy")


def test_running_out_of_memory_is_said_in_these_words(tmp_path):
    spec = write_spec(tmp_path)
    # Thousands of labels with words of their own: the weights alone are larger than the limit.
    labels = [{"id": number + 1, "path": f"label {number}"} for number in range(3000)]
    rows = []
    for number in range(6000):
        words = " ".join(f"w{number * 40 + offset}" for offset in range(40))
        rows.append(json.dumps({"text_id": number + 1, "text": words, "label": number // 2 + 1}))
    (tmp_path / "examples.jsonl").write_text("\n".join(rows) + "\n")
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"labels": labels}))
    # The limit is set in a process of its own, and the trainer inherits it.
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(spec), str(tmp_path / "artifact")],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
    )  # fmt: skip
    assert ended.stdout.startswith("the trainer ran out of memory"), ended
    assert not trainers(tmp_path)


LIMITED = """
import pathlib, resource, sys
from jobs.trainer_process import TrainerFailed, train
resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000, resource.getrlimit(resource.RLIMIT_AS)[1]))
spec, out = map(pathlib.Path, sys.argv[1:])
try:
    train("ngram", spec, out, progress=lambda *_: None, wanted=lambda: True, timeout_seconds=100)
except TrainerFailed as error:
    print(error)
"""


def test_a_killed_trainer_is_named_with_its_signal(tmp_path):
    for number, words in ((signal.SIGKILL, "signal 9.*out of memory"), (signal.SIGSEGV, "died by signal 11")):
        folder = tmp_path / str(number)
        folder.mkdir()
        said: list = []
        victim = threading.Thread(target=kill_once_it_says_something, args=(folder, said, number))
        victim.start()
        with pytest.raises(TrainerFailed, match=words):
            run(write_spec(folder, LONG), said=said)
        victim.join()


def kill_once_it_says_something(folder: Path, said: list, number: int) -> None:
    while not said:
        time.sleep(0.01)
    for pid in trainers(folder):
        os.kill(pid, number)


def test_a_trainer_that_takes_too_long_is_stopped(tmp_path):
    begun = time.monotonic()
    with pytest.raises(TrainerFailed, match=r"stopped after 2 s \(train_timeout_seconds\)"):
        run(write_spec(tmp_path, LONG), timeout_seconds=2.0)
    assert time.monotonic() - begun < 9
    assert not trainers(tmp_path)


def test_a_trainer_that_hangs_and_hears_no_sigterm_is_killed(tmp_path):
    said: list = []
    spec = write_spec(tmp_path, LONG)

    def freeze() -> None:
        while not said:
            time.sleep(0.01)
        for pid in trainers(tmp_path):
            os.kill(pid, signal.SIGSTOP)

    freezer = threading.Thread(target=freeze)
    freezer.start()
    begun = time.monotonic()
    with pytest.raises(TrainerFailed, match="train_timeout_seconds"):
        run(spec, timeout_seconds=3.0, said=said)
    freezer.join()
    assert time.monotonic() - begun < 20
    assert not trainers(tmp_path)


def test_a_trainer_that_is_no_longer_wanted_is_stopped_at_once(tmp_path):
    said: list = []
    begun = time.monotonic()
    with pytest.raises(TrainerStopped):
        run(write_spec(tmp_path, LONG), said=said, wanted=lambda: not said)
    assert time.monotonic() - begun < 15
    assert not trainers(tmp_path)


def test_the_trainer_is_given_neither_the_database_nor_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("INTENTLOOP_DATABASE_URL", "postgresql://user:swordfish@db/intentloop")
    monkeypatch.setenv("INTENTLOOP_SECRET_KEY", "swordfish")
    seen: list[bytes] = []
    said: list = []

    def look() -> bool:
        if said and not seen:
            seen.extend(Path(f"/proc/{pid}/environ").read_bytes() for pid in trainers(tmp_path))
        return not seen

    with pytest.raises(TrainerStopped):
        run(write_spec(tmp_path, LONG), said=said, wanted=look)
    assert seen
    assert all(b"swordfish" not in environment and b"PYTHONHASHSEED=0" in environment for environment in seen)


def test_a_trainer_that_takes_more_memory_than_it_may_fails_in_words(tmp_path):
    # Numpy alone does not load in so little.
    with pytest.raises(TrainerFailed, match=r"ran out of memory|ended with status|died by signal"):
        train(
            "ngram", write_spec(tmp_path), tmp_path / "artifact", wanted=lambda: True, timeout_seconds=60.0,
            progress=lambda *_: None, memory_mb=96,
        )  # fmt: skip
    assert not trainers(tmp_path)


def test_a_trainer_is_bounded_and_steps_back_behind_the_service(tmp_path):
    said: list = []
    seen: list[tuple[int, tuple[int, int]]] = []
    # Its own doing: ten behind whoever started it.

    def look() -> bool:
        if said and not seen:
            seen.extend(
                (os.getpriority(os.PRIO_PROCESS, pid), resource.prlimit(pid, resource.RLIMIT_AS))
                for pid in trainers(tmp_path)
            )
        return not seen

    with pytest.raises(TrainerStopped):
        train(
            "ngram", write_spec(tmp_path, LONG), tmp_path / "artifact", wanted=look, timeout_seconds=60.0,
            progress=lambda *given: said.append(given), memory_mb=4096,
        )  # fmt: skip
    assert seen
    assert set(seen) == {(os.getpriority(os.PRIO_PROCESS, 0) + 10, (4096 * 2**20, 4096 * 2**20))}
