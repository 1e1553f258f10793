"""`python -m bench [NAME] [--quick] [--json FILE]`: run one benchmark, or list them all.

Exit status 0: every bar holds. 1: one does not. 2: it could not run, and standard error says why.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from bench.result import CannotRun, Result

_MACHINERY = {
    "__init__",
    "__main__",
    "choice",
    "embedding",
    "minilm",
    "plain_fine_tuning",
    "pretrained",
    "result",
    "small_text_strategies",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run one benchmark, or list them all.")
    parser.add_argument("name", nargs="?", help="which one; without it they are listed")
    parser.add_argument("--quick", action="store_true", help="smaller and faster; the figures are rougher")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last line to FILE too")
    options = parser.parse_args(arguments)
    benches = listed()
    if options.name is None:
        width = max(map(len, benches), default=0)
        for name, summary in benches.items():
            print(f"  {name:<{width}}  {summary}")
        return 0
    if options.name not in benches:
        print(f"there is no benchmark {options.name!r}; there are: {', '.join(benches)}", file=sys.stderr)
        return 2
    try:
        result: Result = importlib.import_module(f"bench.{options.name}").run(quick=options.quick)
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2
    line = json.dumps({"bench": options.name, **({"quick": True} if options.quick else {}), **result.as_json()})
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0 if result.holds else 1


def listed(folder: Path = Path(__file__).parent, machinery: Collection[str] = _MACHINERY) -> dict[str, str]:
    """The name of each module of a folder and the first line of its docstring, read without importing it."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem not in machinery:
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = docstring.partition("\n")[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
