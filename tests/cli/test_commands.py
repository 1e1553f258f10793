"""Every command: its help, its exit status, its JSON, and one sentence for whatever goes wrong."""

import gzip
import json

import pytest
import typer.main

from app.cli import app
from app.db.sqlite_library import DRIVER
from jobs.timetable import TIMETABLE
from tests.journeys.worlds import LABELS, PARCEL, POWER, texts_of

COMMANDS = sorted(
    (name,) if not hasattr(command, "commands") else (name, inner)
    for name, command in typer.main.get_command(app).commands.items()
    for inner in (getattr(command, "commands", None) or [None])
)
NEED_A_DATABASE = [
    ("serve",), ("clock",), ("job", "purge"), ("job", "train_model"), ("job", "select_questions"),
    ("models", "list"), ("models", "active"), ("models", "activate", "v"), ("models", "rollback"), ("taxonomy", "show"),
]  # fmt: skip


@pytest.fixture
def trained(migrated, empty_folder):
    """Labels imported and a version trained from them, by commands alone."""
    import_world(migrated, empty_folder)
    assert migrated("job", "train_model", BATCH_LABELS=10).status == 0
    return migrated


def import_world(run, folder, each=12, seed=0):
    rows = [{"text": text, "label": label} for label in LABELS for text in texts_of(label, each, seed=seed)]
    path = folder / f"labelled-{seed}.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    said = run("import", path, "--create-labels", "--json")
    assert said.status == 0, said
    return said


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_worth_reading(run, command):
    said = run(*command, "--help")
    assert said.status == 0
    assert "Usage: intentloop" in said.out
    assert len(said.out.split()) > 25
    assert said.err == ""


