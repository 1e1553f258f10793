"""Recognise addresses that lead to a house or a flat among the words of a text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

ADDRESS: Final = "【地址】"

# A part of an address is a name with what it names (朝阳区, 建国路, 阳光小区) or a number with what it counts
# (88号, 3栋). A name holds none of the characters that end one, nor words that stand around addresses (住在…,
# 寄到…, 我们…): so a text falls into parts in one way only, and in linear time.
_ENDS = "省市州盟区县旗镇乡村屯庄路街道巷弄号栋幢座室楼层园苑寓厦城庭湾府坊场"
_STOPS = "在到是住寄送给的我你您他她它请把往了址吗呢吧啊这有说帮去个要为跟想问不没就还能们快递"
_COUNTED = r"(?:[0-9]{1,4}[A-Za-z]?|[A-Za-z][0-9]{0,4}|[零〇一二三四五六七八九十百两]{1,5})"
_COUNT = (
    rf"(?P<count>(?<![0-9A-Za-z.]){_COUNTED}(?:[-–—][0-9]{{1,4}}[A-Za-z]?){{0,3}} ?)"
    r"(?P<counts>号楼|号院|号线|号|单元|段|栋|幢|座|室[0-9一二两三四五]?[厅卫]|室|房间|房|弄|巷|楼|层|街坊"
    r"|(?:(?<=[0-9A-Za-z])|(?<=[0-9A-Za-z] ))(?![0-9A-Za-z年月日天点时分秒个台元次件块条平%.:/]))"
)
# Every address holds a counted part: who looks for that alone is done with 单号1234567 in a tenth of the time.
_COUNTED_PART = re.compile(_COUNT)
_PART = re.compile(
    rf"{_COUNT}"
    rf"|(?!(?<=[0-9])元)(?P<name>[^\W0-9A-Za-z_{_ENDS}{_STOPS}]{{0,8}})(?P<end>中心|[{_ENDS}]+)"
)
_HOUSES = frozenset({"号", "号院", "弄"})
_FLATS = frozenset({"号楼", "单元", "栋", "幢", "座", "室", "房"})
_ESTATES = frozenset("区园苑寓厦城庭湾府庄坊村场心楼")
_STREETS = frozenset("路街道巷弄")
_VILLAGES = frozenset("村屯庄坊")

# Words that only look like a street: 我知道3号, 线路2号, 铁路12号.
_NO_STREET = re.compile("[电线思网走迷顺半铁出退绕问回短断开上一]路$|[频渠知报味隧轨赛通管跑人]道$|[上下逛]街$")
_MOST_NAME = 4  # characters before 路, 区, …; a longer run begins with words that belong to the sentence
_PROVINCES = re.compile(
    "北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西|甘肃"
    "|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)


@dataclass(frozen=True, slots=True)
class _Part:
    begin: int
    end: int
    ends: str  # what is named or counted: 区, 路, 号, 栋; "" for a bare number
    name: str  # what stands before its end: 南 of 南区
    named: bool  # has a name of its own: 阳光小区, and not 小区
    counted: bool
    bars: int  # dashes in the number: 3-2-502


def mask_addresses(text: str) -> str:
    """Replace each address of a normalised text that leads to a house or a flat.

    Enough evidence is a street or village with a house number (中山路88号), two counted parts of a building
    (3栋2单元), or one of them behind a named estate or street (阳光小区3栋). Regions before it and rooms
    behind it belong to it. A town, a district, a street or an underground line alone is left.
    """
    if not _COUNTED_PART.search(text):
        return text
    pieces: list[str] = []
    done = 0
    for chain in _chains(text):
        for begin, end in _addresses(text, chain):
            if not pieces or begin > done:  # 建国路88号 and then 现代城A座 are one address
                pieces += text[done:begin], ADDRESS
            done = end
    return "".join(pieces) + text[done:] if pieces else text


def _chains(text: str) -> Iterator[list[_Part]]:
    """Parts that follow each other with at most one space or comma between them."""
    chain: list[_Part] = []
    for found in _PART.finditer(text):
        part = _part(found)
        if chain and text[chain[-1].end : part.begin] not in ("", " ", ",", "、"):
            yield chain
            chain = []
        chain.append(part)
    if chain:
        yield chain


def _part(found: re.Match[str]) -> _Part:
    count, name = found["count"], found["name"]
    if count is not None:
        end = found.end() if found["counts"] else found.start() + len(count.rstrip())
        bars = sum(count.count(dash) for dash in "-–—")
        return _Part(found.start(), end, found["counts"], name="", named=False, counted=True, bars=bars)
    ends = found["end"][-1]
    named = len(name) >= 2 or (name != "" and ends in _STREETS)
    if _NO_STREET.search(found.group()):
        named = False
    return _Part(found.start(), found.end(), ends, name=name, named=named, counted=False, bars=0)


def _addresses(text: str, chain: Sequence[_Part]) -> Iterator[tuple[int, int]]:
    """First and last place of each address of a chain."""
    done = at = 0
    while at < len(chain):
        first = after = at
        while after < len(chain) and chain[after].counted:
            after += 1
        while first > done and chain[first - 1].name:
            first -= 1
        if after > at and _is_evidence(chain[first:at], chain[at:after]):
            after = _without_surplus(text, chain, at, after)
            joins = first == done > 0
            yield (chain[first].begin if joins else _opening(chain[first])), chain[after - 1].end
            done = after
        at = max(after, at + 1)
        while at < len(chain) and not chain[at].counted:
            at += 1


def _is_evidence(before: Sequence[_Part], inside: Sequence[_Part]) -> bool:
    """Whether counted parts lead to a house or a flat. `before`: the parts with words in front of them."""
    flats = {part.ends for part in inside} & _FLATS
    if len(flats) >= 2:
        return True
    if not any(part.named for part in before):
        return False
    place = before[-1].ends
    houses = inside[0].ends in _HOUSES or [part.ends for part in inside[:2]] == ["段", "号"]
    if houses and (flats or place in _STREETS or place in _VILLAGES):
        return True
    if flats:
        return place in _ESTATES or place in _STREETS
    return place in _ESTATES and inside[0].ends == "" and inside[0].bars >= 2


def _without_surplus(text: str, chain: Sequence[_Part], at: int, after: int) -> int:
    """Leave the last bare numbers where a comma parts them, or a space and they are too short for a room."""
    while after - at > 1 and chain[after - 1].ends == "":
        parted = text[chain[after - 1].begin - 1]
        if parted not in ",、" and not (parted == " " and chain[after - 1].end - chain[after - 1].begin < 3):
            break
        after -= 1
    return after


def _opening(first: _Part) -> int:
    """Where the address begins within its first part, which may have taken in the words in front of it."""
    province = _PROVINCES.search(first.name)
    return first.begin + (province.start() if province else max(0, len(first.name) - _MOST_NAME))
