"""A backup is the database at one moment, whoever writes meanwhile; it restores elsewhere, or is refused."""

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.artifacts.folder import FolderStore
from app.artifacts.store import WORKSHOP
from app.db.schema import migrate
from app.db.session import UnitOfWork, connect
from app.db.tables import Base, Domain, ModelVersion, Text
from app.operations import artifact_store, backup_format, restore
from app.operations.backup import back_up
from app.operations.backup_format import BackupRefused
from app.services import domains
from tests.builders import ask, make_labelled_texts
from tests.conftest import BACKENDS, Databases
from tests.operations.worlds import busy, check_invariants, content, fill

SECRET = b"a secret of the tests, long enough"


@contextmanager
def opened(url: str) -> Iterator[UnitOfWork]:
    engine = connect(url)
    try:
        yield UnitOfWork(engine)
    finally:
        engine.dispose()


@contextmanager
def restored(folder: Path, tmp_path: Path, name: str = "restored", **given) -> Iterator[tuple[UnitOfWork, Path]]:
    """The backup in an SQLite file that did not exist, and the folder of its artifacts."""
    target = tmp_path / name
    target.mkdir()
    with opened(f"sqlite:///{target / 'intentloop.db'}") as work:
        restore.restore(work.engine, FolderStore(target / "artifacts"), folder, **given)
        yield work, target / "artifacts"


@pytest.fixture
def made(sqlite_url: str, store: Path, trained, tmp_path: Path) -> Path:
    """A backup of an installation with something in every table."""
    with opened(sqlite_url) as work:
        fill(work, store, *trained)
        back_up(work.engine, FolderStore(store), tmp_path / "backup", secret=SECRET)
    return tmp_path / "backup"


# More rounds of the same, for a night: ROUNDS=50.
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def test_backup_under_writes_is_one_moment_round_after_round(work, store, trained, tmp_path) -> None:
    fill(work, store, *trained)
    seen = []
    with busy(work):
        for number in range(ROUNDS):
            folder = tmp_path / f"backup-{number}"
            manifest = back_up(work.engine, FolderStore(store), folder, secret=SECRET)
            seen.append(manifest.tables["intent_user_questions"].rows)
            with restored(folder, tmp_path, f"copy-{number}") as (copy, artifacts):
                check_invariants(copy, artifacts)
    # The writers were at work the whole time.
    assert seen == sorted(set(seen)), seen


def test_backup_travels_from_kind_to_kind_and_comes_back_the_same(
    databases: Databases, store, trained, tmp_path
) -> None:
    with opened(databases.fresh("sqlite", tmp_path)) as source:
        fill(source, store, *trained)
        before = content(source)
        back_up(source.engine, FolderStore(store), tmp_path / "first", secret=SECRET)
    folder = tmp_path / "first"
    for number, backend in enumerate((*BACKENDS[1:], "sqlite")):
        place = tmp_path / f"{number}-{backend}"
        place.mkdir()
        with opened(databases.fresh(backend, place)) as target:
            restore.restore(target.engine, FolderStore(place / "artifacts"), folder)
            assert content(target) == before
            check_invariants(target, place / "artifacts")
            # Numbers go on after those that were brought along.
            make_labelled_texts(target, {"新的标签": 2})
            assert content(target) != before
        # Anew, without what was just added.
        (place / "again").mkdir()
        with opened(databases.fresh(backend, place / "again")) as target:
            restore.restore(target.engine, FolderStore(place / "artifacts"), folder)
            back_up(target.engine, FolderStore(place / "artifacts"), place / "next", secret=SECRET)
        folder = place / "next"
    assert all(before.values()), "a table without a row proves nothing"


def test_restored_artifacts_serve_from_where_they_are_now(made, tmp_path) -> None:
    with restored(made, tmp_path) as (work, artifacts):
        paths = work.read(lambda session: session.scalars(select(ModelVersion.model_path)).all())
        assert all(Path(path).parent == artifacts and Path(path).is_dir() for path in paths)


