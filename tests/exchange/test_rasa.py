"""Rasa's training data: its intents example by example, and YAML that means harm."""

import pytest

from app.exchange.labelled import BadRow, LabelledRow, UnreadableFile, read_labelled

NLU = """\
# made by hand
version: "3.1"
nlu:
- intent: 硬件故障 > 无法开机
  examples: |
    - 充不进电
    - [手机](device)坏了
    - - 5度能开机吗

    - [北京]{"entity": "city", "value": "bj"} 到 [上海](city:sh) 的 [票][{"entity": "a"}, {"entity": "b"}]
    no dash
- synonym: 手机
  examples: |
    - 电话
- intent: 物流
  examples:
  - text: |
      快递没到
    metadata: {a: 1}
  - 还没发货
  - {metadata: 1}
- lookup: city
- intent: 空
stories:
- story: x
  steps: [{intent: 物流}]
"""


@pytest.fixture
def read(tmp_path):
    def read_content(content, name="nlu.yml", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_labelled(path, **options))

    return read_content


@pytest.mark.parametrize("name", ["nlu.yml", "nlu.yaml", "nlu.txt"])
def test_every_example_of_every_intent_is_a_row_without_its_entity_marks(read, name):
    power = "硬件故障 > 无法开机"
    assert read(NLU, name) == [
        LabelledRow(6, "充不进电", power),
        LabelledRow(7, "手机坏了", power),
        LabelledRow(8, "- 5度能开机吗", power),
        LabelledRow(10, "北京 到 上海 的 票", power),
        BadRow(11, "an example begins with a dash"),
        BadRow(12, "a synonym is no labelled text", ignored=True),
        LabelledRow(18, "快递没到", "物流"),
        LabelledRow(20, "还没发货", "物流"),
        BadRow(21, "an example without a text"),
        BadRow(22, "a lookup table is no labelled text", ignored=True),
        BadRow(23, "the intent has no examples"),
    ]


def test_a_damaged_character_costs_only_its_row(read):
    rows = read("nlu:\n- intent: a\n  examples: |\n    - 好\n    - x".encode() + b"\xff\x01\n    - \xe5\xa5\xbd\n")
    assert [type(row) for row in rows] == [LabelledRow, BadRow, LabelledRow]
    assert "not UTF-8" in rows[1].reason


def test_a_character_on_the_edge_of_two_reads_stays_whole(read):
    # Three bytes each, so that hardly any read ends between two of them.
    lines = [f"{'多' * 97}{number}" for number in range(2000)]
    rows = read("nlu:\n- intent: a\n  examples: |\n" + "".join(f"    - {line}\n" for line in lines))
    assert [row.text for row in rows] == lines


def test_a_file_that_comes_byte_by_byte_is_read_to_its_end(tmp_path, monkeypatch):
    path = tmp_path / "nlu.yml"
    path.write_text(NLU)
    whole = list(read_labelled(path))
    monkeypatch.setattr("app.exchange.pieces.Source.read", lambda source, _: source.readline(1))
    assert list(read_labelled(path)) == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nlu:\n- intent: a\n  examples: |\n    - x\n bad: [", "no YAML that can be read"),
        ("nlu: &a\n- *a\n", "alias"),
        ("nlu:\n- &b {intent: a, examples: '- x'}\n- *b\n", "line 3 of nlu.yml is a YAML alias"),
        ("nlu:\n- intent: " + "[" * 100_000, "nested too deep"),
        ("other: " + "{a: " * 100_000, "nested too deep"),
        ("- a\n- b\n", "no mapping with the key nlu"),
        ("just words", "no mapping with the key nlu"),
        ("nlu:\n\t- x", "no YAML that can be read"),
    ],
    ids=lambda value: value[:20].encode("ascii", "replace").decode(),
)
def test_yaml_that_cannot_be_read_is_refused_in_one_sentence(read, content, message):
    with pytest.raises(UnreadableFile, match=message):
        read(content)


def test_tags_build_nothing(read):
    (row,) = read("nlu:\n- intent: !!python/object/apply:os.system [echo]\n")
    assert row == BadRow(2, "an entry without an intent is no labelled text", ignored=True)


def test_yaml_has_a_bound_of_its_own(read, monkeypatch):
    monkeypatch.setattr("app.exchange.labelled.MAX_YAML_BYTES", 100_000)
    with pytest.raises(UnreadableFile, match="holds more than 100000 bytes"):
        read("nlu:\n- intent: a\n  examples: |\n" + "    - x\n" * 20_000)


def test_a_line_of_brackets_is_read_in_linear_time(read):
    rows = read("nlu:\n- intent: a\n  examples: |\n    - " + "[a]{" * 4_900 + "\n    - " + "[a" * 9_000 + "\n")
    assert [row.text[:4] for row in rows] == ["[a]{", "[a[a"]
