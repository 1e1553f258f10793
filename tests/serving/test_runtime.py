"""Models in memory: a swap proves before it switches, and what was loaded serves on when it does not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app.artifacts.folder import publish
from app.artifacts.store import ArtifactUnavailable
from app.intent.cascade import decide_many
from app.intent.rules import Rule
from app.intent.text import MaskedText
from app.serving.runtime import KEPT_SCORERS, LoadFailed, Runtime
from tests.serving.artifacts import LABELS, Artifact, release


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def runtime(store: Path, artifact: Artifact) -> Runtime:
    """Serves `artifact` as epoch 1 of the domain `default`."""
    artifact.installed_in(store)
    runtime = Runtime(store)
    runtime.swap(release(artifact))
    return runtime


def _label(runtime: Runtime, text: str, domain: str = "default") -> str:
    loaded = runtime.find(domain)
    assert loaded is not None
    [decision] = decide_many([MaskedText(text)], loaded.tiers, threshold=loaded.release.threshold)
    assert decision.label_id is not None
    return loaded.release.paths[decision.label_id]


def test_unknown_domain_is_not_found(store: Path) -> None:
    assert Runtime(store).find("default") is None


def test_domain_without_a_version_is_found_and_has_no_tier(store: Path) -> None:
    runtime = Runtime(store)
    runtime.swap(release(None))
    loaded = runtime.find("default")
    assert loaded is not None
    assert loaded.tiers == ()
    assert decide_many([MaskedText("x")], loaded.tiers, threshold=1.0)[0].method == "none"


def test_loaded_version_answers(runtime: Runtime) -> None:
    assert _label(runtime, "手机开不了机") == LABELS[0]


def test_swap_replaces_one_domain_and_leaves_the_others(
    runtime: Runtime, store: Path, artifact: Artifact, other_artifact: Artifact
) -> None:
    other_artifact.installed_in(store)
    before = runtime.find("default")
    runtime.swap(release(other_artifact, domain="second"))
    assert runtime.find("default") is before
    runtime.swap(release(other_artifact, epoch=2))
    assert runtime.find("default") is not before
    assert _label(runtime, "我要退货") == _label(runtime, "我要退货", "second") == LABELS[1]


def _flip_a_bit(folder: Path) -> None:
    path = folder / "weights.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(folder: Path) -> None:
    path = folder / "vocabulary.json"
    path.write_bytes(path.read_bytes()[:-10])


def _change_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"temperature"', b'"temperaturf"'))


def _swap_two_files(folder: Path) -> None:
    one, two = folder / "references.json", folder / "lineage.json"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _add_a_file(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"x")


def _link_a_file(folder: Path) -> None:
    path = folder / "weights.npz"
    path.rename(folder.parent / "elsewhere.npz")
    path.symlink_to(folder.parent / "elsewhere.npz")


@pytest.mark.parametrize(
    "harm",
    [_flip_a_bit, _truncate, _change_the_manifest, _swap_two_files, _add_a_file, _link_a_file, shutil.rmtree],
    ids=lambda harm: harm.__name__.strip("_"),
)
def test_corrupt_artifact_is_refused_and_the_old_one_serves_on(
    runtime: Runtime, store: Path, other_artifact: Artifact, harm: object
) -> None:
    harm(other_artifact.installed_in(store))  # type: ignore[operator]
    before = runtime.find("default")

    with pytest.raises(LoadFailed) as refused:
        runtime.swap(release(other_artifact, epoch=2))

    assert refused.value.corrupt
    assert other_artifact.digest[:12] in str(refused.value)
    assert runtime.find("default") is before
    assert _label(runtime, "手机开不了机") == LABELS[0]


def test_artifact_under_the_name_of_another_is_refused(
    runtime: Runtime, store: Path, artifact: Artifact, other_artifact: Artifact
) -> None:
    shutil.copytree(artifact.folder, store / other_artifact.digest)
    with pytest.raises(LoadFailed, match="not what was trained"):
        runtime.swap(release(other_artifact, epoch=2))


def test_artifact_that_answers_otherwise_than_it_was_trained_to_is_refused(
    store: Path, artifact: Artifact, tmp_path: Path
) -> None:
    """Sealed again over changed reference answers, every digest is right: only the answers tell."""
    import json

    from app.scorers.artifact import MANIFEST, seal

    forged = tmp_path / "forged"
    shutil.copytree(artifact.folder, forged)
    references = json.loads((forged / "references.json").read_text())
    references["probabilities"][0] = references["probabilities"][0][::-1]
    (forged / "references.json").write_text(json.dumps(references))
    facts = json.loads((forged / MANIFEST).read_text())
    (forged / MANIFEST).unlink()
    digest = seal(forged, {name: value for name, value in facts.items() if name not in ("files", "format_version")})
    forged.rename((store.mkdir(), store / digest)[1])
    runtime = Runtime(store)

    with pytest.raises(LoadFailed, match="reference answer") as refused:
        runtime.swap(release(Artifact(store / digest, digest, artifact.label_ids)))

    assert refused.value.corrupt
    assert runtime.find("default") is None


def test_artifact_with_labels_that_the_domain_never_had_is_refused(runtime: Runtime, artifact: Artifact) -> None:
    before = runtime.find("default")
    with pytest.raises(LoadFailed, match=r"never had: \[3\]"):
        runtime.swap(release(artifact, epoch=2, paths={1: LABELS[0], 2: LABELS[1]}))
    assert runtime.find("default") is before


def test_renamed_label_answers_with_its_new_path_without_a_new_model(runtime: Runtime, artifact: Artifact) -> None:
    renamed = {1: "设备 > 不开机", 2: LABELS[1], 3: LABELS[2]}
    runtime.swap(release(artifact, paths=renamed, taxonomy_version=2))
    assert _label(runtime, "手机开不了机") == "设备 > 不开机"


def test_rollback_needs_no_file(runtime: Runtime, store: Path, artifact: Artifact, other_artifact: Artifact) -> None:
    other_artifact.installed_in(store)
    runtime.swap(release(other_artifact, epoch=2))
    shutil.rmtree(store)
    runtime.swap(release(artifact, epoch=3))
    assert _label(runtime, "手机开不了机") == LABELS[0]
    runtime.swap(release(other_artifact, epoch=4))
    assert _label(runtime, "手机开不了机") == LABELS[0]


def test_only_a_few_scorers_are_kept_beside_the_active_ones(store: Path, artifact: Artifact, tmp_path: Path) -> None:
    import json

    from app.scorers.artifact import MANIFEST, seal

    runtime = Runtime(store)
    store.mkdir()
    for number in range(8):
        folder = tmp_path / f"copy{number}"
        shutil.copytree(artifact.folder, folder)
        facts = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).unlink()
        facts = {name: value for name, value in facts.items() if name not in ("files", "format_version")}
        digest = seal(folder, facts | {"seed": number + 100})
        folder.rename(store / digest)
        runtime.swap(release(Artifact(store / digest, digest, artifact.label_ids), epoch=number + 1))
        assert len(runtime._scorers) <= KEPT_SCORERS + 1
    assert digest in runtime._scorers
    assert _label(runtime, "手机开不了机") == LABELS[0]


def test_rules_of_a_release_answer_beside_its_model_and_alone_where_it_cannot_be_loaded(
    store: Path, artifact: Artifact
) -> None:
    ruled = replace(release(artifact), rule_set_revision=1, rules=(Rule(7, artifact.label_ids[1], ("快递",)),))
    runtime = Runtime(store)
    with pytest.raises(LoadFailed):
        runtime.swap(ruled)
    runtime.answer_without_model(ruled)
    loaded = runtime.find("default")
    assert loaded is not None
    answered, silent = decide_many([MaskedText("我的快递"), MaskedText("你好")], loaded.tiers, loaded.release.threshold)
    assert (answered.label_id, answered.method, answered.trigger_check) == (
        artifact.label_ids[1],
        "keyword_fallback",
        True,
    )
    assert silent.label_id is None

    artifact.installed_in(store)
    runtime.swap(ruled)
    loaded = runtime.find("default")
    assert loaded is not None
    [both] = decide_many([MaskedText("我的快递")], loaded.tiers, loaded.release.threshold)
    assert (both.method, both.route_used) == ("local_model", ("rules", "discriminative"))


def test_a_rule_set_is_compiled_once_for_all_releases_that_serve_it(runtime: Runtime, artifact: Artifact) -> None:
    def tier_of(epoch: int, revision: int) -> object:
        rules = (Rule(7, artifact.label_ids[1], ("快递",)),)
        runtime.swap(replace(release(artifact, epoch=epoch), rule_set_revision=revision, rules=rules))
        loaded = runtime.find("default")
        assert loaded is not None
        return loaded.tiers[0]

    first = tier_of(2, 1)
    assert tier_of(3, 2) is not first
    assert tier_of(4, 1) is first


def test_epoch_that_was_overtaken_while_it_loaded_is_never_served(
    runtime: Runtime, store: Path, artifact: Artifact, other_artifact: Artifact
) -> None:
    other_artifact.installed_in(store)
    assert runtime.swap(release(artifact, epoch=3, version="default-v3"))
    assert not runtime.swap(release(other_artifact, epoch=2, version="default-v2"))
    assert runtime.find("default").release.version == "default-v3"  # type: ignore[union-attr]


def test_release_that_nobody_wants_any_more_is_not_switched_to_but_kept(
    runtime: Runtime, store: Path, other_artifact: Artifact
) -> None:
    other_artifact.installed_in(store)
    wanted = release(other_artifact, epoch=2)
    assert not runtime.has(wanted)
    assert not runtime.swap(wanted, may_serve=lambda: False)
    assert runtime.find("default").release.state.epoch == 1  # type: ignore[union-attr]
    assert runtime.has(wanted)


def test_what_flips_leave_behind_is_freed_as_soon_as_no_request_holds_it(
    store: Path, artifact: Artifact, tmp_path: Path
) -> None:
    """Two hundred flips over many versions: the scorers that live are those that are kept, and those that are held."""
    import gc
    import weakref

    from app.scorers.ngram import NgramScorer
    from bench.flipping.versions import constant_artifact

    labels = {f"label {number}": number for number in range(1, 9)}
    digests = []
    for number, label in enumerate(labels):
        made = constant_artifact(tmp_path / f"made-{number}", labels, label)
        store.mkdir(exist_ok=True)
        digests.append(publish(made, store))
    runtime, alive = Runtime(store), weakref.WeakSet()
    held = None
    for number in range(200):
        digest = digests[number * 3 % len(digests)]
        one = Artifact(store / digest, digest, tuple(labels.values()))
        runtime.swap(release(one, epoch=number + 1, paths={i: path for path, i in labels.items()}))
        alive.update(scorer for scorer in runtime._scorers.values() if isinstance(scorer, NgramScorer))
        if number == 5:
            held = runtime.find("default")
    gc.collect()
    assert len(runtime._scorers) <= KEPT_SCORERS + 1
    assert len(alive) == len(runtime._scorers) + 1
    assert held is not None
    assert decide_many([MaskedText("x")], held.tiers, threshold=0.1)[0].label_id == (5 * 3 % 8) + 1
    del held
    gc.collect()
    assert len(alive) == len(runtime._scorers)


def test_store_that_is_out_of_reach_is_no_fault_of_the_artifact(runtime: Runtime, other_artifact: Artifact) -> None:
    def out_of_reach(_: str) -> Path:
        raise ArtifactUnavailable("the artifact store does not answer: Timeout")

    runtime._fetch = out_of_reach
    with pytest.raises(LoadFailed, match="out of reach") as refused:
        runtime.swap(release(other_artifact, epoch=2))
    assert not refused.value.corrupt
    assert _label(runtime, "手机开不了机") == LABELS[0]
