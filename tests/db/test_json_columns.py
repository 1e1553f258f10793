"""What is written into a JSON column is read as it was, and a number that is none is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db import json_columns

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_value_comes_back_as_it_was_and_as_anybody_else_would_read_it(value: Any) -> None:
    try:
        written = json_columns.written(value)
    except UnicodeEncodeError:
        return
    assert json_columns.read(written) == json.loads(written) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_number_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_columns.written({"a": ["NaN", number]})


def test_words_that_look_like_such_a_number_are_kept() -> None:
    assert json_columns.read(json_columns.written(["NaN", {"Infinity": "-Infinity"}])) == [
        "NaN",
        {"Infinity": "-Infinity"},
    ]


def test_chinese_stays_as_it_is_written() -> None:
    assert json_columns.written(["电源 > 故障"]) == '["电源 > 故障"]'
