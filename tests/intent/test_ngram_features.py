import os
import subprocess
import sys
from pathlib import Path

import jieba
import pytest

from app.intent.ngram_features import FeatureSettings, Featuriser, has_han

SENTENCES = (
    "我想查一下昨天下的订单现在到哪里了",
    "帮我订一张明天从北京到上海的机票",
    "南京市长江大桥",
    "他来到了网易杭研大厦",
    "乒乓球拍卖完了",
    "㐂㐂你好",
    "一二三四五六七八九十",
)


@pytest.fixture(scope="module")
def featuriser() -> Featuriser:
    return Featuriser(FeatureSettings())


def test_chinese_is_cut_into_characters_pairs_words_and_classes(featuriser: Featuriser) -> None:
    characters, sequences, words, classes = featuriser.blocks("打开QQ音乐")

    assert characters == ["打", "开", "q", "q", "音", "乐"]
    assert sequences == ["\x02打", "打开", "开q", "qq", "q音", "音乐", "乐\x03"]
    assert words == ["打开", "qq", "音乐"]
    assert classes == ["v", "eng", "n", "\x02 v", "v eng", "eng n", "n \x03"]


def test_other_languages_are_cut_into_sequences_word_parts_words_and_pairs(featuriser: Featuriser) -> None:
    characters, sequences, words, classes = featuriser.blocks("Pay now!")

    assert characters == []
    assert sequences[:9] == ["\x02p", "pa", "ay", "y ", " n", "no", "ow", "w!", "!\x03"]
    assert sequences[9:14] == [" pa", "pay", "ay ", " pay", "pay "]
    assert words == ["pay", "now", "!", "pay now", "now !"]
    assert classes == []


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_are_those_of_jieba(featuriser: Featuriser, sentence: str) -> None:
    jieba.setLogLevel(60)
    expected = list(jieba.cut(sentence, HMM=False))

    assert featuriser.blocks(sentence)[2] == expected


def test_case_makes_no_difference(featuriser: Featuriser) -> None:
    assert featuriser.blocks("WiFi连不上 STRASSE") == featuriser.blocks("wifi连不上 straße")


def test_without_a_dictionary_a_run_of_han_is_one_word() -> None:
    plain = Featuriser(FeatureSettings(dictionary=False))

    assert plain.blocks("打开 qq")[2:] == (["打开", "qq"], [])


def test_settings_choose_what_is_counted() -> None:
    short = Featuriser(FeatureSettings(sequence_length=3, word_part_length=0, word_pairs=False, dictionary=False))

    assert short.blocks("a bc")[1:3] == (
        ["\x02a", "a ", " b", "bc", "c\x03", "\x02a ", "a b", " bc", "bc\x03"],
        ["a", "bc"],
    )


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "🙂", "\u200d", "é", "かな", "한국어", "ไทย"])
def test_odd_texts_have_features_or_none_but_never_fail(featuriser: Featuriser, text: str) -> None:
    assert len(featuriser.blocks(text)) == 4


@pytest.mark.parametrize("text", ["退款" * 30_000, "x" * 60_000, "a b " * 15_000])
def test_a_text_of_60_kb_is_cut(featuriser: Featuriser, text: str) -> None:
    assert "".join(word for word in featuriser.blocks(text)[2] if " " not in word) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "expected"), [("你好", True), ("ok 好", True), ("𠮷", True), ("かな", False), ("", False)]
)
def test_has_han_sees_chinese_characters_only(text: str, expected: bool) -> None:
    assert has_han(text) is expected


def test_features_are_the_same_in_every_process(featuriser: Featuriser) -> None:
    code = (
        "from app.intent.ngram_features import FeatureSettings, Featuriser\n"
        f"print(ascii([Featuriser(FeatureSettings()).blocks(t) for t in {SENTENCES!r}]))"
    )
    expected = ascii([featuriser.blocks(sentence) for sentence in SENTENCES])
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == expected
        assert said.stderr == ""


def test_nothing_is_read_from_the_shared_temporary_folder(tmp_path: Path) -> None:
    # jieba would trust a cache that lies there, whoever wrote it.
    (tmp_path / "jieba.cache").write_bytes(b"not a cache")
    code = (
        "from app.intent.ngram_features import FeatureSettings, Featuriser\n"
        "print(Featuriser(FeatureSettings()).blocks('打开音乐')[2])"
    )

    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.strip() == "['打开', '音乐']"
    assert (tmp_path / "jieba.cache").read_bytes() == b"not a cache"
