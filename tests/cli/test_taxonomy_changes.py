"""`intentloop taxonomy rename | move | merge | retire | split | undo | history`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def shop(migrated: Run, tmp_path: Path) -> Run:
    """A domain with labels."""
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(["售后 > 退款", "售后 > 换货", "物流", "其他"]), encoding="utf-8")
    assert migrated("taxonomy", "import", file).status == 0
    return migrated


def _labels(run: Run) -> list[str]:
    labels: list[str] = sorted(run("taxonomy", "show", "--json").json["labels"])
    return labels


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (("rename", "物流", "配送"), ["其他", "售后 > 换货", "售后 > 退款", "配送"]),
        (("move", "售后", "服务"), ["其他", "服务 > 售后 > 换货", "服务 > 售后 > 退款", "物流"]),
        (("move", "售后 > 退款"), ["其他", "售后 > 换货", "物流", "退款"]),
        (("merge", "售后 > 退款", "售后 > 换货", "--into", "售后"), ["其他", "售后", "物流"]),
        (("retire", "物流", "--texts", "requeue"), ["其他", "售后 > 换货", "售后 > 退款"]),
        (("split", "物流", "物流 > 慢", "物流 > 丢"), ["其他", "售后 > 换货", "售后 > 退款", "物流 > 丢", "物流 > 慢"]),
    ],
)
def test_each_command_is_tried_made_and_taken_back(shop: Run, arguments: tuple[str, ...], labels: list[str]) -> None:
    before = _labels(shop)
    tried = shop("taxonomy", *arguments, "--dry-run")
    assert (tried.status, "dry run" in tried.out, "gold texts" in tried.out) == (0, True, True)
    assert _labels(shop) == before
    made = shop("taxonomy", *arguments, "--reason", "test", "--json").json
    assert (made["kind"], made["dry_run"]) == (arguments[0], False)
    assert _labels(shop) == sorted(labels)
    undone = shop("taxonomy", "undo")
    assert f"Change {made['id']} ({arguments[0]}) is undone" in undone.out
    assert _labels(shop) == before


def test_history_prints_what_was_made_and_undone(shop: Run) -> None:
    shop("taxonomy", "rename", "物流", "配送")
    shop("taxonomy", "undo", "1")
    shop("taxonomy", "merge", "物流", "--into", "售后 > 退款")
    newest, oldest = shop("taxonomy", "history", "--json").json
    assert (newest["kind"], newest["undone_at"]) == ("merge", None)
    assert (oldest["kind"], oldest["undone_by"]) == ("rename", "command line")
    printed = shop("taxonomy", "history").out
    assert "merge" in printed
    assert "售后 > 退款" in printed


def test_a_refusal_is_one_sentence(shop: Run) -> None:
    for arguments in (("rename", "没有", "别的"), ("rename", "物流", "其他"), ("retire", "其他"), ("undo", "7")):
        said = shop("taxonomy", *arguments)
        assert said.status != 0
        assert len(said.sentences) == 1, said.err
