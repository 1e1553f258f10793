"""Pretrained models on the command line: pulled, listed, chosen, and a classifier from elsewhere as a version."""

import json
import subprocess
import sys

import pytest

from app.intent.text import normalise
from app.scorers import load_scorer
from tests.cli.test_commands import import_world
from tests.journeys.worlds import LABELS
from tests.pretrained import bert, classifier


def test_a_model_is_pulled_from_a_folder_and_listed_with_its_hash(migrated, empty_folder):
    folder = bert(empty_folder / "tiny")
    pulled = migrated("models", "pull", folder, "--json")
    assert pulled.status == 0
    assert pulled.json["kind"] == "bert"
    assert migrated("models", "base", "--json").json == [pulled.json]
    assert "tiny" in migrated("models", "base").out


def test_a_domain_is_told_its_recipe_and_its_base(migrated, empty_folder):
    bert(empty_folder / "tiny")
    assert migrated("models", "recipe").out.strip() == "default trains with ngram."
    missing = migrated("models", "recipe", "head")
    assert (missing.status, len(missing.sentences)) == (1, 1)
    assert "base_model" in missing.err
    chosen = migrated("models", "recipe", "head", "--base", empty_folder / "tiny", "--json")
    assert chosen.json == {"domain": "default", "recipe": "head", "base_model": str(empty_folder / "tiny")}
    assert migrated("models", "recipe", "head", "--base", "owner/absent").status == 1
    assert migrated("models", "recipe", "bert").status == 2


def test_training_by_hand_makes_a_version_and_says_what_became_of_it(migrated, empty_folder):
    import_world(migrated, empty_folder)
    trained = migrated("train", "--config", '{"folds": 2}', "--json")
    assert trained.status == 0, trained
    assert (trained.json["outcome"], trained.json["version"]) == ("activated", "default-v1")
    again = migrated("train")
    assert (again.status, "no label" in again.err) == (1, True)
    assert "default-v2" in migrated("train", "--retrain").out
    failed = migrated("train", "--retrain", "--config", '{"folds": 1}')
    assert failed.status == 1
    assert "folds must lie between" in failed.err
    for wrong in (("--config", "{"), ("--config", "[]"), ("--recipe", "bert")):
        assert migrated("train", *wrong).status == 2


def test_a_base_that_went_away_fails_its_batch_with_what_to_do(migrated, empty_folder):
    import_world(migrated, empty_folder)
    assert migrated("models", "recipe", "head", "--base", bert(empty_folder / "tiny")).status == 0
    (empty_folder / "tiny").rename(empty_folder / "gone")
    failed = migrated("train")
    assert failed.status == 1
    assert "is not here" in failed.err


def test_a_classifier_from_elsewhere_is_proved_and_registered(migrated, empty_folder):
    folder = classifier(empty_folder / "made", LABELS)
    without_labels = migrated("models", "import", folder)
    assert (without_labels.status, "--create-labels" in without_labels.err) == (1, True)

    unproved = migrated("models", "import", folder, "--create-labels", "--json")
    assert unproved.status == 0, unproved
    assert unproved.json["outcome"] == "refused"
    assert "no labelled text" in unproved.json["reason"]
    assert migrated("models", "activate", unproved.json["version"], "--force").status == 0
    assert migrated("models", "recipe", "--json").json["base_model"] == "made"

    import_world(migrated, empty_folder)
    again = migrated("models", "import", folder, "--json")
    assert again.status == 0, again
    assert_a_plain_program_answers_alike(migrated, again.json["version"], empty_folder)
    # Nothing was used up: the labels wait for a recipe that trains on them.
    assert migrated("train", "--recipe", "ngram", "--json").json["outcome"] == "activated"


def test_the_loop_goes_on_from_a_classifier_that_serves_and_keeps_its_labels(migrated, empty_folder):
    """One of its labels has no text here."""
    labels = [*LABELS, "of which nobody here has a text"]
    imported = migrated("models", "import", classifier(empty_folder / "made", labels), "--create-labels", "--json")
    assert migrated("models", "activate", imported.json["version"], "--force").status == 0
    import_world(migrated, empty_folder)
    assert migrated("models", "recipe", "encoder").status == 0

    trained = migrated("train", "--json")

    assert trained.status == 0, trained
    found = [json.loads(file.read_bytes()) for file in (empty_folder / "data" / "artifacts").glob("*/manifest.json")]
    (facts,) = (manifest for manifest in found if manifest["recipe"] == "encoder")
    assert [label["path"] for label in facts["labels"] if not label["texts"]] == labels[-1:]
    # A step, not a first version; it has seen nothing of what is here.
    assert facts["training"]["replayed"] == 0


def assert_a_plain_program_answers_alike(migrated, version, folder):
    exported = migrated("models", "export", version, "--out", folder / "plain", "--json")
    assert exported.status == 0, exported
    asked = ["手机开不了机", "hello", "快递还没到 ＡＢＣ"]
    said = subprocess.run(
        [sys.executable, "classify.py", *asked], cwd=folder / "plain", capture_output=True, text=True, timeout=120
    )
    scorer = load_scorer(folder / "data" / "artifacts" / exported.json["artifact_digest"])
    labels = json.loads((folder / "plain" / "classifier.json").read_text())["labels"]
    answers = [line.rsplit(" ", 1) for line in said.stdout.splitlines()]
    expected = scorer.probabilities([normalise(text) for text in asked])
    assert [label for label, _ in answers] == [labels[row.argmax()] for row in expected], said.stderr
    assert [float(p) for _, p in answers] == pytest.approx(expected.max(axis=1), abs=1e-3)
    again = migrated("models", "export", version, "--out", folder / "plain")
    assert (again.status, len(again.sentences)) == (1, 1)


def test_a_version_without_a_graph_is_not_exported(migrated, empty_folder):
    import_world(migrated, empty_folder)
    assert migrated("train").status == 0
    refused = migrated("models", "export", "default-v1", "--out", empty_folder / "plain")
    assert (refused.status, "no ONNX graph" in refused.err) == (1, True)
    assert not (empty_folder / "plain").exists()


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("甲", "甲")])
def test_a_classifier_without_names_is_refused(migrated, empty_folder, labels):
    refused = migrated("models", "import", classifier(empty_folder / "made", labels), "--create-labels")
    assert (refused.status, len(refused.sentences)) == (1, 1)


def test_an_encoder_is_no_classifier(migrated, empty_folder):
    folder = bert(empty_folder / "made")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "甲", "1": "乙"}}))
    refused = migrated("models", "import", folder, "--create-labels")
    assert refused.status == 1
    assert "is no classifier" in refused.err
