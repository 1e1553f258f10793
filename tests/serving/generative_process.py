"""A generative process without a model: the real server and its words, with a judge that knows keywords.

Its control file is read for each request: it answers when it need not `hold` any more, with `error` as its words for
why there is no answer; or it ends with the status `die`.
"""

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.scorers.artifact import LINEAGE, REFERENCES, OutOfFold, canonical_json, seal, write_out_of_fold
from app.scorers.generative_wire import GenerativeUnavailable
from trainer.generative.serving import Server

ANSWERS = "answers.json"
SURE = 0.999


@dataclass(frozen=True)
class Keywords:
    """Gives the label of the first keyword in the text `SURE`, and the others the rest; without one, all alike."""

    labels: Sequence[int]
    keywords: dict[str, int]
    control: Path | None = None

    def judge(self, text: str, candidates: Sequence[int] | None) -> tuple[Sequence[int], Sequence[float]]:
        asked = list(self.labels if candidates is None else candidates)
        if self.control is not None:
            obey(self.control, text, asked)
        meant = next((label for keyword, label in self.keywords.items() if keyword in text), None)
        if meant not in asked or len(asked) == 1:
            return asked, [1 / len(asked)] * len(asked)
        return asked, [SURE if label == meant else (1 - SURE) / (len(asked) - 1) for label in asked]


class Shelf:
    """Loads nothing but the keywords of an artifact."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._loaded: set[str] = set()

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def take(self, folder: Path) -> Keywords:
        said = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
        if "unusable" in said:
            raise GenerativeUnavailable("unusable", said["unusable"])
        self._loaded.add(str(folder))
        return Keywords(said["labels"], said["keywords"], self._control)


def obey(control: Path, text: str, asked: Sequence[int]) -> None:
    """Do what the test wants, and write down what was asked."""
    with (control.parent / "asked").open("a", encoding="utf-8") as file:
        file.write(json.dumps([text, list(asked)]) + "\n")
    while (wanted := json.loads(control.read_text()) if control.exists() else {}).get("hold"):
        time.sleep(0.01)
    if "die" in wanted:
        os._exit(wanted["die"])
    if "error" in wanted:
        raise GenerativeUnavailable("failed", wanted["error"])


def write_artifact(
    folder: Path,
    label_ids: Sequence[int],
    keywords: dict[str, int],
    *,
    answers: dict[str, Any] | None = None,
    out_of_fold: OutOfFold | None = None,
    wrong_by: float = 0.0,
) -> str:
    """An artifact of the form `generative` that such a process can be asked about; its digest.

    `answers` in place of what the judge reads; `wrong_by`: how far off its references are.
    """
    folder.mkdir(parents=True)
    judge = Keywords(label_ids, keywords)
    references = ["你好", "我要退货", *keywords]
    rows = [judge.judge(text, None)[1] for text in references]
    rows[0] = [rows[0][0] + wrong_by, *rows[0][1:]]
    document = {"label_ids": list(label_ids), "texts": references, "probabilities": rows}
    (folder / REFERENCES).write_bytes(canonical_json(document))
    said = answers or {"labels": list(label_ids), "keywords": keywords}
    (folder / ANSWERS).write_bytes(canonical_json(said))
    if out_of_fold is not None:
        write_out_of_fold(folder, out_of_fold)
        (folder / LINEAGE).write_bytes(canonical_json({"text_ids": out_of_fold.text_ids.tolist()}))
    facts = {
        "recipe": "lora",
        "scorer": "generative",
        "labels": [{"id": label_id, "path": f"label {label_id}"} for label_id in label_ids],
        "left_out_labels": [],
        "temperature": 1.0,
        "counts": {"texts": 3},
        "taxonomy_digest": "ab",
        "items_digest": "cd",
    }
    return seal(folder, facts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(options.socket, Shelf(options.control), waiting=16).run()


if __name__ == "__main__":
    main()
