"""Which texts a rule matches, and that no rule, whoever wrote it, can hold serving up."""

import json
import random
import time

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from app.intent.mining import mine_rules
from app.intent.rule_matching import Matcher, PatternRefused, _compile, check_pattern
from app.intent.rules import (
    LONGEST_PATTERN,
    PATTERN_WINDOW,
    Rule,
    contains,
    rule_from_json,
    rule_word,
    searchable,
)
from app.intent.text import MaskedText


def rule(*words: str, number: int = 1, **changes) -> Rule:
    return Rule(number, 7, tuple(rule_word(word) for word in words), **changes)


def matches(text: str, only: Rule) -> bool:
    return bool(Matcher([only]).matched(text))


# Words


def test_a_han_word_is_found_wherever_its_characters_stand_in_a_row():
    assert matches("我想申请退款可以吗", rule("退款"))
    assert not matches("退回货款", rule("退款"))


@pytest.mark.parametrize(
    ("text", "word", "found"),
    [
        ("open the app", "app", True),
        ("app", "app", True),
        ("我的app打不开", "app", True),
        ("I am happy", "app", False),
        ("apple", "app", False),
        ("2015年", "15", False),
        ("15年", "15", True),
        ("我的wifi密码", "wifi密码", True),
        ("hwifi密码", "wifi密码", False),
        ("iphone 15 pro", "iphone 15", True),
        ("iphone 155", "iphone 15", False),
        ("c++怎么学", "c++", True),
        ("objc++怎么学", "c++", False),
        ("который час", "кот", False),
        # The first place does not count, a later one does.
        ("happy with the app", "app", True),
    ],
)
def test_a_word_of_an_alphabet_stands_alone(text, word, found):
    assert matches(text, rule(word)) is found
    assert contains(searchable(text), rule_word(word)) is found


def test_case_and_width_make_no_difference():
    assert matches("我的WiFi连不上", rule("WIFI"))
    assert matches("我的WiFi连不上", rule("ｗｉｆｉ"))


def test_what_masking_left_holds_no_words_but_a_pattern_sees_it():
    assert not matches("【手机号】收不到短信", rule("手机"))
    assert matches("手机【手机号】", rule("手机"))
    assert matches("【手机号】收不到短信", rule(pattern="【手机号】"))
    # Nor do the words on its two sides become one.
    assert not matches("手【邮箱】机", rule("手机"))


def test_all_of_and_none_of_must_both_hold():
    slow = rule("退款", "慢", none_of=("不",))
    assert matches("退款太慢了", slow)
    assert not matches("退款", slow)
    assert not matches("退款不慢", slow)


def test_a_pattern_is_asked_beside_the_lists():
    late = rule("退款", none_of=("已经",), pattern="[0-9]+天")
    assert matches("退款等了3天", late)
    assert not matches("等了3天", late)
    assert not matches("退款等了很久", late)
    assert not matches("退款等了3天已经到了", late)


def test_a_pattern_without_words_is_found_with_its_none_of_and_whatever_the_case():
    assert matches("ABC订单", rule(pattern="[A-Z]{3}订单"))
    assert not matches("abc订单取消", rule(pattern="[a-z]{3}订单", none_of=("取消",)))


def test_a_pattern_sees_the_beginning_of_a_long_text():
    assert matches("x" * (PATTERN_WINDOW - 2) + "退款", rule(pattern="退款"))
    assert not matches("x" * PATTERN_WINDOW + "退款", rule(pattern="退款"))


def test_a_rule_without_a_word_and_without_a_pattern_matches_nothing():
    assert not matches("退款", rule())
    assert not matches("退款", rule(""))
    assert Matcher([]).matched("退款") == []


def test_rules_come_in_the_order_of_their_ids():
    rules = [rule("退款", number=n) for n in (5, 3)] + [rule("慢", number=4), rule(pattern="退", number=1)]
    assert [found.rule_id for found in Matcher(rules).matched("退款慢")] == [1, 3, 4, 5]


def test_two_rules_on_one_word_both_match():
    assert len(Matcher([rule("退款", number=1), rule("退款", "慢", number=2)]).matched("退款慢")) == 2


ALPHABET = "退款慢 ab1"
words = st.text(ALPHABET, min_size=1, max_size=3).map(str.strip).filter(bool)


@given(
    rules=st.lists(st.tuples(st.lists(words, max_size=3), st.lists(words, max_size=2)), max_size=8),
    text=st.text(ALPHABET, max_size=12),
)
def test_the_automaton_answers_as_looking_for_each_word_does(rules, text):
    made = [Rule(n, 1, tuple(wanted), tuple(banned)) for n, (wanted, banned) in enumerate(rules)]
    expected = [
        one.rule_id
        for one in made
        if one.all_of
        and all(contains(searchable(text), word) for word in one.all_of)
        and not any(contains(searchable(text), word) for word in one.none_of)
    ]
    assert [one.rule_id for one in Matcher(made).matched(text)] == expected


