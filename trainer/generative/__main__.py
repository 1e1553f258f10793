"""`python -m trainer.generative --socket PATH --bases DIR`: answer questions from generative artifacts.

Exit status 0: it was stopped. 2: it could not start; a sentence on standard error says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from trainer.generative.serving import Server, end_when_input_closes
from trainer.generative.shelf import ArtifactShelf

LIBRARIES = ("torch", "transformers", "peft")
# After it was told to stop: a computation of a large base may take longer than anyone waits.
STOP_SECONDS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.generative", description="Serve generative artifacts.")
    parser.add_argument("--socket", type=Path, required=True, help="path of the Unix domain socket")
    parser.add_argument("--bases", type=Path, help="folder of base models")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute one answer")
    parser.add_argument("--waiting", type=int, default=16, help="requests that may wait")
    parser.add_argument("--kept", type=int, default=2, help="artifacts that stay in memory")
    parser.add_argument("--niceness", type=int, default=10, help="how far it stands behind others for the processor")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    for name, low, high in (("threads", 1, 1024), ("waiting", 1, 10_000), ("kept", 1, 64), ("niceness", 0, 19)):
        if not low <= getattr(options, name) <= high:
            parser.error(f"--{name} must lie between {low} and {high}")
    if missing := next((library for library in LIBRARIES if find_spec(library) is None), None):
        print(f"it needs {missing}, which is not installed: pip install 'intentloop[train]'", file=sys.stderr)
        return 2
    os.nice(options.niceness)
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    shelf = ArtifactShelf(options.bases, kept=options.kept, threads=options.threads)
    try:
        server = Server(options.socket, shelf, waiting=options.waiting)
    except OSError as error:
        print(f"the socket cannot be opened: {error.strerror}", file=sys.stderr)
        return 2

    def stop(*_: object) -> None:
        # The alarm ends the process even while it computes.
        signal.alarm(STOP_SECONDS)
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if options.until_stdin_closes:
        end_when_input_closes(STOP_SECONDS)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
