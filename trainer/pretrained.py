"""Load a pretrained model from a folder: its own files alone, never code of its own, never pickled weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.artifacts.base_models import BaseModelUnusable, check


def load_pretrained(auto: Any, folder: Path, named: str, *, how: str = "", **options: Any) -> tuple[Any, list[str]]:
    """What a class as AutoModel makes of a folder, in eval mode, and the names of the weights that its files lack.

    Those are drawn at random: such a model answers, and knows nothing.

    Args:
        named, how: in an error: `the base model`, and ` as a causal one`.
        options: as transformers takes them.

    Raises:
        BaseModelUnusable: it can load nothing there. The message says why.
    """
    check(folder)
    with quiet():
        try:
            model, told = auto.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # transformers, safetensors and torch raise whatever a file makes them raise.
            raise BaseModelUnusable(
                f"{named} {folder.name[:100]!r} cannot be loaded{how} ({type(error).__name__}): its files are damaged, "
                "or this release of transformers does not know its kind"
            ) from error
    return model.eval(), sorted(told["missing_keys"])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars and advice: standard output and error belong to the recipe."""
    from transformers.utils import logging as transformers_logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
