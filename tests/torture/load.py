"""Clients that ask the service without rest, note every answer in a ledger, and repeat what got none."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.torture.ledger import Ledger

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TIMEOUT_SECONDS = 30.0


class Load:
    """Threads that ask. Three of four questions have a request id, and are repeated until they are answered."""

    def __init__(self, port: int, ledger: Ledger, *, clients: int, seed: int) -> None:
        self._url = f"http://127.0.0.1:{port}/classify"
        self._ledger = ledger
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number, random.Random(f"{seed}/{number}")), daemon=True)
            for number in range(clients)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the questions that are under way, then end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=TIMEOUT_SECONDS + 10)
            assert not thread.is_alive(), "a request hangs"

    def _ask(self, client: int, rng: random.Random) -> None:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as http:
            number = 0
            while not self._stop.is_set():
                number += 1
                text = f"怎么退货 {_word(client)} {_word(number)}"
                body = {"text": text}
                if rng.random() < 0.75:
                    body["request_id"] = f"{client}-{number}"
                while not self._answered(http, text, body) and not self._stop.is_set() and "request_id" in body:
                    self._stop.wait(rng.uniform(0.02, 0.1))

    def _answered(self, http: httpx.Client, text: str, body: dict[str, str]) -> bool:
        started = time.monotonic()
        try:
            answer = http.post(self._url, json=body)
        except httpx.TransportError as error:
            # A refused connection takes no time; one that is held is what must not be.
            self._ledger.note(-1 if isinstance(error, httpx.TimeoutException) else 0, time.monotonic() - started)
            self._stop.wait(0.05)
            return False
        self._ledger.note(answer.status_code, time.monotonic() - started)
        if answer.status_code != 200:
            return False
        self._ledger.acknowledge(text, answer.json())
        return True


def _word(number: int) -> str:
    """A number in letters: digits may look like somebody's phone and be masked."""
    word = ""
    while True:
        number, rest = divmod(number, 26)
        word = LETTERS[rest] + word
        if not number:
            return "q" + word


@contextmanager
def load(port: int, ledger: Ledger, *, clients: int, seed: int) -> Iterator[Load]:
    """Clients that ask as long as the block lasts."""
    made = Load(port, ledger, clients=clients, seed=seed)
    made.start()
    try:
        yield made
    finally:
        made.stop()
