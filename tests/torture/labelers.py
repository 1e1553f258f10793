"""Fifty labelers who abandon, come late, send twice and hang up: nothing is given to too many, no answer is lost.

On each database, once with one person for each text and once with two (blind answers): leases are short, and what
becomes of what a labeler was given is `bench.load.labelers.MISCHIEF`. Meanwhile the database is looked at again and
again: a text is never held by, or answered blind of, more people than are to answer it. At the end every text has its
answers, every 200 is one row, no row is of nobody, and who was late changed nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork, connect, database_time
from app.db.tables import Annotation, Lease, Text
from app.services import blind_answers, counters, domains, recounting
from bench.load import handed_out
from bench.result import Bar, CannotRun, Result
from tests.builders import ask, set_taxonomy, trainable_text
from tests.torture.service import service
from tests.torture.victims import available, victim

LABELERS, TEXTS = 50, 2_000
QUICK_LABELERS, QUICK_TEXTS = 12, 120
LEASE_SECONDS = 3
LOOKS_APART_SECONDS = 0.2


def run(*, quick: bool, seed: int) -> Result:
    """All databases of this machine, with one and with two people for each text."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for kind in available():
        for overlap in (1, 2):
            with tempfile.TemporaryDirectory(prefix="intentloop-torture-") as made, victim(kind, Path(made)) as place:
                found = crowd(
                    place.url,
                    Path(made),
                    overlap=overlap,
                    labelers=QUICK_LABELERS if quick else LABELERS,
                    texts=QUICK_TEXTS if quick else TEXTS,
                    seed=seed,
                )
            figures |= {f"{kind}_{overlap}_{name}": value for name, value in found.items()}
            for name in ("doubled", "lost", "stray", "late", "unforeseen", "too_many", "waiting", "counters_wrong"):
                bars[f"{kind}_{overlap}_{name}"] = Bar(found[name], at_most=0)
    return Result(figures, bars)


def crowd(
    url: str, folder: Path, *, overlap: int, labelers: int, texts: int, seed: int, lease_seconds: int = LEASE_SECONDS
) -> dict[str, float]:
    """Let them loose on so many texts, and then answer in order what they left; what came of it."""
    engine = connect(url)
    work = UnitOfWork(engine)
    set_taxonomy(work, ["甲", "乙", "丙"])
    work(domains.change, "default", {"overlap": overlap})
    ask(work, *[trainable_text("甲") for _ in range(texts)])
    over, looks = threading.Event(), list[int]()
    watcher = threading.Thread(target=_watch, args=(work, overlap, over, looks), daemon=True)
    with service(folder, url) as served:
        served.start()
        watcher.start()
        seconds, events = _let_loose(served.port, folder, labelers, 10 * texts, lease_seconds, seed, "--mischief")
        # What was abandoned last is free again.
        time.sleep(lease_seconds)
        more, rest = _let_loose(served.port, folder, labelers, 10 * texts, lease_seconds, seed)
        over.set()
        watcher.join()
        served.stop()
    verdict = handed_out.check(engine, [*events, *rest], slots=overlap, lease_seconds=lease_seconds)
    figures = verdict.as_figures() | {"seconds": round(seconds + more)}
    figures |= {"too_many": max(looks, default=-1), "looks": len(looks), "waiting": handed_out.waiting(engine)}
    figures |= work.read(_counted)
    engine.dispose()
    return figures


def _let_loose(
    port: int, folder: Path, labelers: int, labels: int, lease_seconds: int, seed: int, *more: str
) -> tuple[float, list[handed_out.Event]]:
    ledger = folder / "ledger.jsonl"
    command = [sys.executable, "-m", "bench.load.labelers", "--port", str(port), "--labelers", str(labelers)]
    command += ["--labels", str(labels), "--lease-seconds", str(lease_seconds), "--seed", str(seed)]
    finished = subprocess.run([*command, "--ledger", str(ledger), *more], capture_output=True, text=True)
    if finished.returncode:
        raise CannotRun(f"the labelers failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])["seconds"], handed_out.read(ledger)


def _watch(work: UnitOfWork, overlap: int, over: threading.Event, looks: list[int]) -> None:
    while not over.wait(LOOKS_APART_SECONDS):
        looks.append(work.read(_too_many, overlap))
    looks.append(work.read(_too_many, overlap))


def _too_many(session: Session, overlap: int) -> int:
    """How many texts are with more people than are to answer them, held and answered together."""
    # First the answers: one that comes in between ends its lease, and must not be counted twice.
    with_people: Counter[int] = Counter()
    given = select(Annotation.text_id, Annotation.labeler_id).where(blind_answers.count_now()).distinct()
    for text_id, _ in session.execute(given):
        with_people[text_id] += 1
    held = select(Lease.text_id).where(Lease.expires_at > database_time(session))
    with_people.update(session.scalars(held))
    return sum(count > overlap for count in with_people.values())


def _counted(session: Session) -> dict[str, Any]:
    domain_id = domains.find(session, "default").id
    kept = {key: value for key, value in counters.of_domain(session, domain_id).items() if value}
    counted = recounting.counted(session, domain_id)
    states = Counter(session.scalars(select(Text.state)))
    wrong = sum(kept.get(key) != counted.get(key) for key in kept.keys() | counted.keys())
    return {"counters_wrong": wrong, "labelled": states["labelled"], "disputed": states["disputed"]}
