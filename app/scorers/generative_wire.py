"""The words between the generative process and those who ask it: JSON lines over a Unix domain socket."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 2**20
MAX_ANSWER_BYTES = 16 * 2**20
MAX_TEXTS = 64
MAX_CANDIDATES = 4_096
MAX_TEXT_CHARACTERS = 10_000
MAX_ID_CHARACTERS = 64
MOST_DEADLINE_SECONDS = 3_600.0

# Why there is no answer: the queue is full; the deadline passed; the request is none; the artifact or its base cannot
# be loaded; the computation failed. A client adds the last two: nobody listens, or what came back is no answer.
REASONS = ("busy", "late", "invalid", "unusable", "failed", "unreachable", "garbled")

Ranking = tuple[tuple[int, float], ...]


class GenerativeUnavailable(Exception):
    """The generative process gave no answer. `reason` is one of `REASONS`; the message never holds a text."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class RequestInvalid(ValueError):
    """A line is no request. The message never holds a text."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: texts to judge, each among its own candidates, or among all labels where they are None."""

    request_id: str
    artifact: str
    texts: tuple[str, ...]
    candidates: tuple[tuple[int, ...] | None, ...]
    deadline_seconds: float

    def line(self) -> bytes:
        """The request as it goes over the socket."""
        return line_of(
            {
                "id": self.request_id,
                "artifact": self.artifact,
                "texts": self.texts,
                "candidates": self.candidates,
                "deadline_seconds": self.deadline_seconds,
            }
        )


def line_of(document: Mapping[str, Any]) -> bytes:
    """One JSON object and a line end. ASCII, so that half of a surrogate pair has a form too."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def read_line(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        RequestInvalid: it is none.
    """
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestInvalid("the line is not JSON") from error
    if not isinstance(value, dict):
        raise RequestInvalid("the line is not a JSON object")
    return value


def id_of(document: Mapping[str, Any]) -> str | None:
    """The request's id, where it has a usable one: an error should reach who asked."""
    found = document.get("id")
    return found if isinstance(found, str) and len(found) <= MAX_ID_CHARACTERS else None


def read_request(document: Mapping[str, Any]) -> Request:
    """A checked request.

    Raises:
        RequestInvalid: a field is missing, of the wrong type, or beyond its bound.
    """
    request_id, artifact = id_of(document), document.get("artifact")
    if request_id is None:
        raise RequestInvalid(f"id must be a string of at most {MAX_ID_CHARACTERS} characters")
    if not isinstance(artifact, str) or not artifact or "\0" in artifact:
        raise RequestInvalid("artifact must name a folder")
    texts = document.get("texts")
    if not isinstance(texts, list) or len(texts) > MAX_TEXTS or not all(isinstance(text, str) for text in texts):
        raise RequestInvalid(f"texts must be a list of at most {MAX_TEXTS} strings")
    if any(len(text) > MAX_TEXT_CHARACTERS for text in texts):
        raise RequestInvalid(f"a text has more than {MAX_TEXT_CHARACTERS} characters")
    candidates = document.get("candidates")
    if candidates is None:
        candidates = [None] * len(texts)
    if not isinstance(candidates, list) or len(candidates) != len(texts):
        raise RequestInvalid("candidates must be null, or a list with one entry for each text")
    seconds = document.get("deadline_seconds")
    # A truth value is an int in Python, and NaN fails every comparison.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.0 < seconds <= MOST_DEADLINE_SECONDS:
        raise RequestInvalid(f"deadline_seconds must lie above 0 and at most at {MOST_DEADLINE_SECONDS:g}")
    return Request(
        request_id, artifact, tuple(texts), tuple(_candidates(entry) for entry in candidates), float(seconds)
    )


def read_answers(document: Mapping[str, Any], n_texts: int) -> list[Ranking]:
    """The answers of the process: for each text its labels with their probabilities, the best first.

    Raises:
        GenerativeUnavailable: it says why there are none, or they are not answers.
    """
    if "error" in document:
        raise refusal_of(document)
    try:
        answers = [
            tuple((int(label), float(probability)) for label, probability in ranking) for ranking in document["answers"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise GenerativeUnavailable("garbled", "the generative process sent something that is no answer") from error
    sums = [math.fsum(probability for _, probability in ranking) for ranking in answers]
    if len(answers) != n_texts or not all(math.isfinite(total) and abs(total - 1.0) < 1e-3 for total in sums):
        raise GenerativeUnavailable("garbled", "the generative process sent something that is no answer")
    return answers


def refusal_of(document: Mapping[str, Any]) -> GenerativeUnavailable:
    """What the process says instead of an answer."""
    reason = document.get("reason")
    return GenerativeUnavailable(reason if reason in REASONS else "failed", str(document["error"])[:500])


def ranked(labels: Sequence[int], probabilities: Sequence[float]) -> list[list[int | float]]:
    """Labels with their probabilities, the best first, equal ones in the order given."""
    order = sorted(range(len(labels)), key=lambda position: -probabilities[position])
    return [[labels[position], probabilities[position]] for position in order]


def _candidates(entry: Any) -> tuple[int, ...] | None:
    if entry is None:
        return None
    if not isinstance(entry, list) or not 0 < len(entry) <= MAX_CANDIDATES:
        raise RequestInvalid(f"a text's candidates must be null or a list of 1 to {MAX_CANDIDATES} label ids")
    if not all(type(label) is int for label in entry) or len(set(entry)) != len(entry):
        raise RequestInvalid("a text's candidates must be distinct label ids")
    return tuple(entry)
