"""Replace personal identifiers by their kind, so that nothing downstream ever sees them."""

import re
from typing import Final

from app.intent.masked_addresses import mask_addresses
from app.intent.masked_numbers import mask_numbers
from app.intent.text import MaskedText

EMAIL: Final = "【邮箱】"
PLATE: Final = "【车牌号】"

# Every identifier holds a digit or "@", but for an address whose numbers are written in Chinese.
_SUSPECT = re.compile("[0-9@号栋幢室座弄]|单元")
_ADDRESS_SUSPECT = re.compile("[号栋幢室座弄区苑园寓厦城庭湾府庄坊村场心楼]|单元")

# A number that touches an address (京A-12343号楼2单元) is seen only once the address is gone: nearly always,
# the second pass finds nothing.
_MOST_PASSES = 4

# Characters of e-mail addresses that stand together are taken as one run: linear in the text's length.
_EMAIL_RUN = re.compile(r"[A-Za-z0-9._%+\-@]+")
_EMAIL = re.compile(r"[A-Za-z0-9_%+\-]@(?:[A-Za-z0-9\-]+\.)+[A-Za-z]{2}")

# GA 36: province, city letter, then five characters with at most two letters (I and O are never used), or six
# for a new-energy car: one letter at either end of five digits, or two letters in front of four.
_PLATE = re.compile(
    r"([京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]) ?[A-HJ-NP-Z](?: ?([·•・.\-])? ?)("
    r"[A-HJK] ?-?[A-HJ-NP-Z0-9](?: ?-?[0-9]){4}|(?:[0-9] ?-?){5}[A-HJK]|"
    r"(?:[A-HJ-NP-Z0-9] ?-?){4}[A-HJ-NP-Z0-9挂学警港澳])(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# 新R7000P is a new laptop and 阿里云C2345 a cloud server: these need to look more like a plate.
_WORDS_BEFORE_MODELS = frozenset("新黑云贵")
_PLATE_CONTEXT = 8  # characters to either side in which 车 or 牌 speaks for a plate


def mask(text: str) -> MaskedText:
    """Replace each personal identifier of a normalised text by its kind, as in 【手机号】.

    Idempotent; time grows with the text's length and no faster. Masked are e-mail addresses, identity cards
    (18 digits with their checksum, 15 with a plausible region and birthday), bank cards (an issuer's first
    digits and Luhn's sum), mobile and landline numbers of mainland China, licence plates, and addresses down
    to a house or a flat. Digits may be grouped by spaces, dashes or brackets.

    Left alone: order numbers, amounts, dates, models, public service numbers (95588, 400-…), towns and
    streets without a house. Not recognised: numbers of other countries, digits spelt out in words, names of
    persons.
    """
    if not _SUSPECT.search(text):
        return MaskedText(text)
    for _ in range(_MOST_PASSES):
        masked = _mask_once(text)
        if masked == text:
            break
        text = masked
    return MaskedText(text)


def _mask_once(text: str) -> str:
    if "@" in text:
        text = _EMAIL_RUN.sub(_mask_email, text)
    text = _PLATE.sub(_mask_plate, mask_numbers(text))
    return mask_addresses(text) if _ADDRESS_SUSPECT.search(text) else text


def _mask_email(match: re.Match[str]) -> str:
    run = match.group()
    if "@" not in run or not _EMAIL.search(run):
        return run
    inner = run.strip("._%+-@")
    return run.replace(inner, EMAIL)


def _mask_plate(match: re.Match[str]) -> str:
    province, separator, number = match.groups()
    digits = sum(character.isdigit() for character in number)
    length = sum(character not in " -" for character in number)
    if digits < (4 if length == 6 else 3) - (number[-1] in "挂学警港澳"):
        return match.group()
    certain = separator or digits >= 5 or province not in _WORDS_BEFORE_MODELS
    return PLATE if certain or _speaks_of_a_car(match) else match.group()


def _speaks_of_a_car(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _PLATE_CONTEXT) : match.start()].rpartition("】")[2]
    after = match.string[match.end() : match.end() + _PLATE_CONTEXT].partition("【")[0]
    return any(word in before + after for word in "车牌")
