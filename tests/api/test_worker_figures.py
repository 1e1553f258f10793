"""One scrape tells of all workers: counters add up and outlive their worker, gauges are told as they mean it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.api.worker_figures import SUFFIX, WorkerFigures


def _registry() -> tuple[CollectorRegistry, Counter, Histogram, dict[str, Gauge]]:
    registry = CollectorRegistry()
    names = ("intentloop_queue_depth", "intentloop_serving_epoch", "intentloop_serving_error")
    return (
        registry,
        Counter("intentloop_questions", "asked", ["method"], registry=registry),
        Histogram("intentloop_took_seconds", "took", buckets=(0.1, 1.0), registry=registry),
        {name: Gauge(name, name, registry=registry) for name in names},
    )


def _leave(folder: Path, pid: int, *, asked: float, took: float, **gauges: float) -> None:
    """What another worker left."""
    registry, questions, histogram, found = _registry()
    questions.labels("none").inc(asked)
    histogram.observe(took)
    for name, value in gauges.items():
        found[name].set(value)
    other = WorkerFigures(folder, [registry])
    other._file = folder / f"{pid}{SUFFIX}"
    other._leave()


def _told(figures: WorkerFigures) -> dict[Any, float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in figures.families()
        for sample in family.samples
    }


def _ended() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_counters_and_histograms_of_all_workers_add_up_and_gauges_are_told_as_they_mean(tmp_path: Path) -> None:
    registry, questions, histogram, gauges = _registry()
    questions.labels("none").inc(3)
    questions.labels("local_model").inc()
    histogram.observe(0.05)
    gauges["intentloop_queue_depth"].set(2)
    gauges["intentloop_serving_epoch"].set(7)
    figures = WorkerFigures(tmp_path, [registry])
    _leave(
        tmp_path, os.getppid(), asked=4, took=0.5,
        intentloop_queue_depth=5, intentloop_serving_epoch=6, intentloop_serving_error=1,
    )  # fmt: skip

    told = _told(figures)

    assert told["intentloop_questions_total", "none"] == 7
    assert told["intentloop_questions_total", "local_model"] == 1
    assert told["intentloop_took_seconds_bucket", "0.1"] == 1
    assert told["intentloop_took_seconds_bucket", "+Inf"] == 2
    assert told["intentloop_took_seconds_count",] == 2
    assert told["intentloop_queue_depth",] == 7
    assert told["intentloop_serving_epoch",] == 6
    assert told["intentloop_serving_error",] == 1


def test_what_a_dead_worker_had_counted_stays_and_what_it_was_goes(tmp_path: Path) -> None:
    """A sum that fell would be read as a counter that began anew, and the rate as a burst."""
    registry, questions, _, gauges = _registry()
    questions.labels("none").inc(1)
    gauges["intentloop_queue_depth"].set(1)
    _leave(tmp_path, _ended(), asked=10, took=0.5, intentloop_queue_depth=100, intentloop_serving_error=1)

    told = _told(WorkerFigures(tmp_path, [registry]))

    assert told["intentloop_questions_total", "none"] == 11
    assert told["intentloop_queue_depth",] == 1
    assert told["intentloop_serving_error",] == 0


def test_a_file_that_is_not_whole_costs_no_scrape(tmp_path: Path) -> None:
    registry, questions, _, _ = _registry()
    questions.labels("none").inc(2)
    (tmp_path / f"{os.getppid()}{SUFFIX}").write_text('[{"name": ')
    assert _told(WorkerFigures(tmp_path, [registry]))["intentloop_questions_total", "none"] == 2


def test_figures_are_left_once_more_at_the_end(tmp_path: Path) -> None:
    registry, questions, _, _ = _registry()
    figures = WorkerFigures(tmp_path, [registry], every_seconds=600)
    figures.start()
    questions.labels("none").inc(2)
    figures.stop()
    [left] = tmp_path.glob(f"*{SUFFIX}")
    assert left.stem == str(os.getpid())
    assert json.loads(left.read_text())[0]["name"] == "intentloop_questions"