def test_a_mined_rule_was_counted_on_the_texts_that_serving_matches():
    texts = [f"the app {n} is slow" for n in range(20)] + [f"i am happy with number {n}, wifi{n}" for n in range(20)]
    texts += [f"手机app{n}闪退" for n in range(20)] + [f"手机屏幕{n}碎了" for n in range(20)]
    labels = [1] * 20 + [2] * 20 + [1] * 20 + [3] * 20
    mined = mine_rules([MaskedText(text) for text in texts], labels, user_words=["app", "闪退", "屏幕"])
    assert ("app",) in [found.all_of for found in mined]
    for found in mined:
        matcher = Matcher([Rule(1, found.label_id, found.all_of)])
        assert sum(bool(matcher.matched(text)) for text in texts) == round(found.coverage * len(texts)), found.all_of


def test_a_rule_is_the_same_after_it_was_frozen():
    for one in (rule("退款"), rule("a", none_of=("b",), pattern="c", precision=0.9, source="manual")):
        assert rule_from_json(json.loads(json.dumps(one.as_json()))) == one


# Patterns


@pytest.mark.parametrize("pattern", ["退款.{0,10}慢", "[0-9]{4,}", "(?:坏|故障)了?", "【手机号】", r"\bapp\b"])
def test_a_sensible_pattern_is_taken(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "1 to"),
        ("a" * (LONGEST_PATTERN + 1), "1 to"),
        ("（退款）", "full-width"),
        ("(", "RE2 syntax"),
        (r"(a)\1", "RE2 syntax"),
        ("(?=退款)", "RE2 syntax"),
        ("[", "RE2 syntax"),
        ("x{2000}", "RE2 syntax"),
        (r"\pL{1000}", "RE2 syntax"),
        (".{1,500}y", "too large"),
        ("a?", "nothing stands"),
        ("退款|", "nothing stands"),
        ("^", "nothing stands"),
        ("$", "nothing stands"),
        (r"\b", "nothing stands"),
        (r"\B", "nothing stands"),
        ("(?:退款)*", "nothing stands"),
    ],
    ids=lambda value: value if len(value) < 30 else "long",
)
def test_a_pattern_that_serving_could_not_bear_is_refused_with_the_reason(pattern, why):
    with pytest.raises(PatternRefused, match=why):
        check_pattern(pattern)


def test_many_patterns_find_what_each_finds_alone():
    patterns = ["退.?款", "慢|快", "[0-9]{2}天", "(?P<a>x)y", "(?P<a>y)z"]
    made = [rule(number=n, pattern=pattern) for n, pattern in enumerate(patterns)]
    for text in ("退了款等12天", "快xyz", "什么都没有"):
        alone = [n for n, pattern in enumerate(patterns) if re2.search(pattern, text)]
        assert [one.rule_id for one in Matcher(made).matched(text)] == alone


# What is exponential, or at least quadratic, for a matcher that goes back.
HOSTILE = [
    "(x+x+)+y",
    "(a+)+b",
    "([a-z]+)*1",
    "(a|aa)+c",
    "(a|a?)+c",
    "(.*)(.*)(.*)(.*)(.*)9",
    "(a?){25}a{25}c",
    "[ab]*a[ab]{40}c",
    "(?:a|b|ab)*c",
    "(?:.{1,20}){3}9",
    "(.+)+退款",
    "^(([a-z])+.)+[A-Z]([a-z])+9",
]


def random_pattern(rng: random.Random) -> str:
    """A pattern of nested repetitions and alternatives, as a person with bad intent would write it."""
    if rng.random() < 0.55:
        return rng.choice(["a", "b", "[ab]", ".", "退", "a?", "[a-z]"])
    inner, other = random_pattern(rng), random_pattern(rng)
    return rng.choice([f"({inner})+", f"({inner})*{other}", f"({inner}|{other})+", f"({inner}){{1,5}}{other}"])


def accepted(pattern: str) -> bool:
    try:
        check_pattern(pattern)
    except PatternRefused:
        return False
    return True


def seconds(pattern: str, text: bytes) -> float:
    compiled = _compile(pattern)
    taken = []
    for _ in range(3):
        start = time.thread_time()
        compiled.search(text)
        taken.append(time.thread_time() - start)
    return min(taken)


def test_the_time_of_any_pattern_grows_as_the_text_does():
    rng = random.Random(20261125)
    drawn = [f"{random_pattern(rng)}9" for _ in range(600)]
    patterns = HOSTILE + [pattern for pattern in drawn if accepted(pattern)]
    assert len(patterns) > 200, "the fuzz draws too little that is accepted"
    text = "".join(rng.choice("ab退") for _ in range(4000)).encode()
    run = b"a" * len(text)
    short = sum(seconds(pattern, text) + seconds(pattern, run) for pattern in patterns)
    long = sum(seconds(pattern, text * 4) + seconds(pattern, run * 4) for pattern in patterns)
    # Four times the text: linear is 4, quadratic 16.
    assert long / short < 9


def test_the_time_of_words_grows_as_the_text_does():
    # Every place of the text ends sixty words.
    matcher = Matcher([rule("哈" * length, number=length) for length in range(1, 61)])

    def taken(text: str) -> float:
        times = []
        for _ in range(3):
            start = time.thread_time()
            assert len(matcher.matched(text)) == 60
            times.append(time.thread_time() - start)
        return min(times)

    assert taken("哈" * 16_000) / taken("哈" * 4_000) < 9
