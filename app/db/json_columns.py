"""JSON columns as text, by pydantic's serialiser: the standard library takes four times as long, for every answer."""

import json
from typing import Any, Final

from pydantic_core import from_json, to_json

# What is no JSON: the words by which it would be written.
NOT_JSON: Final = (b"NaN", b"Infinity")
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def written(value: Any) -> str:
    """A value as compact JSON.

    Raises:
        ValueError: it holds a number that is none, which two of the databases would refuse and one would keep.
    """
    text: bytes = to_json(value, inf_nan_mode="constants")
    if any(word in text for word in NOT_JSON):
        # Within a string, which is well, or as a number.
        return _strict(value)
    return text.decode()


def read(text: str | bytes) -> Any:
    """The value that was written.

    Raises:
        ValueError: it is no JSON.
    """
    return from_json(text)
