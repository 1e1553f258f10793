"""Bring a text into the one form that is masked, stored, hashed and trained on."""

import hashlib
import hmac
import re
import unicodedata
from typing import Final, NewType

MaskedText = NewType("MaskedText", str)
"""A normalised text whose personal identifiers are replaced by their kind; only `masking.mask` makes one."""

NORMALISER_VERSION: Final = 1
"""Part of every hash: raise it when `normalise` or `text_key` changes what they return."""

MAX_CHARACTERS: Final = 20_000
"""Most code points a text may have, before and after normalisation."""

MAX_BYTES: Final = 60_000
"""Most UTF-8 bytes a text may have, before and after normalisation: fits MySQL's 64 kB TEXT."""

MAX_MARKS: Final = 30
"""Most combining marks kept in a row, as in Unicode's stream-safe format (UAX 15, section 13)."""


class TextTooLong(ValueError):
    """The text is longer than `MAX_CHARACTERS` characters or `MAX_BYTES` bytes."""


class TextEmpty(ValueError):
    """Nothing is left of the text after normalisation."""


# NUL cannot be stored by PostgreSQL, a lone surrogate cannot be encoded at all.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

# Unicode's Default_Ignorable_Code_Point (zero-width characters, bidi controls, variation selectors, fillers,
# tags), interlinear annotation marks, and the C0 and C1 controls that are not white space.
_INVISIBLE = re.compile(
    "[\x01-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def _combining_class() -> str:
    """The body of a character class that holds every code point with a non-zero combining class."""
    return "".join(chr(point) for point in range(0x300, 0x1F000) if unicodedata.combining(chr(point)))


_SURPLUS_MARKS = re.compile(f"(?<=[{_combining_class()}]{{{MAX_MARKS}}})[{_combining_class()}]+")


def sanitise(raw: str) -> str:
    """Replace NUL and lone surrogates, which no database can hold, by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", raw)


def normalise(raw: str) -> str:
    """Sanitise, drop invisible characters, apply NFKC, turn each run of white space into one space, strip.

    Idempotent. Invisible characters go before NFKC and not after: taking a joiner from between two characters
    can let them compose. NFKC itself brings none back (a test walks all of Unicode).
    """
    # Marks are cut before NFKC: CPython orders them by insertion, and 20,000 in a row take 0.3 s.
    text = _cut_marks(_INVISIBLE.sub("", sanitise(raw)))
    if not unicodedata.is_normalized("NFKC", text):
        text = _cut_marks(unicodedata.normalize("NFKC", text))
    return " ".join(text.split())


def _cut_marks(text: str) -> str:
    """Keep the first `MAX_MARKS` combining marks of each run."""
    return _SURPLUS_MARKS.sub("", text) if len(text) > MAX_MARKS else text


def clean(raw: str) -> str:
    """Normalise a text from outside and hold it to the limits.

    Raises:
        TextTooLong: too many characters or bytes, as it came or as NFKC, which can grow it 18-fold, left it.
        TextEmpty: only white space and invisible characters.
    """
    _check_length(raw)
    text = normalise(raw)
    if not text:
        raise TextEmpty("the text is empty")
    _check_length(text)
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise TextTooLong(f"the text has {len(text)} characters, at most {MAX_CHARACTERS} are allowed")
    if len(text) * 4 > MAX_BYTES and (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_BYTES:
        raise TextTooLong(f"the text has {size} bytes in UTF-8, at most {MAX_BYTES} are allowed")


def text_key(text: MaskedText) -> str:
    """The form that is hashed: case folded, and normalised once more where folding undid it."""
    return unicodedata.normalize("NFKC", text.casefold())


def text_hash(text: MaskedText, *, secret: bytes | None = None) -> str:
    """SHA-256 of the key and the normaliser's version in 64 hex digits; with a secret, HMAC-SHA-256."""
    message = f"intentloop-text-{NORMALISER_VERSION}\n{text_key(text)}".encode()
    if secret is None:
        return hashlib.sha256(message).hexdigest()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
