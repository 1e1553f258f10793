"""The generative process as it is started, with torch, a base and an artifact."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.scorers import load_scorer
from app.scorers.artifact import ArtifactUnusable, check_reference_answers, digest
from app.scorers.generative import GenerativeClient, GenerativeScorer
from app.scorers.generative_process import PrivateProcess, command
from app.scorers.generative_wire import GenerativeUnavailable
from tests.trainer.generative.bases import write_base
from tests.trainer.specs import random_texts
from trainer.generative.__main__ import main
from trainer.generative.judging import load_judge

PATIENCE = 300.0


@pytest.fixture(scope="module")
def process(bases: Path) -> Iterator[PrivateProcess]:
    started = PrivateProcess(bases, threads=1)
    yield started
    started.close()


@pytest.fixture
def client(process: PrivateProcess) -> GenerativeClient:
    return GenerativeClient(process.socket)


def test_process_answers_as_the_trainer_did(generative: Path, bases: Path, client: GenerativeClient) -> None:
    scorer = GenerativeScorer(client, generative, (1, 2, 3))
    check_reference_answers(scorer, generative)
    judge = load_judge(generative, bases / "tiny")
    judge.temperature = _temperature(generative)
    texts = [*random_texts(5), "\ud800 <|endoftext|>", "机" * 20_000]
    assert scorer.probabilities(texts) == pytest.approx(judge.probabilities(texts), abs=1e-6)
    [ranking] = scorer.among(["手机开不了机"], [[3, 1]])
    assert sorted(label for label, _ in ranking) == [1, 3]
    assert scorer.probabilities([]).shape == (0, 3)


def test_process_stands_behind_the_service_for_the_processor(client: GenerativeClient) -> None:
    pid = client.ping(PATIENCE).pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


def test_artifacts_are_kept_and_the_oldest_goes(tmp_path: Path, generative: Path, client: GenerativeClient) -> None:
    copies = [tmp_path / name for name in ("a", "b", "c")]
    for copy in copies:
        shutil.copytree(generative, copy)
        client.judge(copy, ["x"], deadline_seconds=PATIENCE)
    assert client.ping(PATIENCE).loaded == (str(copies[1]), str(copies[2]))


def test_unusable_artifacts_are_one_sentence_and_the_next_is_answered(
    tmp_path: Path, generative: Path, client: GenerativeClient
) -> None:
    torn, pickled, other = tmp_path / "torn", tmp_path / "pickled", tmp_path / "other"
    for folder in (torn, pickled):
        shutil.copytree(generative, folder)
    (torn / "adapter_model.safetensors").write_bytes(b"\x08" + bytes(40))
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    other.mkdir()
    said = {
        torn: "adapter_model.safetensors has 41 bytes",
        pickled: "adapter_model.safetensors is missing",
        other: "manifest",
    }
    for folder, sentence in said.items():
        with pytest.raises(GenerativeUnavailable, match=sentence) as refused:
            client.judge(folder, ["x"], deadline_seconds=PATIENCE)
        assert refused.value.reason == "unusable"
    assert client.judge(generative, ["x"], deadline_seconds=PATIENCE)


def test_base_that_is_missing_or_another_one_is_named(tmp_path: Path, generative: Path, bases: Path) -> None:
    """In this process: what the shelf says goes over the socket as it is."""
    from trainer.generative.shelf import ArtifactShelf

    with pytest.raises(GenerativeUnavailable, match="'tiny' is not here: run: intentloop models pull tiny"):
        ArtifactShelf(tmp_path / "empty", kept=1).take(generative)
    write_base(tmp_path / "changed" / "tiny", seed=1)
    with pytest.raises(GenerativeUnavailable, match="is not the one that this artifact was trained on"):
        ArtifactShelf(tmp_path / "changed", kept=1).take(generative)
    pickled = tmp_path / "pickled"
    shutil.copytree(bases, pickled)
    (pickled / "tiny" / "model.safetensors").rename(pickled / "tiny" / "model.bin")
    with pytest.raises(GenerativeUnavailable, match="nothing is unpickled here"):
        ArtifactShelf(pickled, kept=1).take(generative)


def test_artifact_of_another_form_is_refused(tmp_path: Path, bases: Path) -> None:
    from tests.trainer.specs import train
    from trainer.generative.shelf import ArtifactShelf

    with pytest.raises(GenerativeUnavailable, match="form 'ngram' is not a generative one"):
        ArtifactShelf(bases, kept=1).take(train(tmp_path))


def test_folder_that_changed_is_loaded_anew(tmp_path: Path, generative: Path, bases: Path) -> None:
    from tests.trainer.generative.bases import train_lora
    from trainer.generative.shelf import ArtifactShelf

    place, shelf = tmp_path / "place", ArtifactShelf(bases, kept=1)
    shutil.copytree(generative, place)
    first = shelf.take(place)
    assert shelf.take(place) is first
    shutil.rmtree(place)
    shutil.copytree(train_lora(tmp_path, bases / "tiny", seed=7), place)
    assert shelf.take(place) is not first


def test_job_shares_one_process_starts_it_again_and_leaves_none(tmp_path: Path, generative: Path, bases: Path) -> None:
    scorer = load_scorer(generative, bases=bases)
    assert isinstance(scorer, GenerativeScorer)
    rival = GenerativeScorer.load(generative, bases=bases)
    pid = scorer._client.ping(PATIENCE).pid
    assert rival._client.ping(PATIENCE).pid == pid

    broken = tmp_path / "broken"
    shutil.copytree(generative, broken)
    (broken / "answers.json").unlink()
    with pytest.raises(ArtifactUnusable, match=r"answers\.json is missing"):
        load_scorer(broken, bases=bases)

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(GenerativeUnavailable) as dead:
        scorer.probabilities(["x"])
    assert dead.value.reason == "unreachable"
    again = GenerativeScorer.load(generative, bases=bases)
    second = again._client.ping(PATIENCE).pid
    assert np.isfinite(again.probabilities(["x"])).all()
    folder = again._client._path.parent
    del scorer, rival, again
    gc.collect()
    assert not _lives(second)
    assert not folder.exists()


def test_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """By its standard input: where the kernel has no word for it, that is what is left."""
    arguments = command(tmp_path / "s", None)
    arguments = arguments[arguments.index(sys.executable) :]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_wrong_options_and_missing_libraries_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--socket", str(tmp_path / "s"), "--threads", "0"])
    assert refused.value.code == 2
    capsys.readouterr()
    monkeypatch.setattr("trainer.generative.__main__.LIBRARIES", ("torch", "no_such_library"))
    assert main(["--socket", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "it needs no_such_library, which is not installed: pip install 'intentloop[train]'"
    ]


def test_process_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "app.scorers.generative_process.command",
        lambda *_, **__: [sys.executable, "-m", "trainer.generative", "--socket", str(tmp_path / "none" / "s")],
    )
    with pytest.raises(GenerativeUnavailable, match="did not start: the socket cannot be opened: No such file"):
        PrivateProcess(None, threads=1)


def _temperature(folder: Path) -> float:
    from app.scorers.artifact import verify

    return verify(folder, digest(folder)).temperature


def _lives(pid: int) -> bool:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
