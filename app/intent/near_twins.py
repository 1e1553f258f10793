"""Tell near twins: texts that say the same but for a letter, a mark, or a word of a long sentence.

Character 2- and 3-grams need no words, so Chinese and English are treated alike. MinHash (Broder 1997) in bands (Indyk
& Motwani 1998) finds the pairs worth comparing; the exact similarity decides.
"""

import hashlib
import unicodedata
import zlib
from collections.abc import Iterable, Set
from typing import Final

from app.intent.text import MaskedText, text_key

NEAR: Final = 0.8
"""From this similarity on two texts are near twins.

Measured on the public sets, distinct texts only: of 3,736 Chinese questions in 31 intents (smp2017-ecdt) 18 pairs are,
none of two labels; of 17,997 English ones in 150 (clinc150) 1,041 pairs, 13 of two labels; of 13,071 in 77 (banking77)
781, 32 of two labels, some of which are wrong labels ("Has my top up gone through?" and "Has my top-up gone through?"
have two). At 0.7 it would be 0, 63 and 157. One character of a text that is shorter than 24 makes another text of it:
开灯 and 关灯 share nothing.
"""

GRAMS: Final = (2, 3)

LONGEST: Final = 1_000
"""Characters that are looked at, of the stored text from its beginning: what bounds the memory that a page takes."""

BANDS: Final = 8

ROWS: Final = 4
"""Minima in a band. A pair at 0.8 is found with probability 0.985, one at 0.3 is compared for nothing with 0.06.

Most near twins are nearer than 0.8: of those of the three sets 0.995 and more were found. 12,000 to 29,000 texts a
second on one core, shingles included.
"""

SEED: Final = 1


class _Letters(dict[int, int | None]):
    """What stays of a character: punctuation and white space go, letters, marks, digits and symbols stay."""

    def __missing__(self, point: int) -> int | None:
        category = unicodedata.category(chr(point))[0]
        # Tildes lengthen a word as dots do.
        kept = None if category in "PZC" or chr(point) in "~`^" else point
        self[point] = kept
        return kept


_LETTERS: Final = _Letters()


def shingles(text: MaskedText) -> Set[str]:
    """The distinct character 2- and 3-grams of a text without its punctuation and white space; never empty.

    A text of one character is its own shingle, and one of punctuation alone is so as a whole.
    """
    key = text_key(MaskedText(text[:LONGEST]))
    letters = key.translate(_LETTERS) or key
    found = {letters[start : start + size] for size in GRAMS for start in range(len(letters) - size + 1)}
    return found or {letters}


def similarity(one: Set[str], other: Set[str]) -> float:
    """Jaccard's index of two sets of shingles, |A ∩ B| / |A ∪ B|: 0 for nothing in common, 1 for the same."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def band_keys(texts: Iterable[Set[str]]) -> list[tuple[int, ...]]:
    """For each set of shingles the keys of its bands, `BANDS` signed 64-bit integers.

    Texts that share a key may be near twins. The same shingles have the same keys in every process and release.
    """
    # Imported where it is used: it brings half of scipy, 58 MB that a process which answers can do without.
    from datasketch import MinHash

    signatures = MinHash.generator(
        ([shingle.encode() for shingle in some] for some in texts),
        num_perm=BANDS * ROWS,
        seed=SEED,
        hashfunc=zlib.crc32,
        scheme="affine32",
    )
    return [_keys(signature.hashvalues.astype("<u4").tobytes()) for signature in signatures]


def _keys(minima: bytes) -> tuple[int, ...]:
    width = 4 * ROWS
    return tuple(
        int.from_bytes(
            hashlib.blake2b(minima[band * width : (band + 1) * width], digest_size=8, salt=bytes([band])).digest(),
            "big",
            signed=True,
        )
        for band in range(BANDS)
    )