def test_check_restores_into_something_that_is_thrown_away(made) -> None:
    manifest = restore.check(made).manifest
    assert manifest.tables["intent_texts"].rows > 10


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_backup_with_any_file_changed_cut_or_gone_is_refused(made, tmp_path) -> None:
    assert len(files_of(made)) > len(Base.metadata.tables) + 5
    for number, path in enumerate(files_of(made)):
        for how in ("flip", "cut", "remove"):
            broken = tmp_path / f"broken-{number}-{how}"
            shutil.copytree(made, broken)
            victim = broken / path.relative_to(made)
            content_ = bytearray(victim.read_bytes())
            content_[len(content_) // 2] ^= 4
            if how == "flip":
                victim.write_bytes(content_)
            elif how == "cut":
                victim.write_bytes(victim.read_bytes()[:-1])
            else:
                victim.unlink()
            with pytest.raises(BackupRefused):
                backup_format.prove(broken)
            shutil.rmtree(broken)


def test_backup_with_a_file_too_many_is_refused(made) -> None:
    (made / "tables" / "intent_texts (copy).jsonl.gz").write_bytes(b"")
    with pytest.raises(BackupRefused, match="does not belong"):
        restore.check(made)


def test_backup_whose_rows_were_forged_with_their_hashes_is_refused_by_what_the_database_says(made) -> None:
    """Every hash fits; the references between the rows do not."""
    path = made / "tables" / "intent_texts.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    path.write_bytes(gzip.compress(b"\n".join(lines[:-1]) + b"\n"))
    document = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").unlink()
    manifest = backup_format._manifest({key: document[key] for key in backup_format.Manifest.__slots__})
    facts = {name: getattr(manifest, name) for name in manifest.__slots__ if name != "files"}
    backup_format.seal(made, facts)
    with pytest.raises(Exception, match=r"rows instead of|FOREIGN KEY"):
        restore.check(made)


def test_restore_refuses_a_database_that_holds_something_and_leaves_it_alone(made, work, tmp_path) -> None:
    ask(work, "我已经在这里")
    before = content(work)
    with pytest.raises(BackupRefused, match="not empty"):
        restore.restore(work.engine, FolderStore(tmp_path / "elsewhere"), made)
    assert content(work) == before


def test_restore_that_fails_half_way_leaves_the_database_empty(made, work, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(restore, "_same", lambda *_: False)
    with pytest.raises(BackupRefused, match="nothing was kept"):
        restore.restore(work.engine, FolderStore(tmp_path / "elsewhere"), made)
    assert [len(rows) for name, rows in content(work).items() if name != "intent_domains"] == [0] * (
        len(Base.metadata.tables) - 1
    )
    monkeypatch.undo()
    restore.restore(work.engine, FolderStore(tmp_path / "elsewhere"), made)
    check_invariants(work, tmp_path / "elsewhere")


def test_restore_refuses_another_schema_and_names_the_release(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(restore, "head", lambda: "2031_01_01_later")
    with pytest.raises(BackupRefused, match=r"2026_11_30.* of release 0\.1\.0.*2031_01_01_later"):
        restore.check(made)


def test_restore_refuses_tables_of_another_release(made, sqlite_url, tmp_path) -> None:
    with opened(sqlite_url) as work:
        migrate(work.engine, "-1")
        with pytest.raises(BackupRefused, match="another release"):
            restore.restore(work.engine, FolderStore(tmp_path / "elsewhere"), made)


def test_backup_is_not_written_over_anything_and_leaves_nothing_half_done(
    sqlite_url, store, tmp_path, monkeypatch
) -> None:
    (tmp_path / "there").mkdir()
    with opened(sqlite_url) as work:
        with pytest.raises(BackupRefused, match="exists"):
            back_up(work.engine, FolderStore(store), tmp_path / "there", secret=SECRET)
        monkeypatch.setattr("app.operations.backup._copy_artifacts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            back_up(work.engine, FolderStore(store), tmp_path / "target", secret=SECRET)
    assert not [path.name for path in tmp_path.iterdir() if "target" in path.name]


def test_backup_refuses_when_what_serves_is_damaged_unless_told_to_go_on(sqlite_url, store, trained, tmp_path) -> None:
    with opened(sqlite_url) as work:
        fill(work, store, *trained)
        (store / trained[1].digest / "lineage.json").write_text("{}")
        with pytest.raises(BackupRefused, match="default-v2 serves, and its artifact is damaged"):
            back_up(work.engine, FolderStore(store), tmp_path / "backup", secret=SECRET)
        manifest = back_up(work.engine, FolderStore(store), tmp_path / "backup", secret=SECRET, incomplete=True)
    assert list(manifest.missing_artifacts) == [trained[1].digest]
    assert manifest.artifacts == (trained[0].digest,)
    with restored(tmp_path / "backup", tmp_path) as (_, artifacts):
        assert [path.name for path in artifacts.iterdir() if path.name != WORKSHOP] == [trained[0].digest]


def test_backup_goes_on_without_an_old_artifact_and_says_so(sqlite_url, store, trained, tmp_path) -> None:
    with opened(sqlite_url) as work:
        fill(work, store, *trained)
        shutil.rmtree(store / trained[0].digest)
        manifest = back_up(work.engine, FolderStore(store), tmp_path / "backup", secret=SECRET)
    assert manifest.missing_artifacts == {trained[0].digest: "default-v1: is not there"}


def test_no_artifact_is_removed_while_a_backup_copies(sqlite_url, store, trained, tmp_path, monkeypatch) -> None:
    removed = []

    def copy_slowly(versions, artifacts, folder):
        removed.append(artifact_store.remove_orphans(work, FolderStore(store)))
        return copy(versions, artifacts, folder)

    from app.operations import backup

    copy = backup._copy_artifacts
    monkeypatch.setattr(backup, "_copy_artifacts", copy_slowly)
    monkeypatch.setattr(artifact_store, "orphans", lambda *_: pytest.fail("it looked for what to remove"))
    with opened(sqlite_url) as work:
        fill(work, store, *trained)
        back_up(work.engine, FolderStore(store), tmp_path / "backup", secret=SECRET)
    assert removed == [0]


def test_secret_is_in_the_backup_only_when_asked_for_and_nobody_elses_to_read(sqlite_url, store, tmp_path) -> None:
    with opened(sqlite_url) as work:
        plain = back_up(work.engine, FolderStore(store), tmp_path / "plain", secret=SECRET)
        back_up(work.engine, FolderStore(store), tmp_path / "with", secret=SECRET, with_secret=True)
    assert not any(SECRET in path.read_bytes() for path in files_of(tmp_path / "plain"))
    assert plain.secret_fingerprint == backup_format.fingerprint(SECRET)
    kept = tmp_path / "with" / "secret.key"
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (SECRET, 0o600)
    target = tmp_path / "data" / "secret.key"
    manifest = backup_format.prove(tmp_path / "with")
    assert restore.restore_secret(tmp_path / "with", manifest, target)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (SECRET, 0o600)
    target.write_bytes(b"mine")
    assert not restore.restore_secret(tmp_path / "with", manifest, target)
    assert target.read_bytes() == b"mine"


def test_backup_of_equal_rows_has_equal_bytes(sqlite_url, store, tmp_path) -> None:
    with opened(sqlite_url) as work:
        make_labelled_texts(work, {"甲": 3, "乙": 3})
        first, second = (back_up(work.engine, FolderStore(store), tmp_path / name, secret=SECRET) for name in "ab")
    assert first.files == second.files


def test_every_table_is_in_a_backup(made) -> None:
    assert set(backup_format.prove(made).tables) == set(Base.metadata.tables)


def test_restore_into_nothing_makes_the_tables(made, databases: Databases, tmp_path) -> None:
    for backend in BACKENDS[:2]:
        place = tmp_path / f"nothing-{backend}"
        place.mkdir()
        with opened(databases.fresh(backend, place)) as work:
            migrate(work.engine, "base")
            restore.restore(work.engine, FolderStore(place / "artifacts"), made)
            check_invariants(work, place / "artifacts")
            assert work.read(lambda session: session.scalar(select(func.count(Text.id)))) > 10
            assert work.read(domains.listing)[0].name == work.read(lambda s: s.scalars(select(Domain.name)).first())
