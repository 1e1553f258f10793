"""Taxonomies are read in the forms people write, and refused with the place that is wrong."""

import random
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intent.taxonomy import (
    MOST_LABELS,
    LabelSpec,
    TaxonomyInvalid,
    join,
    near_labels,
    parse_taxonomy,
    split,
    taxonomy_digest,
)


def paths(document):
    return [label.path for label in parse_taxonomy(document)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            "root: {硬件故障: {电源问题: [无法开机, 频繁重启]}}",
            ["硬件故障 > 电源问题 > 无法开机", "硬件故障 > 电源问题 > 频繁重启"],
        ),
        ("硬件故障: {电源问题: [无法开机]}", ["硬件故障 > 电源问题 > 无法开机"]),
        ("root: [咨询, 投诉]", ["咨询", "投诉"]),
        ("[咨询, 投诉]", ["咨询", "投诉"]),
        ("{咨询: , 投诉: {}, 其他: []}", ["咨询", "投诉", "其他"]),
        ("硬件: {电源: 无法开机}", ["硬件 > 电源 > 无法开机"]),
        ("硬件: [电源, {屏幕: [花屏, 黑屏]}]", ["硬件 > 电源", "硬件 > 屏幕 > 花屏", "硬件 > 屏幕 > 黑屏"]),
        ("- 硬件: [电源]\n- 咨询", ["硬件 > 电源", "咨询"]),
        ("['硬件 > 电源', 咨询]", ["硬件 > 电源", "咨询"]),
        ("labels: [a, {path: b > c}, {label: d}]", ["a", "b > c", "d"]),
        ("labels: {a: [b]}", ["labels > a > b"]),
        ("['  Ａ　B ']", ["A B"]),
        ("['硬件　＞　电源']", ["硬件 > 电源"]),
        ("[a>b, 'a >b']", ["a>b", "a >b"]),
        ("[a, A]", ["a", "A"]),
        ("a: [b, c]\nb: [b, c]", ["a > b", "a > c", "b > b", "b > c"]),
    ],
)
def test_every_form_gives_its_leaves_in_the_order_they_are_written(written, expected):
    assert paths(yaml.safe_load(written)) == expected


def test_a_label_has_its_levels_and_its_guideline():
    (label,) = parse_taxonomy({"labels": [{"path": "硬件 > 电源", "guideline": "  开不了机\x00，不是黑屏 \n"}]})
    assert label == LabelSpec("硬件 > 电源", ("硬件", "电源"), "开不了机\ufffd，不是黑屏")
    assert parse_taxonomy([{"label": "a", "guideline": " "}])[0].guideline is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "not nothing"),
        ("3", "not int"),
        ("text", "not str"),
        ("[]", "no labels"),
        ("{}", "no labels"),
        ("root: {}", "no labels"),
        ("labels: []", "no labels"),
        ("root:", "root: nothing"),
        ("root: x", "root: str"),
        ("root: [a]\nb: [c]", "root: nothing else"),
        ("labels: [a]\nb: [c]", "labels: nothing else"),
        ("[a, a]", r"taxonomy\[1\]: label 'a' is named twice, first at taxonomy\[0\]"),
        ("['a', 'ａ']", "named twice"),
        ("['a > b', {a: [b]}]", "named twice"),
        ("a: {b: [c, c]}", r"taxonomy.a.b\[1\]: label 'a > b > c' is named twice"),
        ("[a, a > b]", r"taxonomy\[0\]: 'a' is a label and also has 'a > b' below it"),
        ("['a > b > c', a]", r"taxonomy\[1\]: 'a' is a label"),
        ("a > b: [c]", "'a > b' holds ' > '"),
        ("a: ['b ＞ c']", "'b > c' holds ' > '"),
        ("['a > > b']", "holds"),
        ("['> a']", "holds"),
        ("['a >']", "holds"),
        ("a: ['>']", "holds"),
        ("['']", r"taxonomy\[0\]: a level is empty"),
        ("a: [' ']", r"taxonomy.a\[0\]: a level is empty"),
        ("'\u3000': [a]", "a level is empty"),
        ("['\u200b']", "a level is empty"),
        ("a: [3]", r"taxonomy.a\[0\]: a level is int"),
        ("a: [null]", "a level is nothing"),
        ("a: [[b]]", "a level is list"),
        ("a: [{}]", "a level is dict"),
        ("404: [a]", "a level is int"),
        ("true: [a]", "a level is bool"),
        ("a: 3", "taxonomy.a: .* this is int"),
        ("[3]", r"taxonomy\[0\]: .* this is int"),
        ("[{}]", r"taxonomy\[0\]: .* this is dict"),
        ("[{guideline: x}]", r"taxonomy\[0\]: .* this is dict"),
        ("[{path: 3}]", r"taxonomy\[0\]: .* this is dict"),
        ("[{path: a, guideline: [x]}]", "the guideline is list"),
        ("&a {x: *a}", "more than 8 levels"),
        ("&a [*a]", r"taxonomy\[0\]: .* this is list"),
        ("a: &a [*a]", "a level is list"),
        ("a: &a [{b: *a}]", "more than 8 levels"),
    ],
)
def test_a_broken_taxonomy_is_refused_with_the_place(written, message):
    with pytest.raises(TaxonomyInvalid, match=message):
        parse_taxonomy(yaml.safe_load(written))


