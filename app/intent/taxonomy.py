"""Read a taxonomy in the forms people write it, and find the labels that someone may have meant."""

import difflib
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.intent.text import normalise, sanitise

SEPARATOR: Final = " > "

MOST_LEVELS: Final = 8
MOST_LABELS: Final = 10_000
LONGEST_LEVEL: Final = 100  # characters
LONGEST_PATH: Final = 255  # characters
LONGEST_GUIDELINE: Final = 4_000  # characters

_LEAST_LIKENESS: Final = 0.4
_LABEL_KEYS = frozenset({"path", "label", "guideline"})


class TaxonomyInvalid(ValueError):
    """The taxonomy cannot be used as it is written; the message names the place."""


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """A leaf of a taxonomy as it was written. `path` is its `levels` joined; all are normalised."""

    path: str
    levels: tuple[str, ...]
    guideline: str | None = None


def parse_taxonomy(document: object) -> tuple[LabelSpec, ...]:
    """The leaves of a taxonomy, in the order they are written.

    Three forms are read: nested mappings, under `root` or not, whose leaves are list items, empty mappings or
    null; a list of labels; and `{"labels": [...]}`. A label is its path in one string, or a mapping with
    `path` (or `label`) and `guideline`.

    Raises:
        TaxonomyInvalid: a level is empty, too long, no text or holds the separator; a label appears twice or is
            an inner node as well; there is no label, or there are too many labels or levels.
    """
    labels: list[LabelSpec] = []
    places: dict[str, str] = {}
    for place, label in _labels(document):
        if label.path in places:
            first = places[label.path]
            raise TaxonomyInvalid(f"{place}: label {label.path!r} is named twice, first at {first}")
        # Counting while walking also ends a document whose anchors refer to each other without end.
        if len(labels) == MOST_LABELS:
            raise TaxonomyInvalid(f"{place}: more than {MOST_LABELS} labels")
        places[label.path] = place
        labels.append(label)
    if not labels:
        raise TaxonomyInvalid("the taxonomy has no labels")
    _refuse_inner_leaves(labels, places)
    return tuple(labels)


def _labels(document: object) -> Iterator[tuple[str, LabelSpec]]:
    """Each label with the place where it is written."""
    if isinstance(document, list):
        yield from _listed(document, "taxonomy")
    elif not isinstance(document, Mapping):
        raise TaxonomyInvalid(f"a taxonomy is a mapping or a list, not {_kind(document)}")
    elif isinstance(document.get("labels"), list):
        _refuse_company(document, "labels")
        yield from _listed(document["labels"], "labels")
    elif "root" in document:
        _refuse_company(document, "root")
        if not isinstance(document["root"], Mapping | list):
            raise TaxonomyInvalid(f"root: {_kind(document['root'])} instead of a mapping or a list")
        yield from _nested(document["root"], (), "root")
    else:
        yield from _nested(document, (), "taxonomy")


def _refuse_company(document: Mapping[object, object], key: str) -> None:
    if len(document) > 1:
        raise TaxonomyInvalid(f"{key}: nothing else may stand beside it")


def _listed(items: Sequence[object], place: str) -> Iterator[tuple[str, LabelSpec]]:
    """Labels of a list: paths, mappings with a path, or nested mappings."""
    for index, item in enumerate(items):
        here = f"{place}[{index}]"
        if isinstance(item, str):
            yield here, _label(here, item, None)
        elif isinstance(item, Mapping) and not set(item) <= _LABEL_KEYS:
            yield from _nested(item, (), here)
        elif isinstance(item, Mapping) and isinstance(path := item.get("path", item.get("label")), str):
            yield here, _label(here, path, item.get("guideline"))
        else:
            raise TaxonomyInvalid(f"{here}: a label is a text or a mapping with a path, this is {_kind(item)}")


def _nested(
    node: Mapping[object, object] | Sequence[object], above: tuple[str, ...], place: str
) -> Iterator[tuple[str, LabelSpec]]:
    """Leaves below a node; `above`: the levels down to it."""
    if not isinstance(node, Mapping):
        for index, item in enumerate(node):
            here = f"{place}[{index}]"
            if isinstance(item, Mapping) and item:
                yield from _nested(item, above, here)
            else:
                yield here, _leaf(here, (*above, _level(here, item, len(above))), None)
        return
    for name, below in node.items():
        levels = (*above, _level(place, name, len(above)))
        here = f"{place}.{levels[-1]}"
        if isinstance(below, str):
            yield here, _leaf(here, (*levels, _level(here, below, len(levels))), None)
        elif isinstance(below, Mapping | list) and below:
            yield from _nested(below, levels, here)
        elif below is None or isinstance(below, Mapping | list):
            yield here, _leaf(here, levels, None)
        else:
            raise TaxonomyInvalid(f"{here}: labels stand in a list or a mapping, this is {_kind(below)}")


