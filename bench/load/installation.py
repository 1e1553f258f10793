"""An installation to put under load: a migrated database, one activated artifact with rules, its processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import ModelVersion, UserQuestion
from app.intent.fusion import fallback_fusion
from app.intent.taxonomy import parse_taxonomy
from app.scorers.artifact import read_manifest
from app.services import activations, domains, rule_sets, rule_wording, rules, taxonomy
from app.services.activations import Pairing
from app.services.audit import Actor
from app.services.domains import DEFAULT
from bench.result import CannotRun

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "app" / "sample"
THRESHOLD = 0.7
START_SECONDS = 60.0
BENCH = Actor("bench")


def sample_texts() -> list[str]:
    """What is asked in the bundled sample domain."""
    lines = (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["text"]) for line in lines]


def train_ngram(folder: Path) -> Path:
    """An artifact of the `ngram` recipe for the sample domain, its label ids counted from 1."""
    rows = [json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    paths = sorted({" > ".join(row["labels"]) for row in rows})
    ids = {path: number for number, path in enumerate(paths, 1)}
    examples = [
        {"text_id": number, "text": row["text"], "label": ids[" > ".join(row["labels"])]}
        for number, row in enumerate(rows, 1)
    ]
    folder.mkdir(parents=True)
    lines = (json.dumps(example, ensure_ascii=False) for example in examples)
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = {
        "recipe": "ngram",
        "labels": [{"id": number, "path": path} for path, number in ids.items()],
        "examples": "examples.jsonl",
        "references": paths[:16],
        "config": {},
        "seed": 0,
        "taxonomy_digest": "",
        "items_digest": "",
    }
    (folder / "spec.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    command = [sys.executable, "-m", "trainer", "ngram", "--spec", str(folder / "spec.json")]
    trained = subprocess.run([*command, "--out", str(folder / "artifact")], cwd=ROOT, capture_output=True, text=True)
    if trained.returncode:
        raise CannotRun(f"the trainer ended with status {trained.returncode}: {trained.stderr[-500:]}")
    return folder / "artifact"


def install(url: str, artifact: Path, digest: str) -> None:
    """Migrate the database, and let this artifact serve with the sample's rules, where it knows their labels."""
    engine = connect(url)
    migrate(engine)
    work = UnitOfWork(engine)
    work(domains.ensure_default)
    work(_activate, artifact, digest)
    engine.dispose()


def _activate(session: Session, artifact: Path, digest: str) -> None:
    manifest = read_manifest(artifact)
    domain = domains.locked(session, DEFAULT)
    labels = taxonomy.replace(session, domain, parse_taxonomy(list(manifest.label_paths)))
    if tuple(label.id for label in labels) != manifest.label_ids:
        raise CannotRun("the artifact's labels are not numbered from 1 in the order of its manifest")
    written: list[dict[str, Any]] = yaml.safe_load((SAMPLE / "rules.yaml").read_text(encoding="utf-8"))
    known = [rule for rule in written if rule["intent"] in manifest.label_paths]
    # Rules of the sample say nothing about another taxonomy: there they only have to be looked for.
    for number, rule in enumerate(known or written):
        intent = rule["intent"] if known else manifest.label_paths[number % len(manifest.label_paths)]
        wording = rule_wording.read(
            rule["keyword"], rule.get("all_of", ()), rule.get("none_of", ()), rule.get("pattern")
        )
        rules.create(session, DEFAULT, wording, intent=intent, by=BENCH)
    active = rule_sets.active_rules(session, domain.id)
    frozen = rule_sets.freeze(session, domain, active)
    version = ModelVersion(
        domain_id=domain.id,
        version="default-v1",
        recipe=manifest.recipe,
        model_path=str(artifact),
        artifact_digest=digest,
        status="passed",
        evaluation={},
        threshold=THRESHOLD,
    )
    session.add(version)
    session.flush()
    fusion = fallback_fusion(active, manifest.label_ids).as_json()
    activations.flip(session, domain, version, Pairing(THRESHOLD, frozen.revision, fusion), by="bench", reason="bench")


def rows(url: str) -> int:
    """How many questions are in the log."""
    engine = connect(url)
    counted = UnitOfWork(engine).read(lambda session: session.scalar(select(func.count()).select_from(UserQuestion)))
    engine.dispose()
    return counted or 0


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a group of processes, from when it listens on the port until the block ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTENTLOOP_")}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=log.parent,
            env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _wait_until_it_listens(process, port, log)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotRun(f"a server did not start: {log.read_text(errors='replace')[-500:]}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)


def memory_mb(leader: int) -> list[float]:
    """The proportional memory (PSS, MiB) of this process and of each that it started, itself first."""
    found = []
    for entry in _group(leader):
        with suppress(OSError):
            line = next(line for line in (entry / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
            found.append(int(line.split()[1]) / 1024)
    return found


def cpu_seconds(leader: int) -> float:
    """What this process and the living ones that it started have taken of the processor until now."""
    ticks = 0
    for entry in _group(leader):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _group(leader: int) -> list[Path]:
    """The processes that this one started, and those that they did, itself first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [leader]
    for pid in found:
        found.extend(sorted(child for child, parent in parents.items() if parent == pid))
    return [Path("/proc") / str(pid) for pid in found]
