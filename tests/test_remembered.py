"""What a machine remembers: written whole, for nobody else to read, and read back as it was."""

import json
import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.intent.releases import DomainState, Release
from app.intent.rules import Rule
from app.remembered import remember_release, remembered_digests, remembered_releases
from app.remembered_keys import KEYS, RememberedKeys, last_keys
from app.services.keys import KeyRecord, KeyTable

RELEASE = Release(
    DomainState(3, "shop", "single_label", True, 7, 2),
    11,
    "shop-v4",
    "ab" * 32,
    0.73,
    {5: "退货", 6: "其他"},
    2,
    (Rule(9, 5, ("快递", "wifi"), ("不",), r"\d+", 0.91, "manual"), Rule(10, 6, ("你好",))),
    {"weights": {"9": 1.5}, "trust": {"mined": 0.5}},
    "shop-v5",
    "ef" * 32,
)
KEY = KeyRecord(
    1, "0123456789ab", "cd" * 32, "ana", "labeler", frozenset({"shop"}), frozenset({3}), "ana", 60, datetime.now(UTC)
)


def test_release_is_read_back_as_it_was(tmp_path: Path) -> None:
    remember_release(tmp_path / "last", RELEASE)
    bare = Release(DomainState(1, "default", "single_label", True, 0, 0), None, None, None, 1.0, {})
    remember_release(tmp_path / "last", bare)
    assert remembered_releases(tmp_path / "last") == [bare, RELEASE]
    assert remembered_digests(tmp_path / "last") == {"ab" * 32, "ef" * 32}
    assert remembered_releases(tmp_path / "nothing") == []


def test_what_a_release_before_the_generative_tier_remembered_is_read(tmp_path: Path) -> None:
    remember_release(tmp_path, RELEASE)
    path = tmp_path / "release-3.json"
    values = json.loads(path.read_text())
    del values["generative_version"], values["generative_digest"]
    path.write_text(json.dumps(values))
    assert remembered_releases(tmp_path) == [replace(RELEASE, generative_version=None, generative_digest=None)]


def test_older_epoch_never_replaces_a_newer_one_unless_the_database_says_so_anew(tmp_path: Path) -> None:
    remember_release(tmp_path, RELEASE)
    older = replace(RELEASE, state=replace(RELEASE.state, epoch=6), version="shop-v3")
    remember_release(tmp_path, older)
    assert remembered_releases(tmp_path) == [RELEASE]
    remember_release(tmp_path, older, anew=True)
    assert remembered_releases(tmp_path) == [older]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 2, "state": {}}', "\x00" * 100])
def test_file_that_is_damaged_is_left_out_and_written_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "release-3.json"
    path.write_text(content)
    other = replace(RELEASE, state=replace(RELEASE.state, domain_id=4, name="other"))
    remember_release(tmp_path, other)
    assert remembered_releases(tmp_path) == [other]
    remember_release(tmp_path, RELEASE)
    assert remembered_releases(tmp_path) == [RELEASE, other]


def test_process_that_dies_while_it_writes_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_release(tmp_path, RELEASE)
    monkeypatch.setattr("app.remembered.os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        remember_release(tmp_path, replace(RELEASE, state=replace(RELEASE.state, epoch=8)))
    assert remembered_releases(tmp_path) == [RELEASE]


def test_keys_are_kept_as_hashes_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    table = KeyTable({KEY.key_id: KEY}, guarded=True)
    keys = RememberedKeys(lambda: table, tmp_path / "last")
    assert keys.last() is None
    assert keys() == table
    assert keys.last() == table == last_keys(tmp_path / "last")
    assert stat.S_IMODE((tmp_path / "last" / KEYS).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "last").stat().st_mode) == 0o700


def test_keys_are_written_when_they_change_and_not_each_second(tmp_path: Path) -> None:
    tables = [KeyTable({}, guarded=False)] * 3 + [KeyTable({KEY.key_id: KEY}, guarded=True)]
    keys = RememberedKeys(lambda: tables.pop(0), tmp_path)
    keys()
    (tmp_path / KEYS).unlink()
    keys()
    keys()
    assert keys.last() is None
    keys()
    assert keys.last() is not None


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1, "guarded": 0, "records": []}', '{"format": 1}'])
def test_file_of_keys_that_cannot_be_read_opens_no_door(tmp_path: Path, content: str) -> None:
    (tmp_path / KEYS).write_text(content)
    found = last_keys(tmp_path)
    assert found is None or found.guarded


def test_key_that_was_taken_back_is_out_though_the_disk_takes_nothing(tmp_path: Path) -> None:
    tables = [KeyTable({KEY.key_id: KEY}, guarded=True), KeyTable({}, guarded=True)]
    blocked = tmp_path / "last"
    keys = RememberedKeys(lambda: tables.pop(0), blocked)
    assert keys().records
    shutil.rmtree(blocked)
    blocked.write_text("no folder can be made here")
    assert not keys().records
    blocked.unlink()
    tables.append(KeyTable({}, guarded=True))
    keys()
    # Tried again until it is kept, though nothing changed since.
    found = keys.last()
    assert found is not None
    assert not found.records
