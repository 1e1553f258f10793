"""A group is named by words of its own, never by what everybody says or by what one person said."""

from app.intent.class_words import MOST_WORDS, class_words
from app.intent.text import MaskedText


def masked(*texts: str) -> list[MaskedText]:
    return [MaskedText(text) for text in texts]


FEES = masked(*(f"请问退货的运费什么时候到账，第{number}天了" for number in "一二三四五六"))
REST = [
    masked(*(f"请问{subject}什么时候开始，第{number}天了" for number in "一二三四五六"))
    for subject in ("会议", "比赛", "电影", "课程")
]


def test_typical_words_come_and_common_ones_do_not():
    fees, meeting, *_ = class_words([FEES, *REST])
    assert {"运费", "退货"} <= set(fees)
    assert not {"请问", "什么", "时候"} & {*fees, *meeting}
    assert meeting[0] == "会议"


def test_a_word_of_one_or_two_texts_or_a_long_number_names_nothing():
    group = [
        *FEES,
        *masked("运费给张晓丽", "运费给张晓丽吧"),
        *masked(*(f"运费单号88123456{mark}" for mark in "甲乙丙")),
    ]
    words, *_ = class_words([group, *REST])
    assert "运费" in words
    assert not any("张" in word or word.isdigit() for word in words)


def test_marks_of_masking_are_no_words():
    group = masked(*(f"【手机号】的运费{mark}" for mark in "甲乙丙丁"))
    words, *_ = class_words([group, *REST])
    assert words == ["运费"]


def test_user_words_stay_whole_and_words_inside_others_do_not_repeat():
    group = masked(*(f"闪电退运费险{mark}" for mark in "甲乙丙丁"))
    words, *_ = class_words([group, *REST], user_words=["闪电退"])
    assert "闪电退" in words
    assert "闪电" not in words
    assert len(words) <= MOST_WORDS


def test_no_group_and_an_empty_one_have_no_words():
    assert class_words([]) == []
    assert class_words([[], FEES])[0] == []
