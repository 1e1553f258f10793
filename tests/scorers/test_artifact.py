import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.scorers import load_scorer
from app.scorers.artifact import (
    MANIFEST,
    OUT_OF_FOLD,
    ArtifactCorrupt,
    canonical_json,
    check_reference_answers,
    digest,
    read_arrays,
    read_lineage,
    read_manifest,
    read_out_of_fold,
    seal,
    verify,
)
from app.scorers.ngram import WEIGHTS


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    """An artifact that a test may damage."""
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def reseal(folder: Path, **changes: Any) -> str:
    """Make a changed folder's manifest fit its files again, as someone who registers a bad artifact would."""
    facts = {**read_manifest(folder).facts, **changes}
    (folder / MANIFEST).unlink()
    return seal(folder, facts)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(document)
    content = canonical_json(document)
    (folder / MANIFEST).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_verify_accepts_what_the_trainer_wrote_and_returns_its_manifest(artifact: Path) -> None:
    manifest = verify(artifact, digest(artifact))

    assert manifest.recipe == "ngram"
    assert manifest.label_ids == (1, 2, 3)
    assert manifest.label_paths[0] == "硬件故障 > 无法开机"
    assert manifest.text_count == 15
    assert set(manifest.files) == {
        "lineage.json",
        "out_of_fold.npz",
        "references.json",
        "vocabulary.json",
        "weights.npz",
    }


@pytest.mark.parametrize("name", ["manifest.json", "weights.npz", "vocabulary.json", "references.json", "lineage.json"])
def test_verify_finds_every_flipped_bit(copy: Path, name: str) -> None:
    registered = digest(copy)
    content = (copy / name).read_bytes()
    step = max(1, len(content) // 60)
    for position in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        (copy / name).write_bytes(flipped)
        with pytest.raises(ArtifactCorrupt):
            verify(copy, registered)
    (copy / name).write_bytes(content)
    verify(copy, registered)


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "lineage.json").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def add(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"surplus")


def add_hidden(folder: Path) -> None:
    (folder / ".hidden").write_bytes(b"")


def add_folder(folder: Path) -> None:
    (folder / "inner").mkdir()


def swap(folder: Path) -> None:
    (folder / "lineage.json").rename(folder / "held")
    (folder / "references.json").rename(folder / "lineage.json")
    (folder / "held").rename(folder / "references.json")


def link(folder: Path) -> None:
    # The very same bytes, but where the link points can change after the check.
    (folder / WEIGHTS).rename(folder.parent / "elsewhere.npz")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere.npz")


def link_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "elsewhere.json")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere.json")


def replace_with_pipe(folder: Path) -> None:
    (folder / "lineage.json").unlink()
    os.mkfifo(folder / "lineage.json")


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, remove, remove_manifest, add, add_hidden, add_folder, swap],
    ids=lambda damage: damage.__name__,
)
def test_verify_refuses_a_damaged_folder(copy: Path, damage: Callable[[Path], None]) -> None:
    registered = digest(copy)
    damage(copy)

    with pytest.raises(ArtifactCorrupt):
        verify(copy, registered)


@pytest.mark.parametrize("damage", [link, link_manifest, replace_with_pipe], ids=lambda damage: damage.__name__)
def test_verify_opens_nothing_but_plain_files(copy: Path, damage: Callable[[Path], None]) -> None:
    registered = digest(copy)
    damage(copy)

    with pytest.raises(ArtifactCorrupt, match="not a plain file"):
        verify(copy, registered)


def test_verify_refuses_a_folder_that_is_a_link(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)

    with pytest.raises(ArtifactCorrupt, match="not a folder"):
        verify(tmp_path / "link", digest(copy))


def test_verify_refuses_another_whole_artifact(copy: Path) -> None:
    registered = digest(copy)
    assert reseal(copy, seed=7) != registered

    with pytest.raises(ArtifactCorrupt, match="manifest differs"):
        verify(copy, registered)


@pytest.mark.parametrize("registered", ["", "abc", "g" * 64, "A" * 64, "a" * 64 + "\n"])
def test_verify_refuses_a_digest_that_is_none(artifact: Path, registered: str) -> None:
    with pytest.raises(ArtifactCorrupt, match="64 hexadecimal digits"):
        verify(artifact, registered)