def test_no_command_shows_what_there_is(run):
    said = run()
    assert said.status == 2
    assert all(command[0] in said.out + said.err for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [("dance",), ("models", "dance"), ("models", "activate"), ("job",), ("job", "dance"), ("import",),
     ("import", "nowhere.csv"), ("taxonomy", "import", "nowhere.yaml"), ("serve", "--port", "x"),
     ("serve", "--port", "70000"), ("models", "list", "--limit", "0"), ("simulate",)],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_call_ends_with_status_2(migrated, arguments):
    said = migrated(*arguments)
    assert said.status == 2
    assert said.err


@pytest.mark.parametrize("command", NEED_A_DATABASE, ids=" ".join)
def test_without_a_database_there_is_one_sentence_and_status_1(run, empty_folder, command):
    said = run(*command)
    assert said.status == 1
    assert len(said.sentences) == 1
    assert "run `intentloop migrate` first" in said.sentences[0]
    assert not (empty_folder / "data").exists()


def test_a_database_of_another_release_is_one_sentence(migrated, empty_folder):
    with DRIVER.connect(empty_folder / "data" / "intentloop.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'older'")
    said = migrated("models", "list")
    assert said.status == 1
    assert "has another schema" in said.sentences[0]


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("PORT", "ninety", "INTENTLOOP_PORT"),
        ("PORT", "-1", "INTENTLOOP_PORT"),
        ("TIMEZONE", "Mars/Olympus", "Olympus"),
        ("BATCH_LABELS", "0", "INTENTLOOP_BATCH_LABELS"), ("RETRY_DELAYS_SECONDS", "soon", "retry_delays_seconds"),
        ("CORS_ORIGINS", "[", "cors_origins"), ("LOST_AFTER_SECONDS", "nan", "INTENTLOOP_LOST_AFTER_SECONDS"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_sentence_that_names_it_and_status_2(migrated, name, value, word):
    said = migrated("models", "list", **{name: value})
    assert said.status == 2
    assert len(said.sentences) == 1
    assert word.lower() in said.sentences[0].lower()


@pytest.mark.parametrize("command", ["clock", "up"])
def test_a_bad_crontab_is_one_sentence_and_status_2(migrated, command):
    said = migrated(command, SELECT_CRON="* * *")
    assert said.status == 2
    assert said.sentences == ["INTENTLOOP_SELECT_CRON: '* * *' is no crontab of five fields, or six with seconds first"]


@pytest.mark.parametrize(
    "url",
    ["nonsense", "oracle://somebody:swordfish@host/db", "postgresql://u:swordfish@127.0.0.1:1/db", "://", "mysql://[::1",
     "mysql://u:swordfish@127.0.0.1:1/db", "sqlite:////nowhere/at/all.db"],
)  # fmt: skip
def test_a_database_that_cannot_be_reached_is_one_sentence_without_its_password(run, url):
    for command in (("models", "list"), ("migrate",)):
        said = run(*command, DATABASE_URL=url)
        assert said.status == 1
        assert len(said.sentences) == 1
        assert "swordfish" not in said.out + said.err


def test_a_data_folder_that_is_a_file_is_one_sentence(run, empty_folder):
    (empty_folder / "data").write_text("not a folder")
    for command in (("migrate",), ("models", "list")):
        said = run(*command)
        assert (said.status, len(said.sentences)) == (1, 1)


def test_migrate_can_be_run_again(migrated):
    said = migrated("migrate")
    assert (said.status, said.out) == (0, "The database is up to date.\n")


@pytest.mark.parametrize("name", sorted(TIMETABLE))
def test_each_job_runs_by_hand_and_is_recorded(migrated, name):
    said = migrated("job", name, "--json")
    assert said.status == 0
    assert isinstance(said.json, dict)
    again = migrated("job", name)
    assert (again.status, again.out.split(":")[0]) == (0, name)


def test_job_train_model_trains_what_is_due_and_says_what(trained, empty_folder):
    versions = trained("models", "list", "--json").json
    assert [row["version"] for row in versions] == ["default-v1"]
    import_world(trained, empty_folder, seed=9)
    said = trained("job", "train_model", "--json", BATCH_LABELS=10)
    assert said.json == {"opened": ["default-b2"], "trained": ["default-b2"]}


def test_a_job_that_fails_is_one_sentence_and_stands_in_the_ledger(migrated, empty_folder):
    with DRIVER.connect(empty_folder / "data" / "intentloop.db") as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("ALTER TABLE intent_leases RENAME TO hidden")
        connection.execute("ALTER TABLE intent_texts RENAME TO lost")
    said = migrated("job", "select_questions")
    assert said.status == 1
    assert said.sentences[-1] == "select_questions failed: the database refused: OperationalError"
    with DRIVER.connect(empty_folder / "data" / "intentloop.db") as connection:
        (row,) = connection.execute("SELECT outcome, error FROM intent_job_runs").fetchall()
    assert row == ("failed", "the database refused: OperationalError")


def test_taxonomy_is_imported_and_shown(migrated, empty_folder):
    path = empty_folder / "labels.yaml"
    path.write_text("root:\n  硬件故障:\n    电源问题: [无法开机, '[red]自动关机']\n  其他: []\n")
    assert migrated("taxonomy", "import", path).out == "Domain default has 3 labels.\n"
    assert migrated("taxonomy", "import", path, "--json").json == {"domain": "default", "labels": 3}
    shown = migrated("taxonomy", "show", "--json").json
    assert shown["labels"] == ["硬件故障 > 电源问题 > 无法开机", "硬件故障 > 电源问题 > [red]自动关机", "其他"]
    tree = migrated("taxonomy", "show").out
    assert "[red]自动关机" in tree
    assert tree.count("硬件故障") == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"root: 3", b"a: [b, b]", b"!!python/object/apply:os.system [echo]", b"[" * 9000,
     b"a: &a [x, *a]\n", b"- " + b"x" * 300],
    ids=["empty", "no text", "a number", "twice", "code", "deep", "a circle", "long"],
)  # fmt: skip
def test_a_taxonomy_that_cannot_be_read_is_one_sentence(migrated, empty_folder, content):
    path = empty_folder / "labels [red].yaml"
    path.write_bytes(content)
    said = migrated("taxonomy", "import", path)
    assert (said.status, len(said.sentences)) == (1, 1)
    assert "labels [red].yaml" in said.sentences[0]


