"""Answer texts from a generative artifact: its labels, scored word by word, as calibrated probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.artifacts.base_models import BaseModel, BaseModelUnusable, describe, files, find
from app.intent.arrays import FloatArray
from app.scorers.artifact import ArtifactCorrupt, ArtifactUnusable, read_content
from app.scorers.generative_wire import RequestInvalid
from trainer.generative import causal_model
from trainer.generative.files import (
    MAX_TOKENIZER_BYTES,
    TOKENIZER,
    Answer,
    GenerativeSettings,
    read_answers,
    read_settings,
    vocabulary,
)
from trainer.generative.label_trie import Cache, LabelTrie, TrieReader, build_trie
from trainer.generative.prompt import PromptTokens, TokenizerUnusable


class GenerativeJudge:
    """A loaded artifact. A text's answer does not depend on what was asked before: each is a run of its own."""

    def __init__(self, model: Any, prompts: PromptTokens, answers: Sequence[Answer], temperature: float = 1.0) -> None:
        """`model`: narrowed to the vocabulary of `answers`."""
        self.label_ids = tuple(answer.label_id for answer in answers)
        self.temperature = temperature
        self._answers = answers
        self._places = {label: place for place, label in enumerate(self.label_ids)}
        self._reader = TrieReader(model, vocabulary(answers))
        self._prompts = prompts
        self._all: tuple[LabelTrie, Cache] | None = None

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """Calibrated probabilities over all labels, shape (n_texts, n_labels); rows sum to 1."""
        rows = [self._calibrated(self.scores(text, None)[1]) for text in texts]
        return np.vstack(rows) if rows else np.empty((0, len(self.label_ids)))

    def judge(self, text: str, candidates: Sequence[int] | None) -> tuple[Sequence[int], Sequence[float]]:
        """The candidates in the artifact's order, all labels where they are None, and their probabilities.

        Raises:
            RequestInvalid: a candidate is not a label of the artifact.
        """
        labels, scores = self.scores(text, candidates)
        return labels, self._calibrated(scores).tolist()

    def scores(self, text: str, candidates: Sequence[int] | None) -> tuple[Sequence[int], FloatArray]:
        """The candidates in the artifact's order, and log P(answer | prompt) of each: not normalised over them.

        Raises:
            RequestInvalid: a candidate is not a label of the artifact.
        """
        body = self._prompts.body(text)
        if candidates is None or set(candidates) == set(self.label_ids):
            if self._all is None:
                self._all = self._trie(self._answers), self._reader.read_head(self._head(self._answers))
            trie, head = self._all
            return self.label_ids, self._reader.score(trie, body, head)
        if unknown := [label for label in candidates if label not in self._places]:
            raise RequestInvalid(f"the artifact does not know the label {unknown[0]}")
        chosen = [self._answers[place] for place in sorted(self._places[label] for label in candidates)]
        prompt = [*self._head(chosen), *body]
        return [answer.label_id for answer in chosen], self._reader.score(self._trie(chosen), prompt)

    def _head(self, answers: Sequence[Answer]) -> list[int]:
        return self._prompts.head([answer.path for answer in answers])

    def _trie(self, answers: Sequence[Answer]) -> LabelTrie:
        return build_trie([answer.tokens for answer in answers])

    def _calibrated(self, scores: FloatArray) -> FloatArray:
        odds: FloatArray = np.exp((scores - scores.max()) / self.temperature)
        shares: FloatArray = odds / odds.sum()
        return shares


def load_judge(folder: Path, base: Path, temperature: float = 1.0) -> GenerativeJudge:
    """Load an artifact's files.

    Args:
        base: the folder of the base that it names, as `find_base` proves it.

    Raises:
        ArtifactUnusable: a file is damaged, or the base cannot be loaded.
    """
    settings, answers = read_settings(folder), read_answers(folder)
    tokenizer = read_content(folder / TOKENIZER, MAX_TOKENIZER_BYTES)
    tensors = causal_model.read_adapter(folder)
    try:
        prompts = PromptTokens(
            tokenizer, start=settings.start, end=settings.end, max_text_tokens=settings.max_text_tokens
        )
        model = causal_model.load_causal(base, settings.dtype)
    except (TokenizerUnusable, BaseModelUnusable) as error:
        raise ArtifactUnusable(str(error)) from error
    own = [answer.tokens[0] for answer in answers] if settings.label_tokens else []
    causal_model.grow_vocabulary(model, 1 + max(own, default=0))
    if max(vocabulary(answers)) >= model.get_input_embeddings().weight.shape[0]:
        raise ArtifactCorrupt("an answer holds a token that the base model does not know")
    adapted = causal_model.with_adapter(model, settings, own)
    causal_model.set_adapter(adapted, tensors)
    return GenerativeJudge(causal_model.narrowed(adapted, vocabulary(answers)), prompts, answers, temperature)


def find_base(settings: GenerativeSettings, bases: Path | None) -> BaseModel:
    """The base that an artifact names, proved by its digest.

    Raises:
        ArtifactUnusable: it is not here, or it is another one.
    """
    try:
        found = described(settings.base_name, find(settings.base_name, bases or Path("models")))
    except (BaseModelUnusable, OSError) as error:
        raise ArtifactUnusable(str(error)) from error
    if found.digest != settings.base_digest:
        raise ArtifactUnusable(
            f"the base model {settings.base_name[:200]!r} is not the one that this artifact was trained on: "
            f"it has the hash {found.digest[:12]}, not {settings.base_digest[:12]}"
        )
    return found


_described: dict[tuple[str, str, tuple[tuple[str, int, int], ...]], BaseModel] = {}


def described(name: str, folder: Path) -> BaseModel:
    """A base with its digest. Gigabytes are hashed once in a process, as long as no file of it changes.

    Raises:
        BaseModelUnusable: it is no model that a recipe could load.
    """
    states = [(str(path), path.stat()) for path in files(folder)]
    key = (name, str(folder), tuple((path, state.st_size, state.st_mtime_ns) for path, state in states))
    if key not in _described:
        _described[key] = describe(name, folder)
    return _described[key]
