"""`intentloop scenarios …`: what was found is listed, made a label or dismissed by commands alone."""

import json

import pytest

from app.cli.opening import database, settings
from app.services import scenarios
from app.services.scenarios import Group
from tests.builders import text_of
from tests.services.test_scenarios import NEW, unsure


@pytest.fixture
def shop(migrated, empty_folder):
    """Two proposals beside one label."""
    file = empty_folder / "labels.json"
    file.write_text(json.dumps(["物流"], ensure_ascii=False))
    assert migrated("taxonomy", "import", file).status == 0
    with database(settings()) as work:
        groups = []
        for subject in ("运费", "发票"):
            questions = unsure(work, 6, subject=subject)
            ids = work.read(lambda session, asked=questions: [text_of(session, question).id for question in asked])
            groups.append(Group(ids, [subject]))
        work(scenarios.store, "default", groups)
    return migrated


def test_proposals_are_listed_with_their_words(shop):
    listed = shop("scenarios", "list", "--json").json
    assert [(row["text_count"], row["question_count"], row["keywords"]) for row in listed] == [
        (6, 12, ["发票"]), (6, 12, ["运费"]),
    ]  # fmt: skip
    assert all(len(row["typical"]) == 5 for row in listed)
    said = shop("scenarios", "list").out
    assert "运费" in said
    assert shop("scenarios", "list", "--status", "accepted", "--json").json == []


def test_one_is_accepted_and_one_dismissed(shop):
    said = shop("scenarios", "accept", 1, NEW, "--guideline", "谁付运费", PROPOSAL_SIZE=7)
    assert f"Scenario 1 is the label {NEW}; 6 texts are asked first." in said.out
    assert "from 7 labelled texts on" in said.out
    assert shop("scenarios", "dismiss", 2).out.strip() == "Scenario 2 is dismissed."
    statuses = {row["id"]: (row["status"], row["label"]) for row in shop("scenarios", "list", "--json").json}
    assert statuses == {1: ("accepted", NEW), 2: ("dismissed", None)}
    assert NEW in shop("taxonomy", "show", "--json").json["labels"]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("accept", "1", "物流 > 运费"), 1, "lie inside the other"),
        (("accept", "4711", NEW), 1, "no scenario"),
        (("dismiss", "4711"), 1, "no scenario"),
        (("list", "--domain", "nowhere"), 1, "no domain"),
        (("dismiss", "x"), 2, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_sentence_and_a_status(shop, arguments, status, sentence):
    said = shop("scenarios", *arguments)
    assert said.status == status
    assert sentence in said.err


def test_the_job_runs_by_hand(migrated):
    assert migrated("job", "propose_scenarios", "--json").json["new"] == 0
