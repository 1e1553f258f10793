"""Artifacts that were damaged in every way, flipped to again and again: none may serve, and the old one must.

A runtime serves one artifact while a domain is pointed at another that was damaged a moment before: bits flipped, cut
off, a page zeroed, two files swapped, labels exchanged in the manifest, files missing, surplus, linked, half arrived,
or another whole artifact under this one's name. Both forms take part, `ngram` and `onnx`, half of the time each. Every
now and then a whole artifact is flipped to, and its folder damaged or deleted after the flip.

For each: the answers stay bit for bit those of the artifact that serves, the failure is reported as the artifact's, and
looking again reads nothing again. `without_digest=True` drops the check of the digest, and must be caught.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from app.intent.cascade import Decision, decide_many
from app.intent.releases import Release
from app.intent.text import MaskedText
from app.scorers.artifact import MANIFEST, canonical_json, read_manifest
from app.serving.runtime import Runtime
from app.serving.watcher import Watcher
from bench.result import Bar, Result
from tests.scorers.encoders import write_artifact
from tests.serving.artifacts import LABELS, TEXTS, Artifact, release, train

PAGE = 4096
# Every so many mutations one follows a flip instead of coming before it: it loads two artifacts for it.
AFTER_FLIP_EVERY = 250
LOOKS = 3
QUESTIONS = tuple(MaskedText(texts[0]) for texts in TEXTS.values())

Files = dict[str, bytes]
Damage = Callable[[Path, Files, random.Random], None]


@dataclass
class Counts:
    """What became of the mutations."""

    mutations: int = 0
    accepted: int = 0
    answers_changed: int = 0
    unreported: int = 0
    most_tries: int = 0
    by_damage: dict[str, int] = field(default_factory=dict)


def run(*, quick: bool, seed: int) -> Result:
    """100,000 mutations, 2,000 when quick."""
    with tempfile.TemporaryDirectory() as folder:
        made = whole_artifacts(Path(folder) / "made")
        counts = torture(Path(folder), made, 2_000 if quick else 100_000, seed)
    print(", ".join(f"{name} {times}" for name, times in sorted(counts.by_damage.items())))
    return result(counts)


def result(counts: Counts) -> Result:
    """The counts with their bars."""
    return Result(
        {"mutations": counts.mutations},
        {
            "accepted_with_a_wrong_digest": Bar(counts.accepted, at_most=0),
            "answers_that_changed": Bar(counts.answers_changed, at_most=0),
            "failures_unreported": Bar(counts.unreported, at_most=0),
            "tries_of_one_release": Bar(counts.most_tries, at_most=1),
        },
    )


def torture(
    folder: Path, made: Mapping[str, Artifact], mutations: int, seed: int, *, without_digest: bool = False
) -> Counts:
    """Damage so many artifacts, copies of those that were made, and look what serves after each."""
    draw, counts = random.Random(seed), Counts()
    with _quiet(), _dropping_the_digest(without_digest):
        served = {form: _Served(folder / "store" / form, made["serving"], made[form]) for form in ("ngram", "onnx")}
        for number in range(mutations):
            form = draw.choice(("ngram", "onnx"))
            counts.mutations += 1
            if number % AFTER_FLIP_EVERY == AFTER_FLIP_EVERY - 1:
                _damage_after_flip(folder / "after", made["serving"], made[form], draw, counts)
            else:
                served[form].mutate(draw, counts)
    return counts


class _Served:
    """A runtime that serves one artifact, and a whole one beside it that is damaged, flipped to, and mended."""

    def __init__(self, store: Path, serving: Artifact, candidate: Artifact) -> None:
        serving.installed_in(store)
        self._candidate = candidate
        self._folder = candidate.installed_in(store)
        self._files = _content(self._folder)
        self._serving = serving.folder
        self._epoch = 1
        self._reports: list[tuple[str | None, bool]] = []
        self._wanted = release(serving, epoch=1)
        self._restart(store)

    def _restart(self, store: Path) -> None:
        self._tries = 0
        self._runtime = Runtime(store)
        self._runtime.swap(self._wanted)
        self._answers = _answers(self._runtime)
        self._loaded = self._runtime.find("default")
        self._watcher = Watcher(
            self._runtime,
            states=lambda: [self._wanted.state],
            release=self._read,
            report=lambda _, error, corrupt: self._reports.append((error, corrupt)),
            poll_seconds=1.0,
        )
        self._store = store

    def _read(self, _: int) -> Release:
        self._tries += 1
        return self._wanted

    def mutate(self, draw: random.Random, counts: Counts) -> None:
        """Damage the candidate, flip to it, look several times, and mend it."""
        name = draw.choice(KINDS)
        _damage(self._folder, self._files, name, draw, self._serving)
        counts.by_damage[name] = counts.by_damage.get(name, 0) + 1
        before, self._wanted = self._wanted, self._flip()
        self._reports.clear()
        self._tries = 0
        for _ in range(LOOKS):
            self._watcher.look()
        accepted = self._runtime.find("default") is not self._loaded
        counts.accepted += accepted
        counts.most_tries = max(counts.most_tries, self._tries)
        counts.unreported += not accepted and not any(error and corrupt for error, corrupt in self._reports)
        counts.answers_changed += _answers(self._runtime) != self._answers
        _mend(self._folder, self._files)
        if accepted:
            self._wanted = before
            self._restart(self._store)

    def _flip(self) -> Release:
        self._epoch += 1
        return release(self._candidate, epoch=self._epoch)


def _damage_after_flip(
    store: Path, serving: Artifact, candidate: Artifact, draw: random.Random, counts: Counts
) -> None:
    """A whole one serves; then its folder goes bad: it serves on, and one may go back and forth without the folder."""
    shutil.rmtree(store, ignore_errors=True)
    serving.installed_in(store)
    folder = candidate.installed_in(store)
    runtime = Runtime(store)
    runtime.swap(release(serving))
    runtime.swap(release(candidate, epoch=2))
    before = _answers(runtime)
    if draw.random() < 0.5:
        shutil.rmtree(folder)
    else:
        _damage(folder, _content(folder), draw.choice(KINDS), draw, serving.folder)
    counts.by_damage[AFTER_FLIP] = counts.by_damage.get(AFTER_FLIP, 0) + 1
    unchanged = _answers(runtime) == before
    runtime.swap(release(serving, epoch=3))
    runtime.swap(release(candidate, epoch=4))
    counts.answers_changed += not (unchanged and _answers(runtime) == before)


def _answers(runtime: Runtime) -> list[Decision]:
    loaded = runtime.find("default")
    assert loaded is not None
    return decide_many(QUESTIONS, loaded.tiers, loaded.release.threshold)


# The ways in which an artifact is damaged. Each gets the folder, what lies in it, and its own randomness.


def flip_bits(folder: Path, files: Files, draw: random.Random) -> None:
    name = _drawn(files, draw)
    content = bytearray(files[name])
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    (folder / name).write_bytes(content)


def truncate(folder: Path, files: Files, draw: random.Random) -> None:
    name = _drawn(files, draw)
    (folder / name).write_bytes(files[name][: draw.randrange(len(files[name]))])


def zero_a_page(folder: Path, files: Files, draw: random.Random) -> None:
    name = _drawn(files, draw)
    content = bytearray(files[name])
    start = PAGE * draw.randrange((len(content) + PAGE - 1) // PAGE)
    content[start : start + PAGE] = bytes(len(content[start : start + PAGE]))
    (folder / name).write_bytes(content)


def append(folder: Path, files: Files, draw: random.Random) -> None:
    name = _drawn(files, draw)
    (folder / name).write_bytes(files[name] + draw.randbytes(draw.randint(1, 64)))


def swap_two_files(folder: Path, files: Files, draw: random.Random) -> None:
    one, other = draw.sample(sorted(files), 2)
    (folder / one).write_bytes(files[other])
    (folder / other).write_bytes(files[one])


def exchange_labels(folder: Path, files: Files, draw: random.Random) -> None:
    facts = dict(read_manifest(folder).facts)
    labels = [dict(label) for label in facts["labels"]]
    one, other = draw.sample(range(len(labels)), 2)
    labels[one]["id"], labels[other]["id"] = labels[other]["id"], labels[one]["id"]
    (folder / MANIFEST).write_bytes(canonical_json({**facts, "labels": labels}))


def lose_a_file(folder: Path, files: Files, draw: random.Random) -> None:
    (folder / _drawn(files, draw)).unlink()


def arrive_by_half(folder: Path, files: Files, draw: random.Random) -> None:
    order = draw.sample(sorted(files), len(files))
    for name in order[draw.randrange(len(order)) :]:
        (folder / name).unlink()


def add_a_file(folder: Path, files: Files, draw: random.Random) -> None:
    (folder / f"extra_{draw.randrange(10)}.bin").write_bytes(draw.randbytes(8))


def link_a_file(folder: Path, files: Files, draw: random.Random) -> None:
    name = _drawn(files, draw)
    elsewhere = folder.parent / "elsewhere.bin"
    elsewhere.write_bytes(files[name])
    (folder / name).unlink()
    (folder / name).symlink_to(elsewhere)


DAMAGES: Mapping[str, Damage] = {
    damage.__name__: damage
    for damage in (
        flip_bits,
        truncate,
        zero_a_page,
        append,
        swap_two_files,
        exchange_labels,
        lose_a_file,
        arrive_by_half,
        add_a_file,
        link_a_file,
    )
}


# Another whole artifact lies under this one's name.
ANOTHER = "be_another"
AFTER_FLIP = "after_flip"
KINDS = (*DAMAGES, ANOTHER)


def _damage(folder: Path, files: Files, name: str, draw: random.Random, other: Path) -> None:
    """Until something differs: a page of zeros can be zeroed, and nothing has happened."""
    if name == ANOTHER:
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        return
    while True:
        DAMAGES[name](folder, files, draw)
        if name == "link_a_file" or _content(folder) != files:
            return


def _mend(folder: Path, files: Files) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_symlink() or path.name not in files:
            path.unlink()
    for name, content in files.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            (folder / name).write_bytes(content)


def _content(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _drawn(files: Files, draw: random.Random) -> str:
    """Large files and small ones alike."""
    return draw.choice(sorted(name for name, content in files.items() if content))


def whole_artifacts(folder: Path) -> dict[str, Artifact]:
    """One that serves, and one of each form that is to be damaged."""
    label_ids = (1, 2, 3)
    made = {"serving": train(folder / "serving", label_ids), "ngram": train(folder / "ngram", label_ids, seed=1)}
    paths = dict(zip(label_ids, LABELS, strict=True))
    examples = [
        (10 * label_id + number, text, label_id)
        for label_id, path in paths.items()
        for number, text in enumerate(TEXTS[path])
    ]
    digest = write_artifact(folder / "onnx", examples, paths=paths)
    return {**made, "onnx": Artifact(folder / "onnx", digest, label_ids)}


@contextmanager
def _dropping_the_digest(drop: bool) -> Iterator[None]:
    """A build that forgot what P5 is about."""
    if not drop:
        yield
        return
    with mock.patch("app.serving.runtime.verify", return_value=None):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Every refusal is a warning: a hundred thousand lines."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
