"""`intentloop rules …`: the life of keyword rules by commands alone."""

import json

import pytest

from tests.cli.test_commands import import_world

LABEL = "售后 > 退款"


@pytest.fixture
def shop(migrated, empty_folder):
    file = empty_folder / "labels.json"
    file.write_text(json.dumps([LABEL, "售后 > 退货"], ensure_ascii=False))
    assert migrated("taxonomy", "import", file).status == 0
    return migrated


def test_a_rule_is_added_listed_retired_and_brought_back(shop):
    added = shop("rules", "add", LABEL, "退款", "--none-of", "不退款", "--json").json
    assert (added["keyword"], added["none_of"], added["status"], added["created_by"]) == (
        "退款", ["不退款"], "active", "command line",
    )  # fmt: skip
    assert "退款" in shop("rules", "list").out
    assert f"Rule {added['id']} is retired" in shop("rules", "retire", added["id"]).out
    assert shop("rules", "list", "--status", "active", "--json").json == []
    assert shop("rules", "activate", added["id"], "--json").json["status"] == "active"
    (listed,) = shop("rules", "list", "--intent", LABEL, "--source", "manual", "--json").json
    assert listed["id"] == added["id"]


def test_a_conflict_is_said(shop):
    shop("rules", "add", LABEL, "退款")
    said = shop("rules", "add", "售后 > 退货", "退款")
    assert f"another label in rule 1 ({LABEL})" in said.out


def test_a_rule_of_lists_and_a_pattern(shop):
    added = shop("rules", "add", LABEL, "--all-of", "退款", "--all-of", "慢", "--pattern", "[0-9]+天", "--json").json
    assert (added["keyword"], added["pattern"]) == ("退款 + 慢 /[0-9]+天/", "[0-9]+天")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("add", LABEL), 1, "needs a keyword"),
        (("add", "天气", "雨"), 1, "not in the taxonomy"),
        (("add", LABEL, "退款", "--pattern", "("), 1, "RE2 syntax"),
        (("retire", "4711"), 1, "no keyword rule"),
        (("list", "--domain", "nowhere"), 1, "no domain"),
        (("retire", "x"), 2, ""),
        (("mine", "--min-confidence", "0.1"), 2, ""),
        (("policy", "never"), 2, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_sentence_and_a_status(shop, arguments, status, sentence):
    said = shop("rules", *arguments)
    assert said.status == status
    assert sentence in said.err


def test_rules_are_mined_by_a_command_and_by_the_job(migrated, empty_folder):
    import_world(migrated, empty_folder, each=25)
    found = migrated("rules", "mine", "--json").json
    assert found["new"] == found["mined"] == len(found["rule_ids"]) > 0
    again = migrated("job", "mine_keywords", "--json").json
    assert (again["new"], again["updated"]) == (0, found["new"])
    assert "new 0" in migrated("rules", "mine").out


def test_the_dictionary_is_set_from_a_file_and_shown(shop, empty_folder):
    file = empty_folder / "words.txt"
    file.write_text("闪电退\n\nWiFi \n", encoding="utf-8")
    assert shop("rules", "dictionary", "set", file, "--json").json == {"domain": "default", "words": ["wifi", "闪电退"]}
    assert shop("rules", "dictionary", "show").out.split() == ["wifi", "闪电退"]
    file.write_bytes(b"\xff\xfe\xff")
    said = shop("rules", "dictionary", "set", file)
    assert (said.status, "not UTF-8" in said.err) == (1, True)
    file.write_text("")
    assert shop("rules", "dictionary", "set", file, "--json").json["words"] == []


def test_people_can_take_the_decision_about_mined_rules(shop):
    assert shop("rules", "policy", "--json").json == {"domain": "default", "rule_policy": "auto"}
    assert "manual" in shop("rules", "policy", "manual").out
    assert shop("rules", "policy", "--json").json["rule_policy"] == "manual"
