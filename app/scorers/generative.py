"""Ask the generative process: the client of its socket, and an artifact behind it as a scorer. No torch here."""

from __future__ import annotations

import math
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.intent.arrays import FloatArray
from app.scorers.artifact import ArtifactCorrupt, ArtifactUnusable, read_manifest
from app.scorers.generative_process import PrivateProcess, private_process
from app.scorers.generative_wire import (
    MAX_ANSWER_BYTES,
    MAX_LINE_BYTES,
    MAX_TEXT_CHARACTERS,
    MAX_TEXTS,
    MOST_DEADLINE_SECONDS,
    GenerativeUnavailable,
    Ranking,
    Request,
    RequestInvalid,
    line_of,
    read_answers,
    read_line,
    refusal_of,
)

# Beyond the deadline, which the process itself keeps between texts: one text may still be computed.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What the process says about itself.

    Args:
        pid: its process id.
        waiting: requests that wait.
        loaded: the folders of the artifacts that it holds.
    """

    pid: int
    waiting: int
    loaded: tuple[str, ...]


class GenerativeClient:
    """Asks the process behind a socket. Each question is a connection of its own, so threads may share the client."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ping(self, timeout_seconds: float = 1.0) -> ProcessStatus:
        """Ask whether it lives; answered at once, also while it computes.

        Raises:
            GenerativeUnavailable: nobody listens, or what came back is no answer.
        """
        said = self._exchange(line_of({"ping": 1}), timeout_seconds)
        if "error" in said:
            raise refusal_of(said)
        try:
            return ProcessStatus(int(said["pid"]), int(said["waiting"]), tuple(map(str, said["loaded"])))
        except (KeyError, TypeError, ValueError) as error:
            raise GenerativeUnavailable("garbled", "the generative process sent something that is no answer") from error

    def judge(
        self,
        artifact: Path,
        texts: Sequence[str],
        candidates: Sequence[Sequence[int] | None] | None = None,
        *,
        deadline_seconds: float,
        grace_seconds: float = GRACE_SECONDS,
    ) -> list[Ranking]:
        """For each text its candidates with their probabilities, the best first; rows sum to 1.

        Args:
            artifact: the folder of an artifact of the form `generative`, verified by the caller.
            texts: at most `MAX_TEXTS`; of each the first `MAX_TEXT_CHARACTERS` characters count. None only loads.
            candidates: label ids of the artifact for each text; None asks among all of them.
            deadline_seconds: how long the answers are of use, waiting included.
            grace_seconds: how much longer this call waits for the process to say that it was too late.

        Raises:
            GenerativeUnavailable: there is no answer; its `reason` and its sentence say why.
        """
        if not 0.0 < deadline_seconds <= MOST_DEADLINE_SECONDS:
            raise ValueError(f"deadline_seconds must lie above 0 and at most at {MOST_DEADLINE_SECONDS:g}")
        request = Request(
            uuid.uuid4().hex,
            str(artifact.absolute()),
            tuple(text[:MAX_TEXT_CHARACTERS] for text in texts),
            tuple(None if entry is None else tuple(entry) for entry in candidates or [None] * len(texts)),
            deadline_seconds,
        )
        said = self._exchange(request.line(), deadline_seconds + grace_seconds)
        if "error" not in said and said.get("id") != request.request_id:
            raise GenerativeUnavailable("garbled", "the generative process answered another request")
        return read_answers(said, len(texts))

    def _exchange(self, line: bytes, timeout_seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_seconds
        received = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_seconds)
                connection.connect(str(self._path))
                # Who refuses before it has read everything has answered nevertheless.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(line)
                while not received.endswith(b"\n") and len(received) <= MAX_ANSWER_BYTES:
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    part = connection.recv(2**16)
                    if not part:
                        break
                    received += part
        except TimeoutError as error:
            said = f"the generative process was silent for {timeout_seconds:g} s"
            raise GenerativeUnavailable("late", said) from error
        except OSError as error:
            said = f"the generative process does not answer: {error.strerror}"
            raise GenerativeUnavailable("unreachable", said) from error
        if not received:
            raise GenerativeUnavailable("unreachable", "the generative process hung up")
        try:
            return read_line(bytes(received))
        except RequestInvalid as error:
            raise GenerativeUnavailable("garbled", "the generative process sent something that is no answer") from error


