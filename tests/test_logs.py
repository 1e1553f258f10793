"""Lines of the log: masked whatever logged them, bounded, without messages of errors, with the ids of the request."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
import structlog

from app import logs

PHONE, CARD, MAIL = "13812345678", "11010519491231002X", "li.lei@example.com"
BANK, ADDRESS, PLATE = "6222020200112230", "朝阳区建国路88号6栋1203室", "京A·12345"
PERSONAL = (PHONE, CARD, MAIL, BANK, "88号6栋1203", PLATE)
SENTENCE = f"打给 {PHONE} 或 {CARD} 或 {MAIL} 卡号 {BANK} 住 {ADDRESS} 车牌 {PLATE}"


@pytest.fixture(params=["json", "console"])
def said(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """What a logger of this test wrote, in each form."""
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.formatter(request.param))
    logger = logging.getLogger("tests.planted")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield out.getvalue
    logger.removeHandler(handler)
    logger.propagate = True


logger = logging.getLogger("tests.planted")


def _assert_clean(text: str) -> None:
    for secret in PERSONAL:
        assert secret not in text, text


def test_the_sentence_holds_what_is_planted() -> None:
    assert all(secret in SENTENCE for secret in PERSONAL)


@pytest.mark.parametrize(
    "log",
    [
        lambda: logger.info(SENTENCE),
        lambda: logger.info("asked: %s", SENTENCE),
        lambda: logger.info("asked: %(text)s", {"text": SENTENCE}),
        lambda: logger.info("asked", extra={"fields": {"text": SENTENCE}}),
        lambda: logger.info("asked", extra={"fields": {"deep": [{"er": (SENTENCE,)}], SENTENCE: {SENTENCE: 1}}}),
        lambda: logger.info("asked %d", int(PHONE)),
        lambda: logger.info("asked", extra={"fields": {"number": int(PHONE), "bytes": SENTENCE.encode()}}),
        lambda: logger.info("\u200b".join(SENTENCE)),
        lambda: logger.info("first\n  second %s\nthird", SENTENCE),
        lambda: logger.info("".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in SENTENCE)),
        lambda: logger.info("x" * 1_995 + SENTENCE),
    ],
    ids=["message", "argument", "named", "field", "deep", "number", "other", "invisible", "lines", "wide", "cut"],
)
def test_no_line_holds_personal_data_whatever_logged_it(said: Callable[[], str], log: Callable[[], None]) -> None:
    log()
    assert said()
    _assert_clean(said())


def test_context_is_masked_and_stands_on_each_line(said: Callable[[], str]) -> None:
    with structlog.contextvars.bound_contextvars(request_id=PHONE, trace_id="4bf92f3577b34da6a3ce929d0e0e4736"):
        logger.info("one")
    assert "4bf92f3577b34da6a3ce929d0e0e4736" in said()
    assert "【手机号】" in said()
    _assert_clean(said())


def _fail() -> None:
    try:
        raise ValueError(SENTENCE)
    except ValueError as error:
        # Put together here: the line of code itself is told.
        raise RuntimeError(f"{'-'.join('secret')} {SENTENCE}") from error


def test_of_an_error_its_kinds_and_places_are_told_and_no_message(said: Callable[[], str]) -> None:
    try:
        _fail()
    except RuntimeError:
        logger.exception("it failed")
    _assert_clean(said())
    assert "s-e-c-r-e-t" not in said()
    assert "RuntimeError from ValueError" in said()
    assert "in _fail" in said()


def test_a_line_has_an_end(said: Callable[[], str]) -> None:
    logger.info("长" * 1_000_000)
    logger.info("\n".join(["line"] * 10_000))
    logger.info("many", extra={"fields": {"items": ["item"] * 10_000}})
    assert len(said()) < 10_000


def test_json_is_one_object_a_line_with_level_logger_and_time() -> None:
    record = logging.LogRecord("app.x", logging.WARNING, "x.py", 1, "said %s", ("it",), None)
    record.fields = {"status": 200, "share": 0.5, "none": None, "yes": True}
    found: dict[str, Any] = json.loads(logs.formatter("json").format(record))
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "event": "said it",
        "level": "warning",
        "logger": "app.x",
        "status": 200,
        "share": 0.5,
        "none": None,
        "yes": True,
    }


@pytest.mark.parametrize("where", ["main", "thread", "warning"])
def test_what_nobody_caught_is_told_without_its_message(where: str) -> None:
    acts = {
        "main": "raise ValueError(text)",
        "thread": "t = threading.Thread(target=int, args=(text,)); t.start(); t.join()",
        "warning": "warnings.warn(text)",
    }
    code = (
        "import logging, threading, warnings; from app import logs; logs.configure('json', logging.INFO);"
        f"text = {SENTENCE!r}\n{acts[where]}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    _assert_clean(done.stdout + done.stderr)
    assert ("ValueError" in done.stderr) is (where != "warning")
    assert [json.loads(line)["level"] for line in done.stderr.splitlines() if line.startswith("{")]