@pytest.mark.parametrize("name", ["../weights.npz", "/etc/passwd", "a/b.npz", "..", ".hidden", "weights", MANIFEST])
def test_manifest_may_not_name_a_file_outside_its_folder(copy: Path, name: str) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["files"][name] = document["files"].pop(WEIGHTS)

    registered = rewrite_manifest(copy, rename)

    with pytest.raises(ArtifactCorrupt, match="file name"):
        verify(copy, registered)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"labels": []},
        {"labels": [{"id": 1, "path": "a"}, {"id": 1, "path": "b"}]},
        {"labels": "none"},
        {"files": []},
        {"files": {"weights.npz": {"size": -1, "sha256": "0" * 64}}},
        {"files": {"weights.npz": {"size": 1, "sha256": "../x"}}},
        {"files": {f"f{n}.bin": {"size": 0, "sha256": "0" * 64} for n in range(65)}},
        {"temperature": 0.0},
        {"temperature": "hot"},
        {"counts": None},
    ],
    ids=lambda changes: f"{next(iter(changes))}",
)
def test_manifest_with_a_wrong_field_is_refused(copy: Path, changes: Mapping[str, Any]) -> None:
    registered = rewrite_manifest(copy, lambda document: document.update(changes))

    with pytest.raises(ArtifactCorrupt):
        verify(copy, registered)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format_version": 1}', b"NaN"])
def test_manifest_that_is_no_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)

    with pytest.raises(ArtifactCorrupt):
        read_manifest(copy)


def test_loading_an_unknown_recipe_names_the_known_ones(copy: Path) -> None:
    rewrite_manifest(copy, lambda document: document.update(recipe="oracle"))

    with pytest.raises(ArtifactCorrupt, match="ngram"):
        load_scorer(copy)


def test_reference_answers_are_those_of_the_loaded_scorer(artifact: Path) -> None:
    check_reference_answers(load_scorer(artifact), artifact, tolerance=1e-12)


def test_reference_answers_find_weights_that_were_altered(copy: Path) -> None:
    arrays = read_arrays(copy / WEIGHTS, ("document_weights", "weights", "bias"))
    arrays["weights"][:, 0] *= np.float32(1.05)
    np.savez(copy / WEIGHTS, allow_pickle=False, **arrays)
    # Registered as it is now: only the answers can tell.
    verify(copy, reseal(copy))

    with pytest.raises(ArtifactCorrupt, match="reference answer is off"):
        check_reference_answers(load_scorer(copy), copy)


def test_reference_answers_find_a_temperature_that_was_altered(copy: Path) -> None:
    reseal(copy, temperature=read_manifest(copy).temperature * 2)

    with pytest.raises(ArtifactCorrupt, match="reference answer is off"):
        check_reference_answers(load_scorer(copy), copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"label_ids": [1, 2, 4]},
        {"probabilities": [[0.5, 0.5, 0.0]]},
        {"probabilities": "none"},
        {"texts": 3},
    ],
    ids=str,
)
def test_references_that_do_not_fit_are_refused(copy: Path, changes: Mapping[str, Any]) -> None:
    references = copy / "references.json"
    references.write_bytes(canonical_json({**json.loads(references.read_text(encoding="utf-8")), **changes}))

    with pytest.raises(ArtifactCorrupt):
        check_reference_answers(load_scorer(copy), copy)


def test_out_of_fold_scores_have_a_row_for_every_trained_text(artifact: Path) -> None:
    scores = read_out_of_fold(artifact)

    assert scores.text_ids.tolist() == list(range(101, 116)) == list(read_lineage(artifact))
    assert scores.label_ids.tolist() == [1] * 5 + [2] * 5 + [3] * 5
    assert scores.probabilities.shape == (15, 3)
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1.0, atol=1e-6)


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, bias=np.array([{"a": 1}], dtype=object))

    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        read_arrays(path, ("bias",))


def test_arrays_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, bias=np.zeros(10_000_000, dtype=np.float32))

    with pytest.raises(ArtifactCorrupt, match="compressed"):
        read_arrays(path, ("bias",))


def test_arrays_that_claim_to_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, bias=np.zeros(10, dtype=np.float32))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)

    with pytest.raises(ArtifactCorrupt, match="more than itself"):
        read_arrays(path, ("bias",))


def test_arrays_whose_header_promises_more_than_there_is_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bias.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())

    with pytest.raises(ArtifactCorrupt):
        read_arrays(path, ("bias",))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"x" * 1000])
def test_a_file_that_is_no_archive_is_refused(copy: Path, content: bytes) -> None:
    (copy / OUT_OF_FOLD).write_bytes(content)

    with pytest.raises(ArtifactCorrupt):
        read_out_of_fold(copy)
