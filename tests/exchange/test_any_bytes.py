"""Whatever a file holds: rows, each good or with its reason, or one sentence about the whole. Never anything else."""

import gzip
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.exchange.labelled import FORMATS, BadRow, LabelledRow, UnreadableFile, read_labelled

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

_keys = st.sampled_from(
    ["text", "label", "labels", "data", "annotations", "result", "value", "choices", "taxonomy", "fields", "responses",
     "suggestions", "status", "values", "annotation", "prediction", "inputs", "input", "output", "user_input",
     "intent_code", "meta", "proposed_label", "predictions", "completions", "label.responses", "label.suggestion",
     "label.responses.status", "was_cancelled", "ground_truth", "question_name", "score"]
)  # fmt: skip
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.just("a > b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)
records = st.dictionaries(_keys, _values, max_size=6)

_yaml = st.lists(
    st.sampled_from(
        ["nlu:\n", "version: '3.1'\n", "- intent: a\n", "  examples: |\n", "    - x\n", "- synonym: b\n",
         "  - text: y\n", "\t", "&a ", "*a\n", "[", "]", "{", "}", ": ", "? ", "- ", "|\n", "'", '"', "#", "\n", "  ",
         "!!int ", "---\n", "examples:", "\x00", "\x85", "…", "%YAML 1.1\n"]
    ),
    max_size=25,
).map("".join)  # fmt: skip
_text = st.text(alphabet="text,label;\t\r\n\"'=abc[]{}:é\x00", max_size=80)


def check(path, content, **options):
    path.write_bytes(content)
    rows, refusal = [], ""
    try:
        rows.extend(read_labelled(path, **options))
    except UnreadableFile as error:
        refusal = str(error)
    assert "\n" not in refusal
    for row in rows:
        assert isinstance(row, LabelledRow | BadRow)
        if isinstance(row, LabelledRow):
            assert row.text.strip()
            assert row.label.strip()
            (row.text + row.label).encode()


@QUICK
@given(content=st.binary(max_size=200), form=st.sampled_from([None, *FORMATS]), packed=st.booleans())
def test_any_bytes(tmp_path, content, form, packed):
    check(tmp_path / "file", gzip.compress(content) if packed else content, form=form)


@QUICK
@given(
    content=st.binary(max_size=120),
    magic=st.sampled_from([b"PAR1", b"\x1f\x8b\x08\0", b"[", b"{", b"nlu:\n", b"\xef\xbb\xbf"]),
)
def test_any_bytes_behind_a_known_beginning(tmp_path, content, magic):
    check(tmp_path / "file", magic + content + (magic if magic == b"PAR1" else b""))


@QUICK
@given(
    rows=st.lists(records, max_size=4),
    form=st.sampled_from([None, *FORMATS]),
    guesses=st.booleans(),
    array=st.booleans(),
)
def test_any_records(tmp_path, rows, form, guesses, array):
    content = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    check(tmp_path / "file.json", content.encode(), form=form, guesses=guesses)


@QUICK
@given(content=_yaml)
def test_anything_like_yaml(tmp_path, content):
    check(tmp_path / "nlu.yml", content.encode())


@QUICK
@given(content=_text, header=st.sampled_from(["text,label\n", "text\tlabels\n", "user_input;intent_code\n", ""]))
def test_anything_like_csv(tmp_path, content, header):
    check(tmp_path / "rows.csv", (header + content).encode())
