"""What serving costs beside the bare model: requests per second and latency of `/classify`, durable log and all.

Anchor: a bare server in this file: the same artifact, the same greedy batching, FastAPI and uvicorn with as many
workers; no rules, no masking, no log, no keys, no metrics. It is fair because it is what one would write to put this
model behind HTTP, and well: nothing of ours stands in its way, and it does all that the model itself needs.

Ours is `intentloop serve` as it is shipped: every answer is committed before it leaves (SQLite with synchronous=FULL,
PostgreSQL with fsync), masked, matched against rules, fused and calibrated; and folding into texts goes on beside it.

Load: one process of raw sockets, the same for both sides, on the same machine: 64 clients that keep their connections
and ask again as soon as they have their answer, then one client. Half of the texts were never asked before. Five
interleaved rounds; which side begins changes from round to round; figures are medians over the rounds, ratios are
medians of the ratios of a round.

Two models: MiniLM int8 (`bench/minilm.py`), where the model costs most, and the `ngram` recipe on the bundled sample,
where it costs almost nothing and the log everything. INTENTLOOP_BENCH_ONLY=ngram,sqlite,1 runs what fits.

Afterwards the rows are counted: as many as there were answers.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from app.scorers import load_scorer
from app.serving.batching import GreedyBatcher
from bench.choice import chosen
from bench.load import installation
from bench.load.installation import ROOT, free_port
from bench.result import Bar, CannotRun, Result

ROUNDS: Final = 5
CLIENTS: Final = 64
SECONDS: Final = 4.0
ALONE_SECONDS: Final = 2.0
LEAST_THROUGHPUT: Final = {"minilm": 0.80, "ngram": 0.50}
MOST_P99_RATIO: Final = 1.3
MOST_P50_MS_MORE: Final = 2.0
MODELS: Final = ("minilm", "ngram")
DATABASES: Final = ("sqlite", "postgresql")
WORKERS: Final = (1, 2)
_SHOWN: Final = (("per_second", CLIENTS), ("p50_ms", CLIENTS), ("p99_ms", CLIENTS), ("cpu_ms", CLIENTS), ("p50_ms", 1))
_ARTIFACT: Final = "INTENTLOOP_BENCH_ARTIFACT"
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "INTENTLOOP_THREADS")


# The anchor


class BareQuestion(BaseModel):
    """A question, as one would declare it."""

    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    topk: Annotated[int, Field(ge=1, le=20)] = 3


class BareAnswer(BaseModel):
    """An answer, as one would declare it."""

    label_id: int
    confidence: float
    topk: list[tuple[int, float]]


def bare() -> FastAPI:
    """The artifact behind HTTP, and nothing else."""
    # As many threads as ours is given; a form that cannot use them is not asked.
    named = {"threads": int(os.environ["INTENTLOOP_THREADS"])}
    options: Any = named if "threads" in inspect.signature(load_scorer).parameters else {}
    scorer = load_scorer(Path(os.environ[_ARTIFACT]), **options)

    def work(texts: Sequence[str]) -> list[list[tuple[int, float]]]:
        answers = scorer.probabilities(texts)
        best = (-answers).argsort(axis=1, kind="stable")[:, :20]
        return [[(scorer.label_ids[i], float(row[i])) for i in order] for row, order in zip(answers, best, strict=True)]

    batcher: GreedyBatcher[str, list[tuple[int, float]]] = GreedyBatcher(work, size=32, capacity=1024, name="inference")
    app = FastAPI()

    @app.post("/classify")
    async def classify(question: BareQuestion) -> BareAnswer:
        [topk] = await batcher.submit([question.text])
        if isinstance(topk, BaseException):
            raise topk
        return BareAnswer(label_id=topk[0][0], confidence=topk[0][1], topk=topk[: question.topk])

    return app


# The runs


@dataclass(slots=True)
class Side:
    """A running server, and what was seen of it."""

    name: str
    port: int
    leader: int
    seen: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: {1: [], CLIENTS: []})
    answers: int = 0

    def ask(self, texts: Path, clients: int, seconds: float, seed: int, *, counts: bool = True) -> None:
        """One round of load."""
        command = [sys.executable, "-m", "bench.load.client", "--port", str(self.port), "--clients", str(clients)]
        before = installation.cpu_seconds(self.leader)
        command += ["--seconds", str(seconds), "--texts", str(texts), "--seed", str(seed)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120)
        if done.returncode:
            raise CannotRun(f"the load generator ended with status {done.returncode}: {done.stderr[-500:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        # What other programs do to the clock on the wall, they do not do to this.
        found["cpu_ms"] = (installation.cpu_seconds(self.leader) - before) * 1000 / found["answers"]
        self.answers += found["answers"] - sum(found["errors"].values())
        if counts:
            self.seen[clients].append(found)

    def median(self, figure: str, clients: int) -> float:
        """Over the rounds."""
        return float(statistics.median(found[figure] for found in self.seen[clients]))

    @property
    def errors(self) -> int:
        """Everything that was not a 200."""
        return sum(sum(found["errors"].values()) for founds in self.seen.values() for found in founds)


def run(*, quick: bool) -> Result:
    """Measure every combination of model, database and workers."""
    models, databases, counts = chosen(MODELS, DATABASES, [str(count) for count in WORKERS])
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    with tempfile.TemporaryDirectory(prefix="intentloop-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        postgresql: str | None = None
        for model in models:
            artifact, digest, texts = _artifact(model, folder)
            for database in databases:
                if database == "postgresql" and postgresql is None:
                    postgresql = stack.enter_context(_postgresql())
                for workers in map(int, counts):
                    place = folder / f"{model}-{database}-{workers}"
                    place.mkdir()
                    url = (
                        f"sqlite:///{place / 'intentloop.db'}"
                        if database == "sqlite"
                        else _fresh(postgresql or "", place.name)
                    )
                    installation.install(url, artifact, digest)
                    compared = _compare(place, url, artifact, digest, texts, workers, quick=quick)
                    _report(f"{model}_{database}_{workers}", model, compared, figures, bars)
    return Result(figures, bars)


@dataclass(frozen=True, slots=True)
class Compared:
    """Both sides after their rounds, and what is in the log."""

    bare: Side
    ours: Side
    rows: int
    memory_mb: Sequence[float]


def _compare(place: Path, url: str, artifact: Path, digest: str, texts: Path, workers: int, *, quick: bool) -> Compared:
    store = place / "artifacts"
    store.mkdir()
    shutil.copytree(artifact, store / digest)
    threads = dict.fromkeys(_THREADS, str(max(1, (os.cpu_count() or 1) // workers)))
    bare_port, port = free_port(), free_port()
    rounds, seconds, alone = (2, 1.5, 0.5) if quick else (ROUNDS, SECONDS, ALONE_SECONDS)
    with (
        installation.running(
            ["-m", "bench.serving", str(bare_port), str(workers)],
            bare_port,
            place / "bare.log",
            **{_ARTIFACT: str(artifact)},
            **threads,
        ) as bare_process,
        installation.running(
            ["-m", "app", "serve"],
            port,
            place / "ours.log",
            INTENTLOOP_DATA_DIR=str(place),
            INTENTLOOP_DATABASE_URL=url,
            INTENTLOOP_PORT=str(port),
            INTENTLOOP_WORKERS=str(workers),
            **threads,
        ) as process,
    ):
        bare_side, ours = Side("bare", bare_port, bare_process.pid), Side("ours", port, process.pid)
        for side in (bare_side, ours):
            side.ask(texts, CLIENTS, 1.0, 0, counts=False)
        for number in range(rounds):
            for side in (bare_side, ours) if number % 2 else (ours, bare_side):
                side.ask(texts, CLIENTS, seconds, 1 + number)
                side.ask(texts, 1, alone, 101 + number)
        memory = installation.memory_mb(process.pid)
    return Compared(bare_side, ours, installation.rows(url), memory)


def _report(name: str, model: str, compared: Compared, figures: dict[str, float], bars: dict[str, Bar]) -> None:
    bare_side, ours = compared.bare, compared.ours
    pairs = list(zip(ours.seen[CLIENTS], bare_side.seen[CLIENTS], strict=True))
    ratios = [mine["per_second"] / theirs["per_second"] for mine, theirs in pairs]
    p99_ratio = statistics.median(mine["p99_ms"] / theirs["p99_ms"] for mine, theirs in pairs)
    more = statistics.median(
        mine["p50_ms"] - theirs["p50_ms"] for mine, theirs in zip(ours.seen[1], bare_side.seen[1], strict=True)
    )
    for side in (bare_side, ours):
        for figure, clients in _SHOWN:
            figures[f"{name}_{side.name}_{figure}_{clients}"] = round(side.median(figure, clients), 3)
    figures[f"{name}_throughput_ratio_least"] = round(min(ratios), 3)
    figures[f"{name}_throughput_ratio_most"] = round(max(ratios), 3)
    figures[f"{name}_cpu_ratio"] = round(bare_side.median("cpu_ms", CLIENTS) / ours.median("cpu_ms", CLIENTS), 3)
    figures[f"{name}_memory_mb"] = round(sum(compared.memory_mb), 1)
    ratio = statistics.median(ratios)
    bars[f"{name}_throughput_ratio"] = Bar(round(ratio, 3), at_least=LEAST_THROUGHPUT[model])
    bars[f"{name}_p99_ratio"] = Bar(round(p99_ratio, 3), at_most=MOST_P99_RATIO)
    bars[f"{name}_p50_ms_more_at_1_client"] = Bar(round(more, 3), at_most=MOST_P50_MS_MORE)
    bars[f"{name}_errors"] = Bar(bare_side.errors + ours.errors, at_most=0)
    bars[f"{name}_rows_beside_answers"] = Bar(abs(compared.rows - ours.answers), at_most=0)
    print(f"{name}: ratio {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), p99 {p99_ratio:.2f} ×")
    for side in (bare_side, ours):
        shown = ", ".join(f"{figure} at {clients} {side.median(figure, clients):.2f}" for figure, clients in _SHOWN)
        print(f"  {side.name}: {shown}; answers {side.answers}, errors {side.errors}")
    memory = ", ".join(f"{found:.0f}" for found in compared.memory_mb)
    print(f"  rows {compared.rows}; memory of each process of ours (MiB): {memory}", flush=True)


# What they run on


def _artifact(model: str, folder: Path) -> tuple[Path, str, Path]:
    """The artifact's folder, its digest, and a file of texts, one a line."""
    if model == "ngram":
        artifact, texts = installation.train_ngram(folder / model), installation.sample_texts()
        digest = hashlib.sha256((artifact / "manifest.json").read_bytes()).hexdigest()
    else:
        try:
            minilm: Any = importlib.import_module("bench.minilm")
        except ImportError as error:
            raise CannotRun(f"MiniLM cannot be exported here: {error}") from error
        store = folder / model
        store.mkdir()
        digest = minilm.artifact(store)
        artifact, texts = store / digest, minilm.questions()
    listed = folder / f"{model}.txt"
    listed.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return artifact, digest, listed


@contextmanager
def _postgresql() -> Iterator[str]:
    try:
        from tests.servers import postgresql
    except ImportError as error:
        raise CannotRun(f"the servers of the tests are needed to start PostgreSQL: {error}") from error
    with postgresql(fsync=True) as url:
        yield url


def _fresh(url: str, name: str) -> str:
    from sqlalchemy import text

    from app.db.session import connect

    named = name.replace("-", "_")
    engine = connect(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {named}"))
    engine.dispose()
    return f"{url.rpartition('/')[0]}/{named}"


def main() -> None:
    """Run the bare server: `python -m bench.serving PORT WORKERS`."""
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(
        "bench.serving:bare",
        factory=True,
        port=port,
        workers=workers,
        access_log=False,
        log_level="warning",
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