def test_lengths_are_limited_and_just_fit():
    assert len(paths(["一" * 100])[0]) == 100
    with pytest.raises(TaxonomyInvalid, match="101 characters"):
        paths(["一" * 101])
    fits = " > ".join(["a" * 100, "b" * 100, "c" * 49])
    assert paths([fits]) == [fits]
    with pytest.raises(TaxonomyInvalid, match="256 characters"):
        paths([fits + "c"])
    assert paths([" > ".join("abcdefgh")]) == [" > ".join("abcdefgh")]
    with pytest.raises(TaxonomyInvalid, match="more than 8 levels"):
        paths([" > ".join("abcdefghi")])
    with pytest.raises(TaxonomyInvalid, match="guideline"):
        parse_taxonomy([{"path": "a", "guideline": "x" * 4_001}])


def test_ten_thousand_labels_fit_and_one_more_does_not():
    assert len(paths([str(number) for number in range(MOST_LABELS)])) == MOST_LABELS
    with pytest.raises(TaxonomyInvalid, match="more than 10000 labels"):
        paths([str(number) for number in range(MOST_LABELS + 1)])


def test_anchors_that_multiply_without_end_are_refused_at_once():
    lines = ["a0: &a0 [" + ",".join(f"x{number}" for number in range(10)) + "]"]
    for depth in range(1, 8):
        below = ",".join(f"y{number}: *a{depth - 1}" for number in range(10))
        lines.append(f"a{depth}: &a{depth} {{{below}}}")
    start = time.perf_counter()
    with pytest.raises(TaxonomyInvalid, match="more than 10000 labels"):
        parse_taxonomy(yaml.safe_load("\n".join(lines)))
    assert time.perf_counter() - start < 5.0


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | st.sampled_from(["root", "labels", "path"]), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_refused(document):
    try:
        labels = parse_taxonomy(document)
    except TaxonomyInvalid:
        return
    assert labels
    for label in labels:
        assert split(label.path) == label.levels
        assert join(label.levels) == label.path
    assert paths([label.path for label in labels]) == [label.path for label in labels]


def test_the_digest_depends_on_the_paths_and_not_on_their_order():
    digest = taxonomy_digest(["a", "b > c"])
    assert digest == taxonomy_digest(["b > c", "a"])
    assert len({digest, taxonomy_digest(["a", "b"]), taxonomy_digest(["a"]), taxonomy_digest(["a\nb > c"])}) == 4
    assert len(digest) == 64


PATHS = [
    "硬件故障 > 电源问题 > 无法开机",
    "硬件故障 > 电源问题 > 频繁重启",
    "硬件故障 > 屏幕 > 花屏",
    "网络 > 断网",
    "退款",
    "Billing > Refund",
]


@pytest.mark.parametrize(
    ("wanted", "best"),
    [
        ("无法开机", PATHS[0]),
        ("无法开机了", PATHS[0]),
        ("硬件故障>电源问题>频繁重启", PATHS[1]),
        ("硬件故障 > 屏幕问题 > 花屏", PATHS[2]),
        ("断网了", PATHS[3]),
        ("退货退款", PATHS[4]),
        ("refunds", PATHS[5]),
        ("ＲＥＦＵＮＤ", PATHS[5]),
    ],
)
def test_near_labels_finds_what_was_meant(wanted, best):
    assert near_labels(wanted, PATHS)[0] == best


def test_near_labels_names_few_and_only_alike_ones():
    assert set(near_labels("电源问题", PATHS)) == {PATHS[0], PATHS[1]}
    assert near_labels("电源问题", PATHS, limit=1) == [PATHS[0]]
    assert near_labels("xyz", PATHS) == []
    assert near_labels("", PATHS) == []
    assert near_labels("电源", []) == []


def test_near_labels_is_fast_with_ten_thousand_labels_and_a_long_question():
    rng = random.Random(0)
    letters = "电源屏幕键盘网络账号密码退款发票物流安装维修保养abcdef"
    many = [join("".join(rng.choices(letters, k=6)) for _ in range(3)) for _ in range(MOST_LABELS)]
    start = time.perf_counter()
    assert near_labels(many[4321], many)[0] == many[4321]
    near_labels("电源屏幕" * 5_000, many)
    assert time.perf_counter() - start < 2.0  # 0.06 s when alone on the machine
