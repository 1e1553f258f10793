"""Mined rules carry evidence from texts that they were not mined on, and matching is by substring as in serving."""

import random
from itertools import product

import numpy as np
import pytest

from app.intent.mining import MinedRule, mine_rules
from app.intent.rule_evidence import (
    LEAST_LOG_ODDS,
    MiningOptions,
    expected_precision,
    log_odds,
    out_of_fold_hits,
)
from app.intent.rules import Rule
from app.intent.text import MaskedText, text_key

FILLERS = [f"filler{number:02}" for number in range(30)]


def drawn(rng: random.Random, *words: str) -> MaskedText:
    """A text of the words and some that mean nothing."""
    return MaskedText(" ".join([*words, *rng.sample(FILLERS, 4)]))


def told(n: int = 20) -> tuple[list[MaskedText], list[int]]:
    """Label 1 says `refund`, label 2 says `parcel`, label 3 says neither."""
    rng = random.Random(0)
    words = {1: ["refund"], 2: ["parcel"], 3: []}
    pairs = [(drawn(rng, *said), label) for label, said in words.items() for _ in range(n)]
    return [text for text, _ in pairs], [label for _, label in pairs]


def by_words(rules: tuple[MinedRule, ...]) -> dict[tuple[str, ...], MinedRule]:
    return {rule.all_of: rule for rule in rules}


def matches(texts: list[MaskedText], rules: list[Rule]) -> list[list[int]]:
    return [
        [k for k, rule in enumerate(rules) if all(word in text_key(text) for word in rule.all_of)] for text in texts
    ]


def test_words_that_name_a_label_become_its_rules() -> None:
    texts, labels = told()

    rules = by_words(mine_rules(texts, labels))

    refund = rules[("refund",)]
    assert refund.label_id == 1
    assert refund.support == 20
    assert refund.precision == 1.0
    assert refund.precision_lower == pytest.approx(0.8389, abs=1e-4)
    assert refund.coverage == pytest.approx(1 / 3)
    assert refund.log_odds > 2.0
    assert len(refund.examples) == 5
    assert all("refund" in texts[position] for position in refund.examples)
    assert rules[("parcel",)].label_id == 2
    assert not any(rule.label_id == 3 for rule in rules.values())


def test_examples_that_have_the_label_come_first() -> None:
    texts, labels = told()
    labels[0], labels[1] = 3, 3

    rule = by_words(mine_rules(texts, labels))[("refund",)]

    assert rule.examples == (2, 3, 4, 5, 6)
    assert rule.precision == pytest.approx(0.9)


def test_evidence_is_counted_on_folds_that_a_rule_was_not_mined_on() -> None:
    texts, labels = told()
    rng = random.Random(1)
    # Each of these words is perfect on all texts together, and too rare to be mined without one of its two.
    for number, label in product(range(20), (1, 2)):
        texts += [drawn(rng, f"twice{number}x{label}"), drawn(rng, f"twice{number}x{label}")]
        labels += [label, label]
    texts += [drawn(rng) for _ in range(400)]
    labels += [3] * 400

    rules = mine_rules(texts, labels, options=MiningOptions(min_support=1))

    assert by_words(rules)[("refund",)].support == 20
    assert not any("twice" in word for rule in rules for word in rule.all_of)
    twice = np.array([2])
    assert log_odds(twice, twice, np.array([60]), 540)[0] > LEAST_LOG_ODDS, "in sample, it would be mined"


def test_words_of_labels_that_mean_nothing_are_hardly_ever_rules() -> None:
    rng = random.Random(2)
    words = [f"word{number:03}" for number in range(150)]
    texts = [MaskedText(" ".join(rng.sample(words, 6))) for _ in range(300)]
    labels = [rng.randrange(2) for _ in texts]

    rules = mine_rules(texts, labels, options=MiningOptions(min_confidence=0.75))

    counts = {word: [0, 0] for word in words}
    for text, label in zip(texts, labels, strict=True):
        for word in text.split():
            counts[word][label] += 1
    lucky = [word for word in words if max(counts[word]) >= 0.75 * sum(counts[word])]
    assert len(lucky) >= 10, "in sample, many words look like rules"
    assert len([rule for rule in rules if len(rule.all_of) == 1 and " " not in rule.all_of[0]]) <= len(lucky) / 3


def test_support_is_counted_by_substring_as_serving_does() -> None:
    texts, labels = told()
    texts += [
        MaskedText("全额退款吧"),
        MaskedText("退款呢"),
        MaskedText("要退款"),
        MaskedText("退款中心"),
        MaskedText("已退款了"),
    ]
    labels += [1] * 5
    rules = by_words(mine_rules(texts, labels, options=MiningOptions(min_support=2)))

    rule = rules[("退款",)]
    assert rule.coverage * len(texts) == pytest.approx(sum("退款" in text for text in texts)) == pytest.approx(5)


