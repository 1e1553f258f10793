"""doctor, backup, restore and forget as commands: what they print, and the status they end with."""

from pathlib import Path

import pytest

from app.cli.opening import settings
from app.db.session import UnitOfWork, connect
from app.db.sqlite_library import DRIVER
from app.main import installation_secret
from app.serving.classifier import Secret
from app.serving.spool import Spool
from tests.builders import ask
from tests.cli.conftest import Run
from tests.serving.spooling import question

NEED_A_DATABASE = [("backup", "copy"), ("forget", "--question", "x")]


@pytest.fixture
def asked(migrated: Run, empty_folder: Path) -> Run:
    """Two questions of user 4711, one of them also asked by somebody else."""
    given = settings()
    engine = connect(given.url)
    user_hash = Secret(installation_secret(given)).of_user("4711")
    work = UnitOfWork(engine)
    ask(work, "只有我", "大家都问", user_hash=user_hash)
    ask(work, "大家都问")
    engine.dispose()
    return migrated


def test_doctor_finds_a_fresh_installation_in_order(migrated):
    said = migrated("doctor")
    assert said.status == 0
    assert "ok   schema: it is the one of this release" in said.out
    assert "→ start `intentloop clock`" in said.out
    findings = migrated("doctor", "--json").json
    assert findings["well"]
    assert {finding["level"] for finding in findings["findings"]} <= {"ok", "warn"}


def test_doctor_without_a_database_fails_and_makes_none(run, empty_folder):
    said = run("doctor")
    assert said.status == 1
    assert "run `intentloop migrate`" in said.out
    assert not (empty_folder / "data").exists()


def test_doctor_never_prints_a_secret(run):
    for arguments in (("doctor",), ("doctor", "--json"), ("doctor", "--thorough")):
        said = run(*arguments, DATABASE_URL="postgresql://u:swordfish@127.0.0.1:1/db", SECRET_KEY="herring" * 9)
        assert said.status == 1
        assert "swordfish" not in said.out + said.err
        assert "herring" not in said.out + said.err


@pytest.mark.parametrize("command", NEED_A_DATABASE, ids=" ".join)
def test_without_a_database_there_is_one_sentence_and_status_1(run, empty_folder, command):
    said = run(*command)
    assert (said.status, len(said.sentences)) == (1, 1)
    assert "run `intentloop migrate` first" in said.sentences[0]
    assert not (empty_folder / "data").exists()


def test_backup_comes_back_in_another_place(asked, empty_folder):
    said = asked("backup", "copy", "--verify", "--json")
    assert said.status == 0
    assert said.json["verified"]
    assert said.json["rows"]["intent_user_questions"] == 3
    assert not said.json["has_secret"]
    said = asked("restore", "copy", DATA_DIR=empty_folder / "other")
    assert said.status == 0
    assert "Restored:" in said.out
    assert "has not the secret" in said.out
    assert not (empty_folder / "other" / "secret.key").exists()
    with DRIVER.connect(empty_folder / "other" / "intentloop.db") as connection:
        assert connection.execute("SELECT count(*) FROM intent_user_questions").fetchone() == (3,)


def test_backup_with_the_secret_brings_it_along(asked, empty_folder):
    said = asked("backup", "copy", "--with-secret")
    assert "keep it where nobody else reads" in said.out
    said = asked("restore", "copy", "--json", DATA_DIR=empty_folder / "other")
    assert said.json["secret_fits"] is True
    ours, theirs = ((empty_folder / name / "secret.key").read_text() for name in ("data", "other"))
    assert ours == theirs


def test_backup_is_tried_without_touching_anything(asked, empty_folder):
    asked("backup", "copy")
    said = asked("restore", "copy", "--check", DATA_DIR=empty_folder / "other")
    assert said.status == 0
    assert "The backup is good" in said.out
    assert not (empty_folder / "other").exists()


def test_what_cannot_be_backed_up_or_restored_is_one_sentence_and_status_1(asked, empty_folder):
    assert asked("backup", "copy").status == 0
    (empty_folder / "empty").mkdir()
    (empty_folder / "file").write_text("")
    refused = [
        (("backup", "copy"), "exists"),
        (("restore", "copy"), "not empty"),
        (("restore", "empty"), "no finished backup"),
    ]
    for command, word in refused:
        said = asked(*command)
        assert (said.status, len(said.sentences)) == (1, 1)
        assert word in said.sentences[0]
    assert asked("restore", "nowhere").status == 2
    assert asked("restore", "file").status == 2


def test_forget_says_what_it_takes_and_what_stays(asked, empty_folder):
    foreseen = asked("forget", "--user", "4711", "--dry-run", "--json").json
    assert (foreseen["dry_run"], foreseen["questions"], foreseen["texts"]) == (True, 2, 1)
    said = asked("forget", "--user", "4711")
    assert said.status == 0
    assert said.out.splitlines() == [
        "Forgot 2 questions and 1 texts.",
        "1 texts stay, because others asked them too.",
        "No byte of it is left in the tables.",
    ]
    assert "只有我".encode() not in b"".join(
        path.read_bytes() for path in (empty_folder / "data").glob("intentloop.db*")
    )
    again = asked("forget", "--user", "4711")
    assert (again.status, again.out.split(".")[0]) == (0, "No such question is here")


def test_forget_refuses_while_answers_wait_in_a_spool(asked, empty_folder):
    spool = Spool(empty_folder / "data" / "spool", max_bytes=1 << 20, max_rows=100)
    spool.append([question(1), question(2)])
    said = asked("forget", "--user", "4711")
    assert (said.status, len(said.sentences)) == (1, 1)
    assert "2 answered questions wait" in said.sentences[0]
    assert asked("forget", "--user", "4711", "--dry-run").status == 0
    spool.drop(len(spool.peek(2)))
    assert asked("forget", "--user", "4711").status == 0
    spool.close()


def test_restored_backup_forgets_what_was_forgotten_since(asked, empty_folder):
    asked("backup", "copy")
    asked("forget", "--user", "4711")
    stones = empty_folder / "data" / "tombstones.jsonl"
    said = asked("restore", "copy", "--tombstones", stones, "--json", DATA_DIR=empty_folder / "other")
    assert said.json["forgotten_again"] == {"questions": 2, "texts": 1}
    for path in (empty_folder / "data").glob("intentloop.db*"):
        path.unlink()
    said = asked("restore", "copy")
    assert "2 questions were forgotten again." in said.out


@pytest.mark.parametrize(
    "arguments",
    [(), ("--user", "a", "--question", "b"), ("--question", "b", "--domain", "default"), ("--older-than", "-1"),
     ("--older-than", "soon")],
    ids=" ".join,
)  # fmt: skip
def test_forget_asked_wrongly_ends_with_status_2_and_forgets_nothing(asked, empty_folder, arguments):
    assert asked("forget", *arguments).status == 2
    assert not (empty_folder / "data" / "tombstones.jsonl").exists()


def test_forget_of_an_unknown_domain_or_id_is_one_sentence(asked):
    for arguments in (("--user", "4711", "--domain", "nowhere"), ("--question", "x" * 37)):
        said = asked("forget", *arguments)
        assert (said.status, len(said.sentences)) == (1, 1)


def test_what_is_old_is_forgotten(asked):
    assert asked("forget", "--older-than", "1", "--json").json["questions"] == 0
    assert asked("forget", "--older-than", "0", "--json").json["questions"] == 3
