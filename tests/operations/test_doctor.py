"""The doctor finds what was broken, says what to do, and is content with what is well."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, text, update

from app.db.schema import head
from app.db.session import UnitOfWork, connect
from app.db.sqlite_library import DRIVER
from app.db.tables import (
    ApiKey,
    AuditEvent,
    Domain,
    JobRun,
    ModelVersion,
    QuarantinedQuestion,
    Replica,
    TrainingBatch,
    UserQuestion,
    now,
)
from app.operations import artifact_store, check_database, check_machine
from app.operations.doctor import examine, is_well
from app.operations.findings import Finding, Patient
from app.services import audit, quarantine, runs
from app.serving.spool import Spool
from app.settings import Settings
from tests.builders import ask
from tests.operations.worlds import content, days_ago, fill
from tests.serving.artifacts import Artifact
from tests.serving.spooling import question

SECRET = "a secret of the tests, long enough"


@contextmanager
def well(url: str, folder: Path, *made: Artifact) -> Iterator[Patient]:
    """An installation in which everything runs and serves."""
    settings = Settings(_env_file=None, data_dir=folder, database_url=url, secret_key=SECRET)
    engine = connect(url)
    work = UnitOfWork(engine)
    fill(work, settings.artifacts, *made)
    work(lambda session: session.execute(delete(JobRun)))
    work(lambda session: session.execute(delete(QuarantinedQuestion)))
    work(lambda session: session.execute(update(TrainingBatch).values(training_status="completed")))
    work(runs.report_replica, "host:2", role="clock")
    work(audit.seal, secret=SECRET.encode())
    yield Patient(settings, work, secret=SECRET.encode())
    engine.dispose()


@pytest.fixture
def patient(database_url: str, tmp_path: Path, trained: tuple[Artifact, Artifact]) -> Iterator[Patient]:
    """One that is well, on each kind of database."""
    with well(database_url, tmp_path, *trained) as made:
        yield made


@pytest.fixture
def local(sqlite_url: str, tmp_path: Path, trained: tuple[Artifact, Artifact]) -> Iterator[Patient]:
    """One that is well, on SQLite."""
    with well(sqlite_url, tmp_path, *trained) as made:
        yield made


def found(patient: Patient, *levels: str) -> list[Finding]:
    # The servers of the tests are told not to wait for the disk, and this machine's SQLite may be an old one.
    known = ("durability", "is off", "can, rarely, damage")
    return [
        finding
        for finding in examine(patient)
        if finding.level in (levels or ("warn", "fail")) and not any(word in str(finding) for word in known)
    ]


def test_installation_that_is_well_is_left_alone(patient: Patient) -> None:
    assert found(patient) == []
    checks = {finding.check for finding in examine(patient)}
    assert checks >= {
        "data folder",
        "secret",
        "database",
        "time",
        "schema",
        "clock",
        "service",
        "artifacts",
        "keys",
        "audit",
    }


def test_servers_that_do_not_wait_for_the_disk_fail(patient: Patient) -> None:
    said = [finding for finding in examine(patient) if finding.check == "durability"]
    dialect = patient.work.engine.dialect.name
    assert [finding.level for finding in said] == ([] if dialect == "sqlite" else ["fail"])
    assert is_well(list(examine(patient))) == (dialect == "sqlite")


def _damage(patient: Patient) -> None:
    digest = patient.work.read(lambda s: s.query(ModelVersion).filter_by(is_active=True).one().artifact_digest)
    (patient.settings.artifacts / digest / "lineage.json").write_text("{}")


def _lose_old(patient: Patient) -> None:
    digest = patient.work.read(lambda s: s.query(ModelVersion).filter_by(is_active=None).one().artifact_digest)
    shutil.rmtree(patient.settings.artifacts / digest)


def _set(table: Any, **values: Any) -> Callable[[Patient], None]:
    return lambda patient: patient.work(lambda session: session.execute(update(table).values(**values))) and None


def _stop_clock(patient: Patient) -> None:
    patient.work(lambda session: session.execute(delete(Replica).where(Replica.role == "clock")))


def _stop_all(patient: Patient) -> None:
    patient.work(lambda session: session.execute(delete(Replica)))


def _unfold(patient: Patient) -> None:
    ask(patient.work, "还没有")
    patient.work(
        lambda session: session.execute(
            update(UserQuestion).values(text_id=None, created_at=now() - timedelta(hours=1))
        )
    )


def _fail_job(patient: Patient) -> None:
    run = patient.work(runs.begin, "purge", now(), worker="w")
    assert run is not None
    patient.work(runs.finish, run, error="disk full")


def _new_domain(patient: Patient) -> None:
    patient.work(lambda session: session.add(Domain(name="empty")))


@pytest.mark.parametrize(
    ("harm", "check", "level", "words"),
    [
        (_damage, "artifacts", "fail", "default-v2 serves, and its artifact is damaged"),
        (_lose_old, "artifacts", "warn", "default-v1"),
        (_stop_clock, "clock", "fail", "nothing is trained"),
        (_stop_all, "service", "warn", "none has reported"),
        (_set(Replica, error="artifact 12 is not what was trained"), "service", "fail", "host:1, domain default"),
        (_set(Domain, epoch=9), "service", "warn", "instead of 9"),
        (_set(ModelVersion, status="failed", reason="unreadable"), "versions", "fail", "default-v2"),
        (_set(TrainingBatch, training_status="failed", error="out of memory"), "batches", "warn", "out of memory"),
        (_set(TrainingBatch, training_status="queued", queued_at=days_ago(0.1)), "batches", "warn", "minutes"),
        (_unfold, "backlog", "warn", "60 minutes"),
        (_fail_job, "job", "warn", "disk full"),
        (_new_domain, "domains", "warn", "empty has no labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_harm_to_the_loop_is_found(local: Patient, harm, check: str, level: str, words: str) -> None:
    harm(local)
    said = [finding for finding in found(local) if finding.check == check]
    assert any(finding.level == level and words in finding.says and finding.advice for finding in said), said


def test_what_was_answered_and_is_no_row_is_found(local: Patient) -> None:
    root = local.settings.spool
    spool = Spool(root, max_bytes=1 << 20, max_rows=100)
    spool.append([question()])
    [folder] = root.iterdir()
    (folder / "00000009.damaged").touch()
    local.work(quarantine.keep, question(), reason=quarantine.REFUSED)
    says = [(finding.level, finding.says) for finding in examine(local) if finding.check == "spool"]
    assert [level for level, _ in says] == ["warn", "warn", "fail"]
    assert [word in text for word, (_, text) in zip(("1 refused", "wait on this", "1 files"), says, strict=True)]
    assert all(finding.advice for finding in examine(local) if finding.check == "spool")
    spool.close()


def test_audit_trail_that_was_altered_is_found(local: Patient) -> None:
    local.work(audit.note, audit.COMMAND_LINE, "rule.create", "退款")
    local.work(audit.seal, secret=SECRET.encode())
    assert found(local) == []
    local.work(lambda session: session.execute(update(AuditEvent).values(actor="somebody else")))
    [finding] = found(local)
    assert (finding.check, finding.level) == ("audit", "fail")
    assert "intentloop audit verify" in finding.advice


def test_open_service_on_an_address_that_others_reach_fails_without_a_key(local: Patient) -> None:
    local.work(lambda session: session.execute(delete(ApiKey)))
    assert found(local, "fail") == []
    others = local.settings.model_copy(update={"host": "0.0.0.0"})
    (finding,) = found(dataclasses.replace(local, settings=others), "fail")
    assert (finding.check, finding.level) == ("keys", "fail")
    key = ApiKey(key_id="k2", secret_hash="0" * 64, name="x", role="admin", created_by="x")
    local.work(lambda session: session.add(key))
    assert found(dataclasses.replace(local, settings=others), "fail") == []
    local.work(lambda session: session.execute(update(ApiKey).values(revoked_at=now())))
    assert len(found(dataclasses.replace(local, settings=others), "fail")) == 1


def test_schema_of_another_release_ends_the_examination_with_what_to_run(patient: Patient) -> None:
    with patient.work.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    try:
        *_, last = examine(patient)
        assert (last.check, last.level, last.advice) == ("schema", "fail", "run `intentloop migrate`")
    finally:
        with patient.work.engine.begin() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": head()})


def test_database_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://ana:swordfish@127.0.0.1:1/intentloop"
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=url, secret_key=SECRET)
    engine = connect(url)
    findings = list(examine(Patient(settings, UnitOfWork(engine))))
    assert (findings[-1].check, findings[-1].level) == ("reach", "fail")
    assert "swordfish" not in str(findings)


@pytest.fixture
def bare(sqlite_url: str, tmp_path: Path) -> Iterator[Patient]:
    """A fresh installation on SQLite whose secret lies in its folder."""
    (tmp_path / "secret.key").write_text("0" * 64)
    (tmp_path / "secret.key").chmod(0o600)
    (tmp_path / "artifacts").mkdir()
    engine = connect(sqlite_url)
    yield Patient(Settings(_env_file=None, data_dir=tmp_path), UnitOfWork(engine))
    engine.dispose()


def test_fresh_installation_fails_nothing(bare: Patient) -> None:
    assert is_well(list(examine(bare)))


@pytest.mark.parametrize(
    ("harm", "level", "advice"),
    [
        (lambda path: path.chmod(0o644), "fail", "chmod 600"),
        (lambda path: path.write_text("short"), "fail", "put the former key back"),
        (lambda path: path.unlink(), "warn", "keep a copy"),
    ],
    ids=["readable", "short", "gone"],
)
def test_secret_that_is_not_safe_is_found(bare: Patient, harm, level: str, advice: str) -> None:
    harm(bare.settings.data_dir / "secret.key")
    (finding,) = [finding for finding in examine(bare) if finding.check == "secret"]
    assert finding.level == level
    assert advice in finding.advice


def test_secret_of_the_settings_that_is_short_is_found_and_not_repeated(bare: Patient) -> None:
    short = bare.settings.model_copy(update={"secret_key": SecretStr("swordfish")})
    (finding,) = check_machine.secret(dataclasses.replace(bare, settings=short))
    assert finding.level == "warn"
    assert "swordfish" not in str(finding)


def test_disk_that_is_nearly_full_is_found(bare: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(bare.settings.data_dir)
    for free, level in ((10**11, "ok"), (10**9, "warn"), (10**6, "fail")):
        monkeypatch.setattr(check_machine.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert {finding.level for finding in check_machine.folders(bare)} == {level}


def test_folder_that_cannot_be_written_is_found(bare: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(check_machine.tempfile, "TemporaryFile", refuse)
    assert [finding.level for finding in check_machine.folders(bare)] == ["fail", "fail"]


def test_folder_that_is_missing_is_not_made(bare: Patient, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path / "nowhere")
    engine = connect(settings.url)
    findings = list(examine(Patient(settings, UnitOfWork(engine))))
    assert (findings[-1].check, findings[-1].advice) == ("reach", "run `intentloop migrate`")
    assert not (tmp_path / "nowhere").exists()


def test_damaged_sqlite_file_fails(bare: Patient, tmp_path: Path) -> None:
    ask(bare.work, *(f"第{number}句话" for number in range(200)))
    bare.work.engine.dispose()
    path = tmp_path / "intentloop.db"
    with DRIVER.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'intent_texts'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    pages = bytearray(path.read_bytes())
    pages[(root - 1) * size + 12 : (root - 1) * size + 60] = b"\xff" * 48
    path.write_bytes(pages)
    (finding,) = [finding for finding in examine(bare) if finding.check == "integrity"]
    assert finding.level == "fail"
    assert "restore the last backup" in finding.advice


def test_large_sqlite_file_is_read_through_only_when_asked(bare: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_database, "LARGE_BYTES", 1)
    said = [
        [f.says for f in examine(p) if f.check == "integrity"] for p in (bare, dataclasses.replace(bare, thorough=True))
    ]
    assert said == [["not checked: the file is large; `--thorough` does"], ["integrity_check found nothing"]]


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/srv /srv nfs4 rw 0 0
tmpfs /srv/fast tmpfs rw 0 0
//nas/share /mnt/with\\040space cifs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/x.db", "ext4"), ("/srv/x.db", "nfs4"), ("/srv/fast/x.db", "tmpfs"), ("/srvx/x.db", "ext4"),
     ("/mnt/with space/x.db", "cifs")],
)  # fmt: skip
def test_file_system_of_a_path_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert check_machine.file_system_of(Path(path), mounts) == kind
    assert check_machine.file_system_of(Path(path), tmp_path / "nowhere") is None


def test_sqlite_on_a_network_file_system_fails(bare: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_machine, "file_system_of", lambda *_: "nfs4")
    (finding,) = check_machine.file_system(bare)
    assert finding.level == "fail"


def test_clocks_that_are_apart_are_found(bare: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, level in ((0, "ok"), (10, "warn"), (-100, "fail")):
        monkeypatch.setattr(
            check_database, "database_time", lambda _, seconds=seconds: now() + timedelta(seconds=seconds)
        )
        (finding,) = check_database.clock_skew(bare)
        assert finding.level == level


def test_mysql_tables_of_another_collation_fail(patient: Patient) -> None:
    if patient.work.engine.dialect.name == "sqlite" or patient.work.engine.dialect.name == "postgresql":
        return
    with patient.work.engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE intent_tombstones DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        )
    try:
        (finding,) = [finding for finding in found(patient, "fail") if "intent_tombstones" in finding.says]
        assert "utf8mb4_general_ci" in finding.says
    finally:
        with patient.work.engine.begin() as connection:
            connection.execute(text("ALTER TABLE intent_tombstones DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"))


def test_artifacts_that_were_never_registered_are_mentioned(local: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_store, "orphans", lambda *_: [Path("x")])
    assert any("never registered" in finding.says for finding in examine(local))


def test_examining_changes_nothing(local: Patient) -> None:
    before = content(local.work)
    list(examine(local))
    assert content(local.work) == before