def test_a_word_is_counted_only_where_it_stands_alone() -> None:
    rng = random.Random(3)
    texts = [drawn(rng, "art") for _ in range(6)] + [drawn(rng, "start") for _ in range(6)]
    texts += [drawn(rng) for _ in range(12)]

    rules = by_words(mine_rules(texts, [1] * 12 + [2] * 12))

    assert ("start",) in rules
    assert rules["art",].support <= 6


def test_two_words_are_a_rule_where_neither_is_enough() -> None:
    rng = random.Random(4)
    texts, labels = [], []
    for words, label in ((("card", "lost"), 1), (("card",), 2), (("lost",), 3), ((), 4)):
        for _ in range(15):
            filler = rng.sample(FILLERS, 4)
            texts.append(MaskedText(" ".join([*words[:1], *filler, *words[1:]])))
            labels.append(label)

    rules = by_words(mine_rules(texts, labels))

    assert rules[("card", "lost")].label_id == 1
    assert rules[("card", "lost")].support == 15
    assert ("card",) not in rules


def test_redundant_rules_are_dropped() -> None:
    rng = random.Random(5)
    texts = [drawn(rng, "退款", "申请", "refund") for _ in range(20)] + [drawn(rng) for _ in range(20)]

    rules = mine_rules(texts, [1] * 20 + [2] * 20)

    # The three words and their pairs match the same texts: one of them says it all.
    assert [rule.label_id for rule in rules].count(1) == 1
    assert [len(rule.all_of) for rule in rules if rule.label_id == 1] == [1]


def test_of_too_many_rules_those_that_match_the_most_texts_together_are_kept() -> None:
    rng = random.Random(6)
    sizes = {("alpha",): 6, ("alpha", "beta"): 14, ("beta",): 2, ("gamma",): 12}
    texts = [drawn(rng, *words) for words, size in sizes.items() for _ in range(size)]
    labels = [1] * len(texts) + [2] * 60
    texts += [drawn(rng) for _ in range(60)]

    assert {("alpha",), ("beta",), ("gamma",)} <= by_words(mine_rules(texts, labels)).keys()
    two = mine_rules(texts, labels, options=MiningOptions(limit=2))

    # `beta` has more evidence than `gamma`, but nearly all of its texts have `alpha`.
    assert by_words(two).keys() == {("alpha",), ("gamma",)}


def test_rules_are_ordered_by_how_typical_they_are() -> None:
    texts, labels = told()

    scores = [rule.log_odds for rule in mine_rules(texts, labels)]

    assert scores == sorted(scores, reverse=True)


def test_user_words_are_candidates_wherever_they_stand() -> None:
    rng = random.Random(7)
    texts = [drawn(rng, "x云-9梦y") for _ in range(8)] + [drawn(rng) for _ in range(8)]
    labels = [1] * 8 + [2] * 8

    assert ("云-9梦",) not in by_words(mine_rules(texts, labels))
    # Other words match the same texts: the one that people use stays.
    assert by_words(mine_rules(texts, labels, user_words=["云-9梦", "nowhere"])).keys() == {("云-9梦",)}


def test_what_masking_left_is_no_word() -> None:
    rng = random.Random(12)
    texts = [drawn(rng, "【手机号】") for _ in range(12)] + [drawn(rng) for _ in range(12)]

    rules = mine_rules(texts, [1] * 12 + [2] * 12, user_words=["手机号", "【手机号】"])

    assert not any("手机" in word for rule in rules for word in rule.all_of)


def test_case_makes_no_difference() -> None:
    texts, labels = told()

    upper = [MaskedText(text.upper()) for text in texts]

    assert mine_rules(upper, labels) == mine_rules(texts, labels)


def test_mining_twice_gives_the_same_rules_and_another_seed_other_folds() -> None:
    rng = random.Random(8)
    words = [f"word{number}" for number in range(40)]
    texts = [MaskedText(" ".join(rng.sample(words, 5))) for _ in range(150)]
    labels = [int(text.split()[0][4:]) % 3 for text in texts]

    once = mine_rules(texts, labels, options=MiningOptions(min_confidence=0.5))

    assert once == mine_rules(texts, labels, options=MiningOptions(min_confidence=0.5))
    assert once != mine_rules(texts, labels, options=MiningOptions(min_confidence=0.5, seed=1))


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ([], []),
        (["退款"], [1]),
        (["退款", "退款了", "要退款"], [1, 1, 1]),
        (["a", "b"], [1, 2]),
        (["好", "好", "坏", "坏"], [1, 1, 2, 2]),
        (["。", "!"], [1, 2]),
        (["x y", "x z", "y z"], [1, 2, 3]),
    ],
)
def test_too_little_to_mine_gives_no_rules(texts: list[str], labels: list[int]) -> None:
    assert mine_rules([MaskedText(text) for text in texts], labels) == ()


