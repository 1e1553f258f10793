"""Recognise identity cards, bank cards, mobile and landline numbers among the digits of a text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

MOBILE: Final = "【手机号】"
LANDLINE: Final = "【座机号】"
IDENTITY_CARD: Final = "【身份证号】"
BANK_CARD: Final = "【银行卡号】"

_SHORTEST = 10  # digits: a landline number of seven behind an area code of three
_BETWEEN = r" ()\-‐‒–—−"  # what may part the digits of one number
_RUN = re.compile(rf"[0-9](?:[{_BETWEEN}]{{0,3}}[0-9])*")

_MOBILE = re.compile("1[3-9][0-9]{9}")
_AREA = re.compile("010|02[0-9]|0(?:3[1-579]|4[1-35-8]|5[1-9]|6[369]|7[0-9]|8[1-35-9]|9[013-9])[0-9]")
_PROVINCE = re.compile("1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]|91")  # GB/T 2260
_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643

# The first digits of ISO/IEC 7812 issuers by the length of the number; few issue short ones. Without them one
# order number in ten would be taken for a card, those that begin with a date among them.
_CARD_ISSUERS = {
    13: re.compile("4"),
    14: re.compile("30[0-5]|3[689]"),
    15: re.compile("3[47]"),
    16: re.compile("35|[4569]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"),
    17: re.compile("[4569]"),
    18: re.compile("[4569]"),
    19: re.compile("[4569]"),
}

# Words right before a number that say what it counts. A telephone number is spared only by the first kind: 订单 may
# as well be followed by the number to call about it.
_NUMBERED = r"单号|编号|编码|序列号|流水号|物流号|票号|批号|设备号|SN|S/N|IMEI|order (?:no|number|id)"
_IS_NUMBERED = re.compile(rf"(?:{_NUMBERED})[ :.#为是]{{0,3}}$", re.IGNORECASE)
_IS_REFERENCE = re.compile(rf"(?:{_NUMBERED}|订单|单据|order)[ :.#为是]{{0,3}}$", re.IGNORECASE)
_REFERENCE_REACH = 20  # characters before a number in which a word may say that it is no card
_DECIMALS = re.compile(rf"\.[0-9]{{1,2}}(?!\.|[{_BETWEEN}]{{0,3}}[0-9])")
_EXTENSION = re.compile(r"[\-–—][0-9]{1,6}(?![0-9]|[\-–—][0-9])")


@dataclass(frozen=True, slots=True)
class _Run:
    """Digits of a text that only spaces, dashes and brackets part."""

    text: str
    digits: str
    places: range | list[int]  # of each digit in the text
    starts: list[int]  # indexes of the digits that begin a group, and the number of digits

    def begins(self, first: int) -> int:
        return self.places[first]

    def ends(self, last: int) -> int:
        return self.places[last - 1] + 1

    def is_whole(self, first: int, last: int) -> bool:
        """Whether no bracket stands between these digits: 1799(1999-200) is no telephone number."""
        raw = self.text[self.begins(first) : self.ends(last)]
        return "(" not in raw and ")" not in raw

    def before(self, first: int, reach: int = 1) -> str:
        """The characters right before a digit, at most `reach`."""
        begin = self.begins(first)
        return self.text[max(0, begin - reach) : begin]


def mask_numbers(text: str) -> str:
    """Replace each personal number of a normalised text by its kind.

    Within a run, numbers are found from left to right and only where groups of digits begin and end: eleven
    digits in the middle of twenty are no telephone number.
    """
    pieces: list[str] = []
    done = 0
    for found in _RUN.finditer(text):
        if found.end() - found.start() < _SHORTEST:
            continue
        for kind, begin, end in _identifiers(_parse(text, found)):
            pieces += text[done:begin], kind
            done = end
    return "".join(pieces) + text[done:] if pieces else text


def _parse(text: str, found: re.Match[str]) -> _Run:
    raw = found.group()
    if raw.isdigit():
        return _Run(text, raw, range(found.start(), found.end()), [0, len(raw)])
    places = [found.start() + offset for offset, character in enumerate(raw) if character.isdigit()]
    starts = [0] + [i for i in range(1, len(places)) if places[i] != places[i - 1] + 1] + [len(places)]
    return _Run(text, "".join(text[place] for place in places), places, starts)


def _identifiers(run: _Run) -> Iterator[tuple[str, int, int]]:
    """The kind, first and last place of each identifier of a run, in order, never overlapping."""
    done = 0
    group_ends = frozenset(run.starts[1:])
    for group, first in enumerate(run.starts[:-1]):
        if first < done or len(run.digits) - first < _SHORTEST:
            continue
        found = (
            _identity_card(run, group, group_ends)
            or _telephone(run, group, group_ends)
            or _bank_card(run, group, group_ends)
        )
        if found is None:
            continue
        kind, done, end = found
        yield kind, _opening(run, first, end), end


def _opening(run: _Run, first: int, end: int) -> int:
    """Where the identifier begins: a plus sign and a bracket that closes inside belong to it."""
    begin = run.begins(first)
    if begin and run.text[begin - 1] == "+":
        begin -= 1
    if begin and run.text[begin - 1] == "(" and ")" in run.text[begin:end]:
        begin -= 1
    return begin


_Found = tuple[str, int, int] | None  # kind, index behind the last digit, place behind the last character


def _identity_card(run: _Run, group: int, group_ends: frozenset[int]) -> _Found:
    first = run.starts[group]
    digits = run.digits[first : first + 18]
    if not _PROVINCE.match(digits):
        return None
    if len(digits) == 18 and first + 18 in group_ends and _identity_holds(digits):
        return IDENTITY_CARD, first + 18, run.ends(first + 18)
    if len(digits) == 17 and first + 17 == len(run.digits):
        check = re.compile("[ -]?[Xx](?![A-Za-z])").match(run.text, run.ends(first + 17))
        if check and _identity_holds(digits + "X"):
            return IDENTITY_CARD, first + 17, check.end()
    old = digits[:15]
    if len(old) == 15 and first + 15 in group_ends and _is_date("19" + old[6:12]) and not _is_reference(run, first):
        # Numbers side by side may add up to fifteen digits: of groups, only those of a card are believed.
        inner = [end - first for end in run.starts[group + 1 : group + 4] if end < first + 15]
        if inner in ([], [6], [12], [6, 12]):
            return IDENTITY_CARD, first + 15, run.ends(first + 15)
    return None


def _identity_holds(number: str) -> bool:
    """Birthday and check character of an 18-character identity card number (GB 11643, ISO 7064 MOD 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_IDENTITY_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[17] and _is_date(number[6:14])


def _is_date(digits: str) -> bool:
    try:
        return 1900 <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year < 2100
    except ValueError:
        return False


def _telephone(run: _Run, group: int, group_ends: frozenset[int]) -> _Found:
    first = run.starts[group]
    digits = run.digits[first : first + 17]
    abroad = "0086" if digits.startswith("0086") else "86" if digits.startswith("86") else ""
    trunk = "0" if digits.startswith("01") and not abroad else ""
    for prefix in dict.fromkeys((abroad or trunk, "")):
        last = first + len(prefix) + 11
        if last not in group_ends or not _MOBILE.match(digits, len(prefix)):
            continue
        if run.is_whole(last - 11, last) and not _is_numbered(run, first) and not _is_quantity(run, first, last):
            return MOBILE, last, run.ends(last)
    explicit = abroad == "0086" or (abroad == "86" and run.before(first) == "+")
    if explicit:
        return _landline(run, group, group_ends, skip=len(abroad))
    return _landline(run, group, group_ends, skip=0) if digits.startswith("0") else None


def _landline(run: _Run, group: int, group_ends: frozenset[int], *, skip: int) -> _Found:
    """A landline number. `skip`: digits of the country's code; the area code behind it may lack its zero."""
    first = run.starts[group]
    number = run.digits[first + skip : first + skip + 12]
    missing = "0" if skip and not number.startswith("0") else ""
    area = _AREA.match(missing + number)
    if area is None:
        return None
    local = first + skip + area.end() - len(missing)
    parted = local in group_ends
    if parted and not skip and run.starts[group + 1] - first not in (1, local - first):
        return None  # 06-12 2024-07-12
    for length in (8, 7):
        last = local + length
        if last not in group_ends or run.digits[local] < ("1" if parted else "2") or not run.is_whole(local, last):
            continue
        if (
            not parted
            and not skip
            and (last - first < 11 or _is_reference(run, first) or _is_quantity(run, first, last))
        ):
            continue
        extension = _EXTENSION.match(run.text, run.ends(last))
        if extension is None:
            return LANDLINE, last, run.ends(last)
        return LANDLINE, last + extension.end() - extension.start() - 1, extension.end()
    return None


def _bank_card(run: _Run, group: int, group_ends: frozenset[int]) -> _Found:
    first = run.starts[group]
    if not _may_begin_a_card(run, group):
        return None
    for length in range(19, 12, -1):
        last = first + length
        digits = run.digits[first:last]
        if last in group_ends and _CARD_ISSUERS[length].match(digits) and _luhn_holds(digits):
            if not run.is_whole(first, last):
                return None
            if _is_reference(run, first) or _is_quantity(run, first, last) or _touches_letters(run, first, last):
                return None
            return BANK_CARD, last, run.ends(last)
    return None


def _may_begin_a_card(run: _Run, group: int) -> bool:
    """Whether the group has four digits, or one as the next has: 3 13800138000 is no card."""
    size, after = run.starts[group + 1] - run.starts[group], run.starts[group + 1 : group + 3]
    return size >= 4 or (size == 1 and len(after) == 2 and after[1] - after[0] == 1)


def _luhn_holds(digits: str) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1): every second digit counts as the digit sum of its double."""
    doubled = sum((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[int(digit)] for digit in digits[-2::-2])
    return (doubled + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0


def _is_reference(run: _Run, first: int) -> bool:
    """Whether the words right before the number say that it is an order, a device or the like."""
    return _IS_REFERENCE.search(run.before(first, _REFERENCE_REACH)) is not None


def _is_numbered(run: _Run, first: int) -> bool:
    return _IS_NUMBERED.search(run.before(first, _REFERENCE_REACH)) is not None


def _is_quantity(run: _Run, first: int, last: int) -> bool:
    """Whether the digits are an amount (¥…, …元, ….50) or stand within letters, as in a serial number."""
    end = run.ends(last)
    before, after = run.before(first), run.text[end : end + 1]
    if before in ("¥", "$", "€") or after == "元" or _DECIMALS.match(run.text, end):
        return True
    return before.isascii() and before.isalpha() and after.isascii() and after.isalpha()


def _touches_letters(run: _Run, first: int, last: int) -> bool:
    end = run.ends(last)
    return any(side.isascii() and side.isalpha() for side in (run.before(first), run.text[end : end + 1]))
