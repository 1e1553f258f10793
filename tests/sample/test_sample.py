"""The bundled sample keeps what its README says."""

import re
from collections import Counter
from importlib.resources import files

import pytest

from app import sample
from app.intent.masking import mask
from app.intent.taxonomy import parse_taxonomy
from app.intent.text import normalise, text_key

QUESTIONS = sample.questions()


def test_taxonomy_has_three_levels_with_at_least_twenty_leaves_and_a_guideline_each():
    labels = parse_taxonomy(sample.taxonomy())
    assert len(labels) == 33
    assert {len(label.levels) for label in labels if label.path != "其他"} == {3}
    assert all(label.guideline for label in labels)


def test_questions_have_exactly_the_labels_of_the_taxonomy_each_with_enough_examples():
    counts = Counter(question.label for question in QUESTIONS)
    assert counts.keys() == {label.path for label in parse_taxonomy(sample.taxonomy())}
    assert min(counts.values()) >= 40


def test_questions_are_distinct_even_without_punctuation_and_personal_data():
    assert len(QUESTIONS) >= 1200
    keys = Counter(
        re.sub(r"[\W_]+", "", text_key(mask(normalise(question.text)))) or question.text for question in QUESTIONS
    )
    assert [key for key, count in keys.items() if count > 1] == []


def test_questions_are_short_and_long_and_mixed_with_english_and_out_of_scope():
    texts = [question.text for question in QUESTIONS]
    assert sum(len(text) <= 8 for text in texts) > 50
    assert sum(len(text) >= 45 for text in texts) > 50
    assert sum(bool(re.search("[A-Za-z]", text)) for text in texts) > 100
    assert sum(question.label == "其他" for question in QUESTIONS) >= 50


def test_questions_hold_personal_data_of_every_kind_that_is_masked():
    masked = Counter(
        kind for question in QUESTIONS for kind in re.findall("【[^】]+】", mask(normalise(question.text)))
    )
    assert {"【手机号】", "【身份证号】", "【银行卡号】", "【邮箱】", "【地址】"} <= masked.keys()


@pytest.mark.parametrize(
    ("pattern", "invented"),
    [
        (r"(?<![0-9A-Za-z])1[3-9][0-9]{9}(?![0-9A-Za-z])", r"142|143|154"),
        (r"(?<![0-9A-Za-z])[1-6][0-9]{16}[0-9X](?![0-9A-Za-z])", r".{6}209"),
        (r"@\w[^\u4e00-\u9fff\s]*\.[a-z]+", r"@example\.(com|cn)$"),
        (r"(?<![0-9])62[0-9]{14,17}(?![0-9])", r"6200000000000005|6205500000000000004"),
    ],
    ids=["mobile numbers", "identity cards", "e-mail", "bank cards"],
)
def test_personal_data_is_recognisably_invented(pattern, invented):
    found = [number for question in QUESTIONS for number in re.findall(pattern, question.text)]
    assert found
    assert [number for number in found if not re.match(invented, number)] == []


def test_readme_gives_the_counts_that_hold():
    readme = files(sample).joinpath("README.md").read_text(encoding="utf-8")
    assert f"{len(QUESTIONS):,} distinct labelled questions" in readme
    assert "Apache-2.0" in readme
