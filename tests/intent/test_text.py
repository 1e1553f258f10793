"""Texts are brought into one form, whoever typed them and however."""

import json
import sys
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.intent import text as texts
from app.intent.text import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_MARKS,
    MaskedText,
    TextEmpty,
    TextTooLong,
    clean,
    normalise,
    sanitise,
    text_hash,
    text_key,
)

TRICKY = (
    "aA1中，。！　 \t\n\x00\x07\u00a0\u00ad\u0301\u0316\u0308\u034f\u1100\u1160\u1161\u11a8\u200b\u200d\u202e\u2028"
    "\u3164\ufdfa\ufe0f\ufeff\uff11\uff76\uff9e\ud800\udc00\ufffdİſßΣς\U0001f600\U000e0041"
)


@given(st.text(alphabet=st.one_of(st.sampled_from(TRICKY), st.characters(codec=None)), max_size=80))
@example("\u1100\u200b\u1161")
@example("a\u034f\u0301")
@example("a" + "\u0344" * 40)
@example("\x00" * 3)
@settings(max_examples=400, deadline=None)
def test_normalise_is_idempotent(raw):
    once = normalise(raw)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFKC", once)
    assert once == once.strip()
    assert "  " not in once
    once.encode("utf-8")


def test_no_character_turns_into_an_invisible_one():
    for point in range(sys.maxunicode + 1):
        once = normalise(chr(point))
        assert not texts._INVISIBLE.search(once), hex(point)
        assert set(filter(str.isspace, once)) <= {" "}, hex(point)


def test_every_combining_mark_counts_towards_the_limit():
    marks = [chr(point) for point in range(sys.maxunicode + 1) if unicodedata.combining(chr(point))]
    assert len(marks) > 800
    for mark in marks:
        kept = normalise("a" + mark * 200)
        assert len(kept) <= MAX_MARKS + 1, hex(ord(mark))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  打印机　坏了 \n 怎么办？ ", "打印机 坏了 怎么办?"),
        ("ＡＢＣ１２３", "ABC123"),
        ("开\u200b机\ufeff密\u2060码", "开机密码"),
        ("\u202eevil\u202c", "evil"),
        ("a\x07b\x85c\x1fd", "ab c d"),
        ("nul\x00here", "nul\ufffdhere"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("①号ﬁle", "1号file"),
        ("❤\ufe0f", "❤"),
        ("", ""),
        ("\u200b \u3000", ""),
    ],
)
def test_normalise_gives_one_form(raw, expected):
    assert normalise(raw) == expected


def test_sanitise_leaves_all_but_the_unstorable():
    assert sanitise("a\x00b\udfffc\t ＡＢ\u200b") == "a\ufffdb\ufffdc\t ＡＢ\u200b"
    assert sanitise(json.loads(r'"\ud83d\ude00 \ude00"')) == "😀 \ufffd"


def test_clean_gives_the_normalised_text():
    assert clean(" Ｈello\u200b ") == "Hello"


@pytest.mark.parametrize("raw", ["", " \n\u3000", "\u200b\u200d", "\u202e"])
def test_clean_refuses_a_text_that_is_empty(raw):
    with pytest.raises(TextEmpty):
        clean(raw)


def test_clean_keeps_to_the_limits_before_normalisation():
    assert len(clean("啊" * MAX_CHARACTERS)) == MAX_CHARACTERS
    with pytest.raises(TextTooLong, match="20001 characters"):
        clean("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(TextTooLong, match="20001 characters"):
        clean(" " * MAX_CHARACTERS + "a")
    with pytest.raises(TextTooLong, match="60004 bytes"):
        clean("😀" * (MAX_BYTES // 4 + 1))


def test_clean_keeps_to_the_limits_after_normalisation():
    with pytest.raises(TextTooLong, match="21600 characters"):
        clean("\ufdfa" * 1_200)
    assert len(clean("\ufdfa" * 1_000)) == 18_000
    with pytest.raises(TextTooLong, match="64000 bytes"):
        clean("\U0001d15e" * 8_000)  # a half note: one character of four bytes becomes two


def test_normalise_takes_time_in_proportion_to_length_even_for_marks_that_need_sorting():
    def seconds(length):
        text = "a" + "\u0301\u0316" * (length // 2)
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            normalise(text)
            rounds.append(time.perf_counter() - start)
        return min(rounds)

    seconds(1_000)
    assert seconds(20_000) < 0.05  # 0.3 s when the marks are not cut


def test_text_hash_is_the_same_for_the_same_words_and_differs_for_others():
    def fingerprint(raw):
        return text_hash(MaskedText(normalise(raw)))

    assert fingerprint("打印机 Ｅrror？") == fingerprint("  打印机　ERROR? ")
    assert fingerprint("STRASSE") == fingerprint("straße")
    assert fingerprint("打印机坏了") != fingerprint("打印机坏啦")
    assert len(fingerprint("x")) == 64
    assert set(fingerprint("x")) <= set("0123456789abcdef")


def test_text_hash_never_changes_by_accident():
    # Stored hashes must find their text again: whoever changes this value must raise NORMALISER_VERSION.
    assert text_hash(MaskedText("打印机坏了")) == "bbddf0f70fe05701db97fd0147c6129c0b43295efb47e054a287f4b4dd923c16"


def test_text_hash_with_a_secret_depends_on_the_secret():
    text = MaskedText("打印机坏了")
    assert text_hash(text, secret=b"a") != text_hash(text, secret=b"b") != text_hash(text)
    assert text_hash(text, secret=b"a") == text_hash(text, secret=b"a")


def test_text_hash_depends_on_the_version_of_the_normaliser(monkeypatch):
    before = text_hash(MaskedText("abc"))
    monkeypatch.setattr(texts, "NORMALISER_VERSION", texts.NORMALISER_VERSION + 1)
    assert text_hash(MaskedText("abc")) != before


def test_text_key_is_stable_under_another_case_folding():
    for point in range(sys.maxunicode + 1):
        key = text_key(MaskedText(normalise(chr(point))))
        assert text_key(MaskedText(key)) == key, hex(point)
