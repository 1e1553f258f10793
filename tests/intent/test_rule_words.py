"""Rules are made of jieba's words in search mode, the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

import jieba
import pytest

from app.intent.rule_words import WordCutter

ROOT = Path(__file__).parent.parent.parent
SENTENCES = (
    "小明硕士毕业于中国科学院计算所",
    "我想查一下昨天下的订单现在到哪里了",
    "南京市长江大桥",
    "乒乓球拍卖完了",
    "㐂㐂你好",
)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )


@pytest.mark.parametrize("number", range(len(SENTENCES)))
def test_chinese_is_cut_as_jieba_cuts_for_search(number: int, tmp_path: Path) -> None:
    jieba.setLogLevel(60)
    reference = jieba.Tokenizer()
    reference.tmp_dir = str(tmp_path)

    assert set(WordCutter().words(SENTENCES[number])) == set(reference.lcut_for_search(SENTENCES[number]))


def test_other_runs_are_words_and_marks_are_none() -> None:
    assert WordCutter().words("wifi 连不上, e401!") == ["wifi", "连不上", "e401"]


def test_phrases_are_two_words_in_a_row() -> None:
    assert WordCutter().phrases("打开 credit card, now") == ["打开 credit", "credit card"]


def test_user_words_are_seen_whole_and_leave_other_cutters_as_they_are() -> None:
    sentence = "我的云梦包坏了"
    before = WordCutter().words(sentence)

    assert "云梦包" in WordCutter(["云梦包"]).words(sentence)
    assert WordCutter().words(sentence) == before
    assert "云梦包" not in before


def test_the_order_and_the_case_of_user_words_make_no_difference() -> None:
    words = ["云梦包", "梦包装", "包装不", "QQ", "ＱＱ"]
    forward, backward = WordCutter(words), WordCutter(reversed(words))

    assert forward.user_words == backward.user_words == ("qq", "云梦包", "包装不", "梦包装")
    assert forward.words("云梦包装不上") == backward.words("云梦包装不上")


def test_words_are_the_same_in_every_process_and_nothing_is_read_from_the_temporary_folder(tmp_path: Path) -> None:
    # jieba would trust a cache that lies there, whoever wrote it.
    (tmp_path / "jieba.cache").write_bytes(b"not a cache")
    code = (
        "from app.intent.rule_words import WordCutter\n"
        f"cutter = WordCutter(['长江大', '下的订单'])\nprint([cutter.words(text) for text in {SENTENCES!r}])"
    )

    cutter = WordCutter(["下的订单", "长江大"])
    expected = str([cutter.words(sentence) for sentence in SENTENCES])
    for seed in ("1", "2"):
        said = run(code, PYTHONHASHSEED=seed, TMPDIR=str(tmp_path))
        assert said.stdout.strip() == expected
        assert said.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
    assert (tmp_path / "jieba.cache").read_bytes() == b"not a cache"


@pytest.mark.parametrize("text", ["", " ", "。", "\x00", "好", "a"])
def test_odd_texts_have_words_or_none_but_never_fail(text: str) -> None:
    assert WordCutter().words(text) == ([text] if text.isalnum() else [])
    assert WordCutter().phrases(text) == []


@pytest.mark.parametrize("text", ["退款" * 10_000, "x" * 60_000, "a b " * 15_000, "好" * 20_000])
def test_a_text_of_60_kb_is_cut(text: str) -> None:
    words = WordCutter().words(text)

    assert all(len(word) <= 32 for word in words)
    assert WordCutter().phrases(text) is not None
