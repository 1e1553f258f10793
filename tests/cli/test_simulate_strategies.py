"""`intentloop simulate --strategies`: evidence for a choice, from a file or a domain's own history."""

import json

import pytest

from app import sample
from tests.cli.test_commands import import_world
from tests.trainer.tiny_encoders import bert

ROWS = sample.questions()[:200]


@pytest.fixture
def files(tmp_path):
    paths = []
    for name, rows in (("train", ROWS[:140]), ("test", ROWS[140:])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"text": row.text, "label": row.label}) for row in rows))
        paths += [f"--{name}", path]
    return paths


def test_strategies_on_a_file_end_with_one_line_of_json_and_a_plot(run, files, tmp_path):
    said = run(
        "simulate", *files, "--strategies", "mix, margin,random", "--seeds", 2, "--batch-size", 40, "--json", "--plot",
        tmp_path / "curves.svg",
    )  # fmt: skip
    assert said.status == 0, said.err
    figures = said.json
    assert {name: figures[name] for name in ("recipe", "train_texts", "test_texts", "batch", "seeds")} == {
        "recipe": "ngram",
        "train_texts": 140,
        "test_texts": 60,
        "batch": 40,
        "seeds": 2,
    }
    assert list(figures["strategies"]) == ["mix", "margin", "random"]
    for name, strategy in figures["strategies"].items():
        assert strategy["labels"] == [40, 80, 120, 140]
        assert strategy["accuracy"][-1] == figures["full_accuracy"], name
        assert ("over_random" in strategy) == (name != "random")
    assert (tmp_path / "curves.svg").stat().st_size > 1000
    again = run("simulate", *files, "--strategies", "mix", "--seeds", 2, "--batch-size", 40, "--json").json
    assert again["strategies"]["mix"]["accuracy"] == figures["strategies"]["mix"]["accuracy"]


def test_strategies_are_told_as_a_table(run, files):
    said = run("simulate", *files, "--strategies", "far,random", "--seeds", 1, "--batch-size", 40, "--max-labels", 80)
    assert said.status == 0, said.err
    first, head, *rows = said.out.splitlines()
    assert first.startswith("140 texts to choose from, 60 to measure on, 40 labels a step, 1 runs each; accuracy ")
    assert head.split()[0] == "strategy"
    assert [row.split()[0] for row in rows] == ["far", "random"]


def test_a_domains_own_history_is_measured_on_its_gold(migrated, empty_folder):
    import_world(migrated, empty_folder, each=60)
    said = migrated("simulate", "--domain", "default", "--strategies", "mix,random", "--seeds", 1, "--json")
    assert said.status == 0, said.err
    figures = said.json
    exported = {
        split: migrated("export", "--split", split, "--output", empty_folder / "out.jsonl", "--json").json["written"]
        for split in ("train", "gold")
    }
    assert {"train": figures["train_texts"], "gold": figures["test_texts"]} == exported
    assert figures["strategies"]["mix"]["labels"][-1] == exported["train"]


def test_the_recipe_head_sees_the_embeddings_of_its_base_model(run, files, tmp_path):
    base = bert(tmp_path / "tiny")
    said = run(
        "simulate", *files, "--strategies", "mix", "--seeds", 1, "--batch-size", 70, "--json", "--recipe", "head",
        "--base", base,
    )  # fmt: skip
    assert said.status == 0, said.err
    assert said.json["recipe"] == "head"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategies", "luck"], "there is no strategy 'luck'; there are mix, least_confidence"),
        (["--strategies", ""], "there is no strategy ''"),
        (["--strategies", "mix", "--recipe", "encoder", "--base", "x"], "with ngram or head, not with 'encoder'"),
        (["--strategies", "mix", "--recipe", "head"], "--base"),
        (["--strategies", "mix", "--domain", "default"], "--domain instead"),
        (["--domain", "default"], "--domain instead"),
        (["--strategies", "mix", "--seeds", "0"], "--seeds"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_status_2(run, files, options, message):
    said = run("simulate", *files, *options)
    assert said.status == 2
    assert message in " ".join(said.err.split())
    assert said.out == ""


def test_a_domain_without_enough_labelled_gold_is_refused(migrated):
    said = migrated("simulate", "--domain", "default", "--strategies", "mix")
    assert said.status == 2
    assert "default has 0 labelled gold texts" in said.err
    assert migrated("simulate", "--domain", "nowhere", "--strategies", "mix").status == 1