class GenerativeScorer:
    """An artifact of the form `generative` as a scorer: the process computes, this object asks."""

    def __init__(
        self,
        client: GenerativeClient,
        artifact: Path,
        label_ids: tuple[int, ...],
        *,
        deadline_seconds: float = 600.0,
        keep: PrivateProcess | None = None,
    ) -> None:
        """`deadline_seconds`: for one text. `keep`: the process that must live as long as this scorer."""
        self._client = client
        self._artifact = artifact
        self._label_ids = label_ids
        self._columns = {label: column for column, label in enumerate(label_ids)}
        self._deadline_seconds = deadline_seconds
        self._keep = keep

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1, bases: Path | None = None) -> GenerativeScorer:
        """Load an artifact that was verified into a private process, which ends when its last scorer is dropped.

        Raises:
            ArtifactUnusable: the artifact or its base cannot be loaded.
            GenerativeUnavailable: the process did not start, or died.
        """
        manifest = read_manifest(folder)
        process = private_process(bases, threads=threads)
        try:
            try:
                client = _load_into(process, folder)
            except GenerativeUnavailable as error:
                if error.reason != "unreachable":
                    raise
                # The process of an earlier scorer may be dying: once more, with one of its own.
                process = private_process(bases, threads=threads, but_not=process)
                client = _load_into(process, folder)
        except GenerativeUnavailable as error:
            if error.reason == "unusable":
                raise ArtifactUnusable(str(error)) from error
            raise
        return cls(client, folder, manifest.label_ids, keep=process)

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The label of each column of `probabilities`."""
        return self._label_ids

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """Calibrated probabilities over all leaves, shape (n_texts, n_labels); rows sum to 1.

        Raises:
            GenerativeUnavailable: the process gave no answer.
            ArtifactCorrupt: it answered with labels that the manifest does not list.
        """
        answers = np.zeros((len(texts), len(self._label_ids)), dtype=np.float64)
        for row, ranking in enumerate(self.among(texts, [None] * len(texts))):
            if {label for label, _ in ranking} != set(self._columns):
                raise ArtifactCorrupt("the generative process does not answer with the labels of the manifest")
            for label, probability in ranking:
                answers[row, self._columns[label]] = probability
        return answers

    def among(self, texts: Sequence[str], candidates: Sequence[Sequence[int] | None]) -> list[Ranking]:
        """For each text its candidates (label ids; None: all) with calibrated probabilities, the best first.

        Raises:
            GenerativeUnavailable: the process gave no answer.
        """
        rankings: list[Ranking] = []
        size = max(1, min(MAX_TEXTS, math.floor(MOST_DEADLINE_SECONDS / self._deadline_seconds), _texts_a_line(texts)))
        for first in range(0, len(texts), size):
            part = slice(first, first + size)
            seconds = self._deadline_seconds * len(texts[part])
            rankings += self._client.judge(self._artifact, texts[part], candidates[part], deadline_seconds=seconds)
        return rankings


def _load_into(process: PrivateProcess, folder: Path) -> GenerativeClient:
    client = GenerativeClient(process.socket)
    client.judge(folder, [], deadline_seconds=MOST_DEADLINE_SECONDS)
    return client


def _texts_a_line(texts: Sequence[str]) -> int:
    """How many of these texts fit into one line: a character outside the BMP takes twelve bytes there."""
    longest = max((min(len(text), MAX_TEXT_CHARACTERS) for text in texts), default=1)
    return max(1, MAX_LINE_BYTES // 2 // (12 * longest + 12))