def test_texts_of_one_character_can_be_rules() -> None:
    texts = [MaskedText(f"{'退' if number < 12 else '查'}{number % 4}") for number in range(24)]

    assert ("退",) in by_words(mine_rules(texts, [1] * 12 + [2] * 12))


def test_texts_of_60_kb_are_mined() -> None:
    rng = random.Random(9)
    words = [f"词{chr(0x4E00 + rng.randrange(5000))}{chr(0x4E00 + rng.randrange(5000))}" for _ in range(3000)]
    texts = [
        MaskedText("退款" + "".join(rng.choices(words, k=6_000))),
        *map(MaskedText, ("退款吧", "退款呢", "要退款")),
    ]
    texts += [MaskedText("x" * 60_000 + f" {number}") for number in range(4)]

    assert ("退款",) in by_words(mine_rules(texts, [1] * 4 + [2] * 4, user_words=["退款"]))


def test_every_text_needs_a_label() -> None:
    with pytest.raises(ValueError, match="label"):
        mine_rules([MaskedText("a")], [])


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"folds": 21}, {"min_confidence": 0.0}, {"min_support": 0}, {"limit": 0}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        MiningOptions(**wrong)  # type: ignore[arg-type]


def test_log_odds_point_to_the_label_and_grow_with_the_evidence() -> None:
    matched, right = np.array([4, 40, 40, 40, 100]), np.array([4, 40, 20, 5, 50])

    scores = log_odds(matched, right, np.full(5, 50), 100)

    assert 0 < scores[0] < scores[1]
    assert scores[2] == pytest.approx(0.0, abs=1e-6)
    assert scores[3] < 0
    assert scores[4] == pytest.approx(0.0, abs=1e-3), "a word in all texts says nothing"


def test_the_precision_to_count_on_is_never_certain() -> None:
    assert expected_precision(1.0, 3) == pytest.approx(0.8)
    assert expected_precision(1.0, 98) == pytest.approx(0.99)
    assert expected_precision(0.0, 0) == 0.5


def test_a_mined_rule_counts_only_for_texts_without_which_it_would_be_one() -> None:
    rng = random.Random(10)
    texts = [drawn(rng, "refund") for _ in range(20)] + [drawn(rng) for _ in range(20)]
    labels = [1] * 20 + [2] * 20
    # Right three times and never elsewhere: without the fold of any of them there are too few.
    for position in (0, 1, 2):
        texts[position] = MaskedText(f"{texts[position]} lucky")
    rules = [Rule(7, 1, ("refund",)), Rule(8, 1, ("lucky",)), Rule(9, 2, ("lucky",), source="manual")]

    hits = out_of_fold_hits(matches(texts, rules), labels, rules, MiningOptions(min_support=4))

    assert hits[:4] == [[0, 2], [0, 2], [0, 2], [0]]
    assert hits[20:] == [[]] * 20


def test_hits_of_a_rule_that_turns_out_wrong_on_a_fold_still_count_there() -> None:
    rng = random.Random(11)
    texts = [drawn(rng, "refund") for _ in range(21)] + [drawn(rng) for _ in range(20)]
    labels = [1] * 20 + [2] * 21
    rules = [Rule(1, 1, ("refund",), precision=0.95)]

    hits = out_of_fold_hits(matches(texts, rules), labels, rules, MiningOptions(min_confidence=0.95))

    # Only the text that contradicts the rule is told of it: with it, the rule does not reach its precision.
    assert hits[20] == [0]
    assert sum(map(len, hits[:20])) < 20


@pytest.mark.parametrize("labels", [[], [5], [5, 5]])
def test_hits_of_few_texts_or_of_rules_for_other_labels_are_none(labels: list[int]) -> None:
    rules = [Rule(1, 9, ("a",)), Rule(2, 9, ("a",), source="manual")]

    assert out_of_fold_hits([[0, 1]] * len(labels), labels, rules, MiningOptions()) == [[1]] * len(labels)
    assert out_of_fold_hits([[]] * len(labels), labels, [], MiningOptions()) == [[]] * len(labels)
