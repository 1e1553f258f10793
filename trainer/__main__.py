"""`python -m trainer RECIPE --spec spec.json --out DIR`: train one artifact and exit.

Standard output carries one JSON object a line, `{"progress": 0.0 … 1.0, "stage": "…"}`. Exit status 0: the artifact in
DIR is complete, and the last line holds its digest. 2: it could not be trained; a sentence on standard error says why.

`python -m trainer encoder --new-data FILE …` trains from files instead: see `trainer.by_hand`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from trainer.spec import SpecInvalid, read_config, read_spec

# A recipe: its config, and its function (spec, config, out, report) -> digest.
Recipe = tuple[type[Any], Callable[..., str]]


def _ngram() -> Recipe:
    from trainer.ngram import NgramConfig, train_ngram

    return NgramConfig, train_ngram


def _head() -> Recipe:
    from trainer.head import HeadConfig, train_head

    return HeadConfig, train_head


def _encoder() -> Recipe:
    from trainer.encoder import train_encoder
    from trainer.tuning.encoder_config import EncoderConfig

    return EncoderConfig, train_encoder


def _imported() -> Recipe:
    from trainer.imported import ImportedConfig, take_in

    return ImportedConfig, take_in


def _lora() -> Recipe:
    from trainer.lora import LoraConfig, train_lora

    return LoraConfig, train_lora


# Imported when it is asked for: torch takes seconds and gigabytes, and most recipes do without.
RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "ngram": _ngram,
    "head": _head,
    "encoder": _encoder,
    "imported": _imported,
    "lora": _lora,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument.partition("=")[0] == "--new-data" for argument in given):
        return _by_hand(given)
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Train one artifact from a spec file.")
    parser.add_argument("recipe", choices=sorted(RECIPES), help="how to train")
    parser.add_argument("--spec", type=Path, required=True, help="spec.json, as the training job writes it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must be empty or not exist")
    options = parser.parse_args(given)
    try:
        spec = read_spec(options.spec)
        if spec.recipe != options.recipe:
            raise SpecInvalid(f"the spec is for the recipe {spec.recipe[:40]!r}, not for {options.recipe!r}")
        kind, train = _load(spec.recipe)
        config = read_config(kind, spec.config)
        _make_empty_folder(options.out)
        # One thread: the sums of linear algebra then run in one order, and the same spec gives the same artifact.
        with threadpool_limits(limits=1):
            digest = train(spec, config, options.out, _print_progress)
    except ModuleNotFoundError as error:
        # Some of what a recipe needs is only imported on its way. Another ImportError is not one of what is installed:
        # a library that memory does not suffice for raises it, too.
        print(f"{_missing(options.recipe, error)}", file=sys.stderr)
        return 2
    except SpecInvalid as error:
        print(f"{error}", file=sys.stderr)
        return 2
    print(json.dumps({"progress": 1.0, "stage": "done", "digest": digest}), flush=True)
    return 0


def _by_hand(arguments: Sequence[str]) -> int:
    try:
        from trainer.by_hand import main as by_hand
    except ModuleNotFoundError as error:
        print(f"{_missing('encoder', error)}", file=sys.stderr)
        return 2
    with threadpool_limits(limits=1):
        return by_hand(arguments)


def _load(recipe: str) -> Recipe:
    try:
        return RECIPES[recipe]()
    except ModuleNotFoundError as error:
        raise _missing(recipe, error) from error


def _missing(recipe: str, error: ModuleNotFoundError) -> SpecInvalid:
    return SpecInvalid(
        f"the recipe {recipe!r} needs {error.name}, which is not installed: "
        "pip install torch==2.13.0 'intentloop[train]'"
    )


def _print_progress(progress: float, stage: str) -> None:
    print(json.dumps({"progress": round(progress, 3), "stage": stage}), flush=True)


def _make_empty_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SpecInvalid("the output folder is not empty")
    except OSError as error:
        raise SpecInvalid(f"the output folder cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    # The service that answers questions often runs on the same cores: it comes first.
    os.nice(10)
    sys.exit(main())