def test_a_yaml_of_nested_anchors_ends_soon(migrated, empty_folder):
    lines = ["a0: &a0 [x, y, z, w]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = empty_folder / "bomb.yaml"
    path.write_text("\n".join(lines))
    said = migrated("taxonomy", "import", path)
    assert (said.status, len(said.sentences)) == (1, 1)


def test_import_reports_each_row_by_its_line_and_can_be_run_again(migrated, empty_folder):
    (empty_folder / "labels.json").write_text(json.dumps([POWER, PARCEL]))
    assert migrated("taxonomy", "import", empty_folder / "labels.json").status == 0
    rows = [
        {"text": "充不进电", "label": POWER},
        {"text": "快递没到", "labels": ["物流", "快递延误"]},
        "{",
        {"text": "没有标签"},
        {"text": "别的", "label": "没有 > 这个"},
        {"text": "   ", "label": POWER},
        {"text": "充不进电", "label": PARCEL},
        "",
        {"text": "我的电话 13812345678", "label": PARCEL},
    ]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = empty_folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    said = migrated("import", path, "--json")
    assert said.status == 1
    assert said.json["counts"] == {"imported": 3, "conflict": 1, "refused": 4}
    assert [line for line, _ in said.json["refused"]] == [3, 4, 5, 6]
    again = migrated("import", path, "--json")
    assert again.json["counts"] == {"duplicate": 3, "conflict": 1, "refused": 4}
    shown = migrated("import", path)
    assert "line 5: the label is not in the taxonomy" in shown.out
    assert shown.status == 1


def test_an_import_masks_what_it_stores(migrated, empty_folder):
    path = empty_folder / "rows.csv"
    path.write_text("text,label\n我的电话 13812345678 请回电,a\n再来一句,a\n")
    assert migrated("import", path, "--create-labels").status == 0
    content = (empty_folder / "data" / "intentloop.db").read_bytes()
    wal = empty_folder / "data" / "intentloop.db-wal"
    content += wal.read_bytes() if wal.exists() else b""
    assert b"13812345678" not in content


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01", b"a,b\n1,2\n", b"\x1f\x8b broken"], ids=["empty", "binary", "columns", "gzip"]
)
def test_a_file_that_cannot_be_imported_is_one_sentence(migrated, empty_folder, content):
    path = empty_folder / ("rows.csv.gz" if content.startswith(b"\x1f") else "rows.csv")
    path.write_bytes(content)
    said = migrated("import", path)
    assert (said.status, len(said.sentences)) == (1, 1)


def test_models_are_listed_activated_and_rolled_back(trained, empty_folder):
    import_world(trained, empty_folder, seed=9)
    trained("job", "train_model", BATCH_LABELS=10)
    rows = trained("models", "list", "--json").json
    assert [row["version"] for row in rows] == ["default-v2", "default-v1"]
    assert rows[0]["created_at"].endswith("Z")
    first, second = rows[1]["version"], rows[0]["version"]
    assert trained("models", "activate", second, "--json").status == 0
    active = trained("models", "active", "--json").json
    assert active["version"] == second
    assert trained("models", "rollback", "--reason", "[bold]worse[/]", "--json").json == {
        "version": first, "epoch": active["epoch"] + 1,
    }  # fmt: skip
    said = trained("models", "active")
    assert first in said.out
    assert "[bold]worse[/]" in said.out
    table = trained("models", "list").out
    assert "(active)" in table
    assert "[bold]worse[/]" in table
    assert "default-v2" in trained("models", "list", "--limit", "1").out


@pytest.mark.parametrize(
    "arguments",
    [("active",), ("rollback",), ("activate", "default-v9"), ("activate", "[/red]"), ("list", "--domain", "[/x]"),
     ("rollback", "--domain", "none")],
    ids=" ".join,
)  # fmt: skip
def test_what_there_is_not_is_one_sentence(migrated, arguments):
    said = migrated("models", *arguments)
    assert (said.status, len(said.sentences)) == (1, 1)


def test_commands_say_nothing_of_the_log_on_standard_output(trained):
    assert trained("job", "purge", "--json").json["runs"] == 0
