"""Keys and the audit trail from the command line."""

import json

import pytest

from app.db.session import UnitOfWork, connect
from app.db.sqlite_library import DRIVER
from app.services import audit
from app.services.keys import fingerprint
from app.settings import Settings
from app.trail import Trail


def seal(folder):
    from app.main import installation_secret

    given = Settings(_env_file=None, data_dir=folder / "data")
    engine = connect(given.url)
    Trail(UnitOfWork(engine), installation_secret(given), given.audit_head).seal()
    engine.dispose()


def sql(folder, statement):
    with DRIVER.connect(folder / "data" / "intentloop.db") as connection:
        return connection.execute(statement).fetchall()


def test_a_key_is_shown_once_and_never_again(migrated, empty_folder):
    said = migrated("keys", "create", "--role", "labeler", "--name", "ana", "--domain", "default", "--rate", 60,
                    "--expires-days", 30)  # fmt: skip
    assert said.status == 0
    credential = said.out.strip()
    assert credential.startswith("il_")
    assert "speaks for labeler ana" in said.err
    listed = migrated("keys", "list")
    assert "ana" in listed.out
    assert credential.split("_", 2)[2] not in listed.out
    [row] = migrated("keys", "list", "--json").json
    assert {name: row[name] for name in ("name", "role", "domains", "labeler_id", "rate_per_minute")} == {
        "name": "ana", "role": "labeler", "domains": ["default"], "labeler_id": "ana", "rate_per_minute": 60,
    }  # fmt: skip
    assert "secret_hash" not in row
    assert sql(empty_folder, "SELECT secret_hash FROM intent_api_keys") == [(fingerprint(credential),)]
    assert credential.split("_", 2)[2].encode() not in (empty_folder / "data" / "intentloop.db").read_bytes()


def test_json_holds_the_key(migrated):
    made = migrated("keys", "create", "--role", "admin", "--json").json
    assert made["key"].split("_", 2)[1] == made["key_id"]
    assert made["domains"] is None


def test_a_key_is_revoked_once_and_for_all(migrated):
    key_id = migrated("keys", "create", "--role", "product", "--json").json["key_id"]
    said = migrated("keys", "revoke", key_id)
    assert said.status == 0
    assert "No key is left" in said.out
    again = migrated("keys", "revoke", key_id, "--json").json
    assert (again["key_id"], again["any_key_left"]) == (key_id, False)
    assert "revoked" in migrated("keys", "list").out


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("create",), 2),
        (("create", "--role", "owner"), 1),
        (("create", "--role", "product", "--labeler-id", "ana"), 1),
        (("create", "--role", "product", "--domain", "nowhere"), 1),
        (("create", "--role", "product", "--rate", "0"), 2),
        (("create", "--role", "product", "--expires-days", "0"), 2),
        (("revoke", "nothing"), 1),
        (("revoke",), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_cannot_be_meant_ends_in_a_sentence(migrated, arguments, status):
    said = migrated("keys", *arguments)
    assert said.status == status
    assert said.sentences
    assert migrated("keys", "list", "--json").json == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
@pytest.mark.parametrize("command", ["serve", "up"])
def test_without_a_key_nothing_listens_where_others_are(migrated, host, command):
    said = migrated(command, "--host", host, "--port", 0)
    assert said.status == 1
    assert "no key" in said.err
    assert "intentloop keys create" in said.err


def test_what_commands_change_is_in_the_trail(migrated, empty_folder):
    labels = empty_folder / "labels.yaml"
    labels.write_text("- 甲\n- 乙\n")
    rows = empty_folder / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": f"句子{n}", "label": "甲"}, ensure_ascii=False) for n in range(3)))
    assert migrated("taxonomy", "import", labels).status == 0
    assert migrated("import", rows).status == 0
    assert migrated("keys", "create", "--role", "admin").status == 0
    events = migrated("audit", "list", "--json").json
    assert [event["action"] for event in events] == ["key.create", "labels.import", "taxonomy.replace"]
    assert {event["actor"] for event in events} == {"command line"}
    assert [event["domain"] for event in events] == [None, "default", "default"]
    assert events[1]["after"] == {"imported": 3}
    assert "句子" not in json.dumps(events, ensure_ascii=False)
    shown = migrated("audit", "list", "--domain", "default", "--limit", 1)
    assert "labels.import" in shown.out
    assert "taxonomy.replace" not in shown.out
    assert migrated("audit", "list", "--domain", "nowhere").status == 1


def test_a_trail_that_holds_is_said_to(migrated, empty_folder):
    for _ in range(3):
        migrated("keys", "create", "--role", "product")
    assert migrated("audit", "verify", "--json").json == {
        "holds": True, "sealed": 0, "head": None, "unsealed": 3, "faults": [],
    }  # fmt: skip
    seal(empty_folder)
    said = migrated("audit", "verify")
    assert said.status == 0
    assert "3 rows are chained, 0 wait" in said.out
    assert "holds" in said.out


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE intent_audit_events SET actor = 'eva' WHERE sequence = 2", "row 2 (id 2): the row was altered"),
        ("DELETE FROM intent_audit_events WHERE sequence = 2", "row 2: row 2 is missing"),
        ("DELETE FROM intent_audit_events WHERE sequence = 3", "row 3: the trail ends at row 2"),
        ("DELETE FROM intent_audit_events", "row 3: the trail ends at row 0"),
    ],
    ids=["altered", "deleted", "cut off", "emptied"],
)
def test_what_was_done_to_the_trail_by_sql_is_named(migrated, empty_folder, statement, problem):
    for _ in range(3):
        migrated("keys", "create", "--role", "product")
    seal(empty_folder)
    sql(empty_folder, statement)
    said = migrated("audit", "verify")
    assert said.status == 1
    assert problem in said.out
    assert "does not hold" in said.out
    told = migrated("audit", "verify", "--json")
    assert (told.status, told.json["holds"]) == (1, False)
    assert len(told.json["faults"]) == 1


def test_actions_of_the_trail_are_nouns_and_verbs(migrated):
    migrated("keys", "create", "--role", "product")
    [event] = migrated("audit", "list", "--json").json
    noun, _, verb = event["action"].partition(".")
    assert noun.isalpha()
    assert verb.replace("_", "").isalpha()
    assert audit.COMMAND_LINE.name == event["actor"]
