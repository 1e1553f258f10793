"""Keep the generative artifacts that were asked last in memory, each with its base."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from app.scorers.artifact import ArtifactUnusable, digest, verify
from app.scorers.generative_wire import GenerativeUnavailable

if TYPE_CHECKING:
    from trainer.generative.judging import GenerativeJudge


class ArtifactShelf:
    """At most `kept` loaded artifacts; the one that was asked longest ago goes first.

    torch is loaded with the first of them: a process that is never asked takes no memory for it.
    """

    def __init__(self, bases: Path | None, *, kept: int, threads: int = 1) -> None:
        """`bases`: the folder of base models. `threads`: how many compute one answer."""
        self._bases = bases
        self._kept = kept
        self._threads = threads
        self._judges: OrderedDict[str, tuple[str, GenerativeJudge]] = OrderedDict()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The folders of those in memory, the last one asked at the end."""
        return tuple(self._judges)

    def take(self, folder: Path) -> GenerativeJudge:
        """Load the artifact, or find it loaded. A folder whose manifest changed is loaded anew.

        Raises:
            GenerativeUnavailable: it, or its base, cannot be loaded here.
        """
        try:
            name, found = str(folder), digest(folder)
            held = self._judges.pop(name, None)
            if held is None or held[0] != found:
                held = None
                # Before the next one is loaded: two of a size that only just fits must not meet.
                while len(self._judges) >= self._kept:
                    self._judges.popitem(last=False)
                held = (found, self._load(folder, found))
        except (ArtifactUnusable, OSError) as error:
            said = str(error) if isinstance(error, ArtifactUnusable) else "the artifact cannot be read"
            raise GenerativeUnavailable("unusable", said) from error
        self._judges[name] = held
        return held[1]

    def _load(self, folder: Path, found: str) -> GenerativeJudge:
        keep_quiet(self._threads)
        from trainer.generative.files import read_settings
        from trainer.generative.judging import find_base, load_judge

        manifest = verify(folder, found)
        if manifest.scorer != "generative":
            raise ArtifactUnusable(f"an artifact of the form {manifest.scorer[:40]!r} is not a generative one")
        judge = load_judge(folder, find_base(read_settings(folder), self._bases).folder, manifest.temperature)
        if judge.label_ids != manifest.label_ids:
            raise ArtifactUnusable("the label table is not that of the manifest")
        return judge


def keep_quiet(threads: int) -> None:
    """Bound torch's threads, and keep what the libraries advise out of standard error."""
    import torch

    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    for name in ("transformers", "peft", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
