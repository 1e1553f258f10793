"""`python -m tests.torture [NAME] [--quick] [--seed N] [--json FILE]`: run one torture, `--all` of them, or list them.

A torture is a module here with `run(*, quick: bool, seed: int) -> Result`. Exit status 0: every bar holds. 1: one does
not. 2: it could not run, and standard error says why.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.__main__ import listed
from bench.result import CannotRun, Result

# What tortures are made of. Every other module is one.
_MACHINERY = {"__init__", "__main__", "broken", "ledger", "load", "proxy", "service", "victims"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Run one torture, or list them all.")
    parser.add_argument("name", nargs="?", help="which one; without it they are listed")
    parser.add_argument("--all", action="store_true", help="run them all, one after another")
    parser.add_argument("--quick", action="store_true", help="shorter: minutes instead of hours")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report's lines to FILE too")
    options = parser.parse_args(arguments)
    tortures = listed(Path(__file__).parent, _MACHINERY)
    if options.name is None and not options.all:
        width = max(map(len, tortures), default=0)
        for name, summary in tortures.items():
            print(f"  {name:<{width}}  {summary}")
        return 0
    if options.name is not None and options.name not in tortures:
        print(f"there is no torture {options.name!r}; there are: {', '.join(tortures)}", file=sys.stderr)
        return 2
    names = list(tortures) if options.name is None else [options.name]
    statuses = [_report(name, quick=options.quick, seed=options.seed, file=options.json) for name in names]
    # One that could not run is worse than one that fell short: nothing is known of it.
    return max(statuses)


def _report(name: str, *, quick: bool, seed: int, file: Path | None) -> int:
    started = time.monotonic()
    try:
        result: Result = importlib.import_module(f"tests.torture.{name}").run(quick=quick, seed=seed)
    except CannotRun as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    line = json.dumps(
        {
            "torture": name,
            "quick": quick,
            "seed": seed,
            "seconds": round(time.monotonic() - started),
            **result.as_json(),
        }
    )
    if file is not None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")
    print(line, flush=True)
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
