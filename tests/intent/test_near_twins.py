"""Texts that say the same but for a letter or a mark are near twins; those that differ in what matters are not."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.intent.near_twins import BANDS, LONGEST, NEAR, band_keys, shingles, similarity
from app.intent.text import MaskedText


def _near(one: str, other: str) -> bool:
    return similarity(shingles(MaskedText(one)), shingles(MaskedText(other))) >= NEAR


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("开不了机怎么办", "开不了机,怎么办?"),
        ("怎么退货", "怎么 退货~~"),
        ("Has my top-up gone through?", "has my top up gone through"),
        ("请问我的信用卡什么时候可以寄到我家里来", "请问我的信用卡什么时候可以寄到我家里来呢"),
        ("can you tell me how to set up my new card", "can you tell me how to set up my new card now"),
        ("?!", "?!"),
    ],
)
def test_texts_that_say_the_same_are_near_twins(one: str, other: str) -> None:
    assert _near(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("开灯", "关灯"),
        ("打开空调", "关闭空调"),
        ("能退货吗", "不能退货吗"),
        ("查一下北京天气", "查一下上海天气"),
        ("第12句", "第13句"),
        ("C++怎么学", "C#怎么学"),
        ("好👍", "好👎"),
        ("?!", "!?"),
        ("กา", "กี"),
    ],
)
def test_short_texts_that_differ_are_not(one: str, other: str) -> None:
    assert not _near(one, other)


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).map(MaskedText)


@given(texts, texts)
def test_similarity_is_symmetric_and_one_for_the_same(one: MaskedText, other: MaskedText) -> None:
    first, second = shingles(one), shingles(other)
    assert min(len(first), len(second)) > 0
    assert similarity(first, second) == similarity(second, first)
    assert 0.0 <= similarity(first, second) <= 1.0
    assert (similarity(first, second) == 1.0) == (first == second)


@given(st.lists(texts, min_size=1, max_size=5))
def test_keys_of_a_text_are_its_own_whatever_stands_beside_it(some: list[MaskedText]) -> None:
    keys = band_keys(map(shingles, some))
    assert keys == [band_keys([shingles(text)])[0] for text in some]
    assert all(len(of_one) == BANDS and all(-(2**63) <= key < 2**63 for key in of_one) for of_one in keys)


def test_keys_stay_what_they_are_from_release_to_release() -> None:
    # They are stored: another value would find none of the texts that were compared before.
    assert band_keys([shingles(MaskedText("开不了机怎么办"))])[0][:2] == (3890316466777547952, 2713687228545872951)


def test_near_twins_share_a_key_and_strangers_hardly_ever() -> None:
    rng = random.Random(7)
    letters = [chr(point) for point in range(0x4E00, 0x4E00 + 300)]
    found = near = met = 0
    for _ in range(400):
        text = "".join(rng.choices(letters, k=rng.randint(12, 40)))
        place = rng.randrange(len(text))
        one, twin, stranger = (
            shingles(MaskedText(words)) for words in (text, text[:place] + text[place + 1 :], text[::-1])
        )
        keys = [set(keys) for keys in band_keys([one, twin, stranger])]
        if similarity(one, twin) >= NEAR:
            near += 1
            found += bool(keys[0] & keys[1])
        met += bool(keys[0] & keys[2])
    assert near > 200
    assert found / near > 0.97
    assert met <= 4


def test_long_texts_are_compared_by_their_beginning() -> None:
    start = "".join(chr(0x4E00 + number) for number in range(LONGEST))
    assert shingles(MaskedText(start + "甲" * 5_000)) == shingles(MaskedText(start + "乙"))


def test_thousands_of_texts_a_second_are_signed() -> None:
    rng = random.Random(1)
    some = [MaskedText("".join(rng.choices("的一是了我不人在他有这个上们来到时大地为", k=15))) for _ in range(2_000)]
    start = time.process_time()
    band_keys(shingles(text) for text in some)
    assert 2_000 / (time.process_time() - start) > 2_000
