"""A canary goes through every path that takes a text; when its user is forgotten, no byte of it is left."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, cast, select, update

from app.answer_log import replay_each
from app.artifacts.folder import FolderStore
from app.artifacts.training_cache import ENCODERS, training_cache
from app.db.session import UnitOfWork, connect
from app.db.tables import AuditEvent, Base, ModelVersion, Text, TrainingBatch
from app.intent.selection import is_gold_candidate
from app.intent.text import MaskedText, text_hash
from app.main import opening_rule
from app.operations import forgetting, restore, tombstone_file
from app.operations.backup import back_up
from app.services import audit, batches, imports, tombstones
from app.services.tombstones import Stone
from jobs.context import JobContext
from jobs.training import train_next
from tests.api.conftest import LOOP, Service, served
from tests.builders import ask, column, make_labelled_texts
from tests.operations.worlds import LABELS, busy, check_invariants, fill
from tests.serving.spooling import question

CANARY = "金丝雀飞过了黄昏的屋顶唱歌"
USER = "canary-user-4711"


def canary(number: int) -> str:
    """A sentence with the canary in it that is not gold, so that it is trained on."""
    numbered = (f"{CANARY}之{number}{'又' * more}" for more in range(100))
    return next(text for text in numbered if not is_gold_candidate(text_hash(MaskedText(text))))


def everywhere(service: Service) -> None:
    """The canary on every path by which a text, or what a labeler says of it, comes in."""
    service.put_taxonomy(*LABELS)
    questions = [service.classify(canary(number), user_id=USER)["question_id"] for number in range(4)]
    items = [{"text": canary(number), "user_id": USER} for number in (4, 5)]
    service.post("/classify/batch", {"items": items})
    external = service.log(canary(6), user_id=USER, intents=[LABELS[0]], confidence=0.5, method="llm_fallback")
    service.post(f"{LOOP}/questions", {"questions": [{"question": canary(7), "user_id": USER, "request_id": "r-7"}]})
    service.label(questions[0], LABELS[0], correct_time_intent={"type": CANARY})
    service.label(questions[1], LABELS[1])
    service.post(f"{LOOP}/questions/{questions[2]}/skip", {"labeler_id": "ana", "reason": CANARY})
    service.post(
        f"{LOOP}/questions/{questions[3]}/label",
        {"correct_intent": [], "proposed_label": CANARY, "labeler_id": "ana"},
    )
    service.label(external, LABELS[0])
    service.http.request("DELETE", f"{LOOP}/questions/{external}/label", params={"labeler_id": "ana"})
    # Answered while the database was away, and refused when it was back.
    refused = question(1, text=MaskedText(canary(9)), method="guessed", user_hash=service.services.secret.of_user(USER))
    assert replay_each(service.services.work, [refused]).quarantined == 1
    rows = [imports.ImportRow(1, MaskedText(canary(8)), LABELS[1])]
    service.services.work(imports.take_in, "default", rows)
    service.classify(canary(8), user_id=USER)
    service.get(f"{LOOP}/questions/unlabeled", labeler_id="zoe", lease_seconds=900)


def left_by_a_killed_trainer(work: UnitOfWork, artifacts: Path, *, live: bool = False) -> Path:
    """A folder with the texts of a batch; `live`: of one that trains at this moment."""
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(batches.run, batch.batch_id)
    claimed = work(batches.claim_next, worker="w")
    folder = artifacts / ".workshop" / f"{batch.batch_id}-{claimed.token[:8]}"
    folder.mkdir(parents=True)
    items = work.read(batches.items, batch.id)
    assert any(CANARY in item.text for item in items)
    (folder / "examples.jsonl").write_text("\n".join(item.text for item in items))
    if not live:
        work(batches.fail, batch.id, claimed.token, error="killed")
    return folder


@pytest.fixture
def installation(database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Service]:
    caplog.set_level(logging.DEBUG)
    with served(database_url, tmp_path) as running:
        everywhere(running)
        yield running


def forget(service: Service, user: str = USER, **more: Any) -> forgetting.Report:
    user_hash = service.services.secret.of_user(user)
    assert user_hash is not None
    stone = service.services.work.read(tombstones.of_user, user_hash, None)
    given = service.settings
    return forgetting.forget(
        service.services.work,
        stone,
        data_dir=given.data_dir,
        store=FolderStore(given.artifacts),
        by=audit.COMMAND_LINE,
        **more,
    )


def bytes_below(*folders: Path) -> bytes:
    return b"\n".join(path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())


def mentions(work: UnitOfWork, what: str) -> list[str]:
    """Every column of every table that holds these words, however they are written."""
    found = []
    escaped = json.dumps(what)[1:-1]
    with work.engine.connect() as connection, connection.begin():
        for table in Base.metadata.sorted_tables:
            for column_ in table.columns:
                values = connection.execute(select(cast(column_, String(60_000)))).scalars()
                if any(what in str(value) or escaped in str(value) for value in values):
                    found.append(f"{table.name}.{column_.name}")
    return found


def test_no_byte_of_a_forgotten_user_is_left(installation: Service, tmp_path: Path, caplog) -> None:
    service, work = installation, installation.services.work
    make_labelled_texts(work, dict.fromkeys(LABELS[:2], 3))
    left_by_a_killed_trainer(work, service.settings.artifacts)
    # And one that nobody folds before it is forgotten.
    service.services.folder.stop()
    service.classify(canary(9), user_id=USER)
    sqlite = work.engine.dialect.name == "sqlite"
    before = mentions(work, CANARY)
    assert set(before) >= {
        "intent_user_questions.question", "intent_texts.text", "intent_texts.proposed_label",
        "intent_annotations.reason", "intent_annotations.proposed_label", "intent_annotations.time_intent",
        "intent_quarantined_questions.frame",
    }  # fmt: skip
    assert CANARY.encode() in bytes_below(tmp_path)

    report = forget(service)

    assert (report.forgotten.questions, report.forgotten.texts) == (11, 10)
    assert report.erased == sqlite
    assert mentions(work, CANARY) == []
    assert mentions(work, USER) == []
    # Of the data folder everything, on SQLite the database with its log and index too.
    stored = bytes_below(tmp_path)
    for secret in (CANARY, CANARY[:6], CANARY[-6:], USER, json.dumps(CANARY)[1:-1]):
        assert secret.encode() not in stored
    assert CANARY not in caplog.text
    # The others are all there.
    assert len([text for text in column(work, Text.text) if text]) == 6
    assert service.classify("还能问")["question_id"]


def test_forgetting_says_which_versions_learned_from_it_and_which_serves(installation: Service, tmp_path: Path) -> None:
    service, work = installation, installation.services.work
    make_labelled_texts(work, dict.fromkeys(LABELS[:2], 4))
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(batches.run, batch.batch_id)
    settings = service.settings
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    train_next(JobContext(settings, work, opening_rule(settings)))
    assert column(work, TrainingBatch.training_status) == ["completed"], column(work, TrainingBatch.error)
    (version,) = column(work, ModelVersion.version)
    stone = work.read(tombstones.of_user, service.services.secret.of_user(USER) or "", None)
    by_batch = forgetting.foresee(work, stone, FolderStore(settings.artifacts))
    # A version that lost its batch, or never had one: its artifact tells.
    work(lambda session: session.execute(update(ModelVersion).values(training_batch_id=None)))
    by_lineage = forgetting.foresee(work, stone, FolderStore(settings.artifacts))
    assert mentions(work, CANARY)

    report = forget(service)

    for said in (by_batch, by_lineage, report):
        assert dict(said.versions) == {version: 3}
        assert bool(said.active_versions) == (column(work, TrainingBatch.outcome) == ["activated"])
    assert CANARY.encode() not in bytes_below(settings.artifacts)


def test_batch_that_trains_at_this_moment_keeps_its_folder_and_is_named(installation: Service) -> None:
    service, work = installation, installation.services.work
    make_labelled_texts(work, dict.fromkeys(LABELS[:2], 3))
    folder = left_by_a_killed_trainer(work, service.settings.artifacts, live=True)
    report = forget(service)
    assert folder.exists()
    assert sum(report.forgotten.training.values()) == 3


def test_forgetting_is_noted_without_saying_who(installation: Service) -> None:
    forget(installation)
    work = installation.services.work
    ((action, subject, after),) = column(work, AuditEvent.action, AuditEvent.subject, AuditEvent.after)[-1:]
    assert (action, subject) == ("data.forget", "user")
    assert after == {"questions": 10, "texts": 9, "kept_texts": 0}


def test_restored_backup_forgets_again_by_the_file_beside_the_database(
    sqlite_url: str, tmp_path: Path, trained
) -> None:
    """The backup is older than the forgetting, and the database with the tombstone is lost."""
    with served(sqlite_url, tmp_path) as service:
        everywhere(service)
        # It makes a key, and within a second nobody enters without one.
        fill(service.services.work, service.settings.artifacts, *trained)
        secret = service.services.secret.key
        back_up(service.services.engine, FolderStore(service.settings.artifacts), tmp_path / "backup", secret=secret)
        forget(service)
        stones = tombstone_file.read(service.settings.data_dir / tombstone_file.NAME)
    place = tmp_path / "restored"
    place.mkdir()
    engine = connect(f"sqlite:///{place / 'intentloop.db'}")
    try:
        restored = restore.restore(engine, FolderStore(place / "artifacts"), tmp_path / "backup", stones=stones)
        work = UnitOfWork(engine)
        assert (restored.forgotten.questions, restored.forgotten.texts) == (9, 9)
        assert mentions(work, CANARY) == []
        assert CANARY.encode() not in bytes_below(place)
        check_invariants(work, place / "artifacts")
        # The stone is in the table now, for the next backup.
        assert [stone.kind for stone in work.read(tombstones.listing)] == ["question", "user"]
    finally:
        engine.dispose()
    kept = (tmp_path / "data" / tombstone_file.NAME).stat()
    assert kept.st_mode & 0o777 == 0o600


def test_forgetting_while_everybody_works_leaves_the_database_in_order(
    work: UnitOfWork, trained, store, tmp_path
) -> None:
    fill(work, store, *trained)
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            ask(work, *(f"问题 {number}" for number in range(0, 40, 7)), user_hash="a" * 64)

    asking = threading.Thread(target=keep_asking)
    with busy(work):
        asking.start()
        try:
            for _ in range(3):
                stone = work.read(tombstones.of_user, "a" * 64, None)
                forgetting.forget(
                    work, stone, data_dir=tmp_path, store=FolderStore(store), by=audit.COMMAND_LINE, rewriting=False
                )
        finally:
            stop.set()
            asking.join(60)
    check_invariants(work, store)


def test_tombstone_is_on_the_disk_before_anything_is_forgotten(work: UnitOfWork, tmp_path, monkeypatch) -> None:
    ask(work, "秘密的话", user_hash="a" * 64)
    stone = work.read(tombstones.of_user, "a" * 64, None)
    monkeypatch.setattr(forgetting.forgetting, "forget_slice", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        forgetting.forget(work, stone, data_dir=tmp_path, store=FolderStore(tmp_path), by=audit.COMMAND_LINE)
    assert tombstone_file.read(tmp_path / tombstone_file.NAME) == [stone]
    assert [laid.value for laid in work.read(tombstones.listing)] == [stone.value]
    monkeypatch.undo()
    assert forgetting.forget(
        work, stone, data_dir=tmp_path, store=FolderStore(tmp_path), by=audit.COMMAND_LINE
    ).forgotten.questions == 1  # fmt: skip


def test_what_trainers_computed_from_texts_goes_and_exported_models_stay(work: UnitOfWork, tmp_path) -> None:
    ask(work, "秘密的话", user_hash="a" * 64)
    kept = training_cache(tmp_path) / "default"
    for folder in (ENCODERS, "embeddings", "activations"):
        (kept / folder).mkdir(parents=True)
        (kept / folder / "file").write_bytes(b"numbers")
    stone = work.read(tombstones.of_user, "a" * 64, None)
    forgetting.forget(work, stone, data_dir=tmp_path, store=FolderStore(tmp_path), by=audit.COMMAND_LINE)
    assert [folder.name for folder in kept.iterdir()] == [ENCODERS]


@pytest.mark.parametrize(("tail", "fits"), [('{"kind": "us', True), ("nonsense\n", False)], ids=["cut off", "nonsense"])
def test_file_of_tombstones_may_end_in_the_middle_of_a_line_and_hold_nothing_else(
    tmp_path, tail: str, fits: bool
) -> None:
    stone = Stone("question", "q", tombstones.datetime.fromisoformat("2026-01-01T00:00:00+00:00"))
    tombstone_file.append(tmp_path, stone)
    path = tmp_path / tombstone_file.NAME
    path.write_text(path.read_text() + tail)
    if fits:
        assert tombstone_file.read(path) == [stone]
    else:
        with pytest.raises(Exception, match=r"line 2 .* is no tombstone"):
            tombstone_file.read(path)
    assert tombstone_file.read(tmp_path / "nowhere") == []


def test_deleted_bytes_are_all_gone_where_rows_moved_much(sqlite_url: str, tmp_path: Path) -> None:
    """`secure_delete` alone leaves pieces behind when pages were split before."""
    import random

    engine = connect(sqlite_url)
    work, rng = UnitOfWork(engine), random.Random(2)
    for turn in range(60):
        mine = rng.random() < 0.4
        word = "CANARY" if mine else "other"
        texts = [f"{word} {turn} {n} " + "填" * rng.choice((3, 30, 60, 800)) for n in range(rng.randint(1, 25))]
        ask(work, *texts, user_hash=("a" if mine else "b") * 64)
    stone = work.read(tombstones.of_user, "a" * 64, None)
    report = forgetting.forget(work, stone, data_dir=tmp_path, store=FolderStore(tmp_path), by=audit.COMMAND_LINE)
    assert report.forgotten.texts > 200
    assert report.erased
    stored = bytes_below(tmp_path)
    assert b"other 5" in stored
    assert b"CANARY" not in stored
    engine.dispose()
