"""What purge takes away: what no version names, what the settings let go, and nothing else."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.artifacts.folder import publish
from app.db.session import UnitOfWork, connect
from app.db.tables import ModelVersion, Text, TrainingBatch, UserQuestion
from app.errors import VersionUnusable
from app.main import opening_rule
from app.operations import artifact_store
from app.scorers.artifact import read_manifest
from app.services import activations, answers, batches, imports
from app.settings import Settings
from jobs.context import JobContext
from jobs.purge import purge
from tests.builders import ask, column, label, make_labelled_texts, make_version, set_taxonomy
from tests.operations.worlds import days_ago
from tests.serving.artifacts import Artifact

DAY = 24 * 3600


def context_on(url: str, folder: Path, **changes: Any) -> JobContext:
    settings = Settings(_env_file=None, data_dir=folder, database_url=url, **changes)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    return JobContext(settings, UnitOfWork(connect(url)), opening_rule(settings))


@pytest.fixture
def context(sqlite_url: str, tmp_path: Path) -> Iterator[JobContext]:
    made = context_on(sqlite_url, tmp_path)
    yield made
    made.work.engine.dispose()


def lies(context: JobContext, artifact: Artifact, *, days: float = 2.0) -> Path:
    """The artifact in the store, as old as that."""
    folder = artifact.installed_in(context.settings.artifacts)
    moment = time.time() - days * DAY
    os.utime(folder, (moment, moment))
    return folder


def batch_of_ours(context: JobContext, artifact: Artifact) -> TrainingBatch:
    """A batch from which this artifact may have come."""
    make_labelled_texts(context.work, {"甲": 2, "乙": 2})
    batch = context.work(batches.open_batch, "default", opened_by="ana")
    digest = read_manifest(artifact.folder).items_digest

    def name(session: Session) -> None:
        session.execute(update(TrainingBatch).values(items_digest=digest))

    context.work(name)
    return batch


def test_artifact_that_no_version_names_goes_after_a_day(context, trained) -> None:
    batch_of_ours(context, trained[0])
    young = lies(context, trained[0], days=0.9)
    assert purge(context)["orphans"] == 0
    assert young.exists()
    lies(context, trained[0])
    assert purge(context)["orphans"] == 1
    assert not young.exists()
    assert list((context.settings.artifacts / ".workshop").iterdir()) == []


@pytest.mark.parametrize("status", ["passed", "refused", "failed", "rolled_back"])
def test_artifact_that_a_version_names_stays_whatever_became_of_it(context, trained, status: str) -> None:
    batch_of_ours(context, trained[0])
    context.work(make_version, artifact_digest=trained[0].digest, status=status)
    folder = lies(context, trained[0], days=900)
    assert purge(context)["orphans"] == 0
    assert folder.exists()


def test_artifact_of_a_batch_that_this_database_never_had_is_somebody_elses(context, trained) -> None:
    folder = lies(context, trained[0], days=900)
    assert purge(context)["orphans"] == 0
    assert folder.exists()


def test_no_orphan_goes_while_a_batch_trains_and_may_be_about_to_name_it(context, trained) -> None:
    batch = batch_of_ours(context, trained[0])
    folder = lies(context, trained[0])
    context.work(batches.run, batch.batch_id)
    context.work(batches.claim_next, worker="w")
    assert purge(context)["orphans"] == 0
    assert folder.exists()


def test_artifact_that_a_version_names_at_the_last_moment_is_put_back(context, trained, monkeypatch) -> None:
    batch_of_ours(context, trained[0])
    folder = lies(context, trained[0])
    rename = Path.rename

    def rename_and_register(self: Path, target: Path) -> Path:
        done = rename(self, target)
        if self == folder:
            context.work(make_version, artifact_digest=trained[0].digest)
        return done

    monkeypatch.setattr(Path, "rename", rename_and_register)
    assert artifact_store.remove_orphans(context.work, context.store) == 0
    assert folder.exists()


def test_artifact_that_is_trained_again_is_young_again(context, trained, tmp_path) -> None:
    folder = lies(context, trained[0])
    again = tmp_path / "again"
    shutil.copytree(trained[0].folder, again)
    assert publish(again, context.settings.artifacts) == trained[0].digest
    assert time.time() - folder.stat().st_mtime < DAY


def test_other_folders_in_the_store_are_left_alone(context) -> None:
    for name in ("0" * 64, "notes", ".hidden"):
        (context.settings.artifacts / name).mkdir()
        os.utime(context.settings.artifacts / name, (0, 0))
    assert purge(context)["orphans"] == 0
    assert {path.name for path in context.settings.artifacts.iterdir()} == {"0" * 64, "notes", ".hidden"}


def old_versions(context: JobContext, *made: Artifact) -> list[str]:
    """Five versions, of which the second served and the third serves; the first two have these artifacts."""
    names = []
    for number in range(5):
        changes = {"artifact_digest": made[number].digest} if number < len(made) else {}
        if number < len(made):
            lies(context, made[number])
        names.append(context.work(make_version, **changes).version)
    for name in names[1:3]:
        context.work(activations.activate, name, by="ana", reason="x")
    context.work(lambda session: session.execute(update(ModelVersion).values(created_at=days_ago(2))))
    return names


def test_without_the_setting_every_version_keeps_its_artifact(context, trained) -> None:
    old_versions(context, *trained)
    assert "retired_versions" not in purge(context)
    assert all((context.settings.artifacts / artifact.digest).exists() for artifact in trained)


def test_versions_that_never_served_lose_their_artifact_and_say_why(context, trained, sqlite_url, tmp_path) -> None:
    names = old_versions(context, *trained)
    batch_of_ours(context, trained[0])
    keeping = context_on(sqlite_url, tmp_path, keep_versions=1)
    # The newest one stays, and those that served or serve: one may roll back to them.
    assert purge(keeping)["retired_versions"] == [names[0], names[3]]
    assert not (context.settings.artifacts / trained[0].digest).exists()
    assert (context.settings.artifacts / trained[1].digest).exists()
    with pytest.raises(VersionUnusable, match="INTENTLOOP_KEEP_VERSIONS"):
        context.work(activations.activate, names[0], by="ana", reason="x", force=True)
    assert purge(keeping)["retired_versions"] == []


def test_a_version_that_was_asked_again_keeps_its_artifact(context, trained, sqlite_url, tmp_path) -> None:
    names = old_versions(context, trained[0])
    lies(context, trained[0])
    asked = context.work(make_version, recipe="lora", artifact_digest=trained[1].digest).version
    later = context.work(make_version, recipe="lora").version
    for name in (asked, later):
        context.work(activations.activate, name, by="ana", reason="x")
    context.work(lambda session: session.execute(update(ModelVersion).values(created_at=days_ago(2))))
    retired = purge(context_on(sqlite_url, tmp_path, keep_versions=1))["retired_versions"]
    assert retired == [names[0], names[3], names[4]]


def test_artifact_that_another_version_names_too_stays(context, trained, sqlite_url, tmp_path) -> None:
    old_versions(context, trained[0], trained[0])
    purge(context_on(sqlite_url, tmp_path, keep_versions=1))
    assert (context.settings.artifacts / trained[0].digest).exists()


def asked_long_ago(work: UnitOfWork) -> None:
    set_taxonomy(work, ["甲", "乙"])
    (old,) = ask(work, "很久以前回答过", asked_at=days_ago(100))
    label(work, old, "甲")
    ask(work, "很久以前没回答", "一直在问", asked_at=days_ago(100))
    ask(work, "昨天", "一直在问", asked_at=days_ago(1))


def left(work: UnitOfWork) -> tuple[set[str], int]:
    """The texts that are there, and how many questions."""
    return {text for text in column(work, Text.text) if text}, work.read(
        lambda session: session.scalar(select(func.count()).select_from(UserQuestion))
    )


def test_by_default_everything_is_kept(database_url, tmp_path) -> None:
    context = context_on(database_url, tmp_path)
    asked_long_ago(context.work)
    assert "forgotten_questions" not in purge(context)
    assert left(context.work) == ({"很久以前回答过", "很久以前没回答", "一直在问", "昨天"}, 5)


def test_old_questions_go_with_the_texts_that_nobody_asked_since(database_url, tmp_path) -> None:
    context = context_on(database_url, tmp_path, question_days=30)
    asked_long_ago(context.work)
    detail = purge(context)
    assert (detail["forgotten_questions"], detail["forgotten_texts"]) == (3, 2)
    assert left(context.work) == ({"一直在问", "昨天"}, 2)


def test_old_unlabelled_texts_go_and_what_people_answered_stays(database_url, tmp_path) -> None:
    context = context_on(database_url, tmp_path, unlabelled_text_days=30)
    asked_long_ago(context.work)
    detail = purge(context)
    assert (detail["forgotten_questions"], detail["forgotten_texts"]) == (1, 1)
    assert left(context.work) == ({"很久以前回答过", "一直在问", "昨天"}, 4)
    assert purge(context)["forgotten_texts"] == 0


def test_import_that_was_taken_back_goes_like_an_unlabelled_text(sqlite_url, tmp_path) -> None:
    context = context_on(sqlite_url, tmp_path, unlabelled_text_days=30)
    set_taxonomy(context.work, ["甲", "乙"])
    rows = [imports.ImportRow(1, "留着", "甲"), imports.ImportRow(2, "拿走", "乙")]  # type: ignore[arg-type]
    context.work(imports.take_in, "default", rows)

    def take_back(session: Session) -> None:
        taken = session.scalars(select(Text).where(Text.text == "拿走")).one()
        answers.clear(session, taken)
        session.execute(update(Text).values(last_asked_at=days_ago(40)))

    context.work(take_back)
    assert purge(context)["forgotten_texts"] == 1
    assert left(context.work) == ({"留着"}, 0)


def test_a_clock_that_stops_leaves_the_rest_to_the_next_night(sqlite_url, tmp_path) -> None:
    context = context_on(sqlite_url, tmp_path, question_days=30, unlabelled_text_days=30)
    asked_long_ago(context.work)
    context.stopping.set()
    assert purge(context)["forgotten_questions"] == 0
    assert left(context.work)[1] == 5