def _label(place: str, path: str, guideline: object) -> LabelSpec:
    levels = normalise(path).split(SEPARATOR)
    return _leaf(place, tuple(_level(place, level, depth) for depth, level in enumerate(levels)), guideline)


def _level(place: str, name: object, depth: int) -> str:
    """The name of a level, normalised and checked."""
    if not isinstance(name, str):
        raise TaxonomyInvalid(f"{place}: a level is {_kind(name)}, not a text; put it in quotes")
    level = normalise(name)
    if depth >= MOST_LEVELS:
        raise TaxonomyInvalid(f"{place}: more than {MOST_LEVELS} levels")
    if not level:
        raise TaxonomyInvalid(f"{place}: a level is empty")
    if len(level) > LONGEST_LEVEL:
        raise TaxonomyInvalid(f"{place}: a level has {len(level)} characters, at most {LONGEST_LEVEL} fit")
    if SEPARATOR in f" {level} ":
        raise TaxonomyInvalid(f"{place}: {level!r} holds {SEPARATOR!r}, which parts the levels of a path")
    return level


def _leaf(place: str, levels: tuple[str, ...], guideline: object) -> LabelSpec:
    path = join(levels)
    if len(path) > LONGEST_PATH:
        raise TaxonomyInvalid(f"{place}: the path has {len(path)} characters, at most {LONGEST_PATH} fit")
    if guideline is not None and not isinstance(guideline, str):
        raise TaxonomyInvalid(f"{place}: the guideline is {_kind(guideline)}, not a text")
    advice = sanitise(guideline).strip() if guideline else ""
    if len(advice) > LONGEST_GUIDELINE:
        raise TaxonomyInvalid(f"{place}: the guideline has more than {LONGEST_GUIDELINE} characters")
    return LabelSpec(path, levels, advice or None)


def _refuse_inner_leaves(labels: Sequence[LabelSpec], places: Mapping[str, str]) -> None:
    for label in labels:
        for depth in range(1, len(label.levels)):
            above = join(label.levels[:depth])
            if above in places:
                raise TaxonomyInvalid(f"{places[above]}: {above!r} is a label and also has {label.path!r} below it")


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def join(levels: Iterable[str]) -> str:
    """The path of a label from its levels."""
    return SEPARATOR.join(levels)


def split(path: str) -> tuple[str, ...]:
    """The levels of a label from its path."""
    return tuple(path.split(SEPARATOR))


def taxonomy_digest(paths: Iterable[str]) -> str:
    """SHA-256 over the set of paths, as 64 hex digits: the same in whatever order they come."""
    return hashlib.sha256(json.dumps(sorted(paths), ensure_ascii=False).encode()).hexdigest()


def near_labels(wanted: str, paths: Sequence[str], limit: int = 3) -> list[str]:
    """Up to `limit` paths most like the wanted one, best first; none where nothing is alike.

    Shared characters choose a few among thousands, and difflib's ratio, the better and slower judge, orders
    them. A single level counts as much as the path: people often write only that.
    """
    asked = normalise(wanted[: 2 * LONGEST_PATH]).casefold()
    letters = Counter(asked)
    likely = heapq.nsmallest(limit + 20, paths, key=lambda path: _distance(letters, path.casefold()))
    scored = [(_likeness(asked, path.casefold()), path) for path in likely]
    scored.sort(key=lambda pair: -pair[0])
    return [path for score, path in scored[:limit] if score >= _LEAST_LIKENESS]


def _distance(letters: Counter[str], path: str) -> tuple[int, int]:
    """How many characters the path lacks, and its length: of paths that have them all, the shortest is
    nearest.
    """
    return sum(max(0, count - path.count(letter)) for letter, count in letters.items()), len(path)


def _likeness(asked: str, path: str) -> float:
    """The ratio of the path or of its most similar level to what was asked, in [0, 1]."""
    matcher = difflib.SequenceMatcher(None, "", asked, autojunk=False)
    best = 0.0
    for part in {path, *split(path)}:
        matcher.set_seq1(part)
        best = max(best, matcher.ratio())
    return best
