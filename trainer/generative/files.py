"""The files of a generative artifact beside its adapter: how it is to be asked, and what each label's answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.scorers.artifact import ArtifactCorrupt, canonical_json, read_document
from trainer.generative.prompt import PROMPT_VERSION

SETTINGS = "generative.json"
ANSWERS = "answers.json"
TOKENIZER = "tokenizer.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

DTYPES = ("float32", "bfloat16")
MAX_TOKENIZER_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class GenerativeSettings:
    """How the artifact is to be asked.

    Args:
        base_name: the base model as the domain names it.
        base_digest: SHA-256 over the base's files.
        dtype: of the weights while they answer, one of `DTYPES`.
        start: token ids before every prompt.
        end: the token id after an answer.
        max_text_tokens: tokens of a text that are read.
        label_tokens: whether each label is answered by one token of its own.
        rank, alpha: of the adapter.
        targets: names of the modules that the adapter changes.
        prompt_version: of the words around text and labels.
    """

    base_name: str
    base_digest: str
    dtype: str
    start: tuple[int, ...]
    end: int
    max_text_tokens: int
    label_tokens: bool
    rank: int
    alpha: int
    targets: tuple[str, ...]
    prompt_version: int = PROMPT_VERSION


@dataclass(frozen=True, slots=True)
class Answer:
    """A label, its path on the day of the training, and the token ids that say it, their end included."""

    label_id: int
    path: str
    tokens: tuple[int, ...]


def write_files(folder: Path, settings: GenerativeSettings, answers: Sequence[Answer], tokenizer: bytes) -> None:
    """Write settings, label table with the vocabulary mask, and tokenizer."""
    (folder / SETTINGS).write_bytes(canonical_json(asdict(settings)))
    table = {"labels": [asdict(answer) for answer in answers], "vocabulary": vocabulary(answers)}
    (folder / ANSWERS).write_bytes(canonical_json(table))
    (folder / TOKENIZER).write_bytes(tokenizer)


def vocabulary(answers: Sequence[Answer]) -> list[int]:
    """The vocabulary mask: every token id that an answer can hold, ascending."""
    return sorted({token for answer in answers for token in answer.tokens})


def read_settings(folder: Path) -> GenerativeSettings:
    """Read what `write_files` wrote.

    Raises:
        ArtifactCorrupt: it is not that.
    """
    document = read_document(folder / SETTINGS)
    try:
        settings = GenerativeSettings(
            **{**document, "start": tuple(document["start"]), "targets": tuple(document["targets"])}
        )
    except (KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"{SETTINGS} does not hold the settings of a generative artifact") from error
    numbers = (settings.end, settings.max_text_tokens, settings.rank, settings.alpha, *settings.start)
    words = (settings.base_name, settings.base_digest, *settings.targets)
    if not all(type(number) is int and 0 <= number < 2**31 for number in numbers) or settings.rank < 1:
        raise ArtifactCorrupt(f"{SETTINGS} holds a number that no training writes")
    if not settings.targets or not all(isinstance(word, str) and word for word in words):
        raise ArtifactCorrupt(f"{SETTINGS} lacks the base or the adapter's targets")
    if settings.dtype not in DTYPES or type(settings.label_tokens) is not bool:
        raise ArtifactCorrupt(f"{SETTINGS} names a way of answering that this release does not know")
    if settings.prompt_version != PROMPT_VERSION:
        raise ArtifactCorrupt(
            f"it was trained with prompt {settings.prompt_version!r}; this release has {PROMPT_VERSION}"
        )
    return settings


def read_answers(folder: Path) -> tuple[Answer, ...]:
    """The label table, in the artifact's order.

    Raises:
        ArtifactCorrupt: it is none, or the vocabulary mask is not that of its answers.
    """
    document = read_document(folder / ANSWERS)
    try:
        answers = tuple(_answer(entry) for entry in document["labels"])
        mask = list(document["vocabulary"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{ANSWERS} does not hold labels with their tokens") from error
    if not answers or len({answer.tokens for answer in answers}) != len(answers) or mask != vocabulary(answers):
        raise ArtifactCorrupt(f"{ANSWERS} holds no labels, two with one answer, or another vocabulary than theirs")
    return answers


def _answer(entry: Mapping[str, Any]) -> Answer:
    tokens = tuple(entry["tokens"])
    if not tokens or not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
        raise ValueError("an answer has no usable tokens")
    return Answer(int(entry["label_id"]), str(entry["path"]), tokens)
