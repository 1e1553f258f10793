"""Plan a change of the taxonomy: what becomes of its labels when some are renamed, moved, merged, retired or split."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.intent.taxonomy import SEPARATOR, TaxonomyInvalid, join, near_labels, parse_taxonomy, split

LEAST_PARTS: Final = 2
MOST_NAMED: Final = 200
KEEP: Final = "keep"
REQUEUE: Final = "requeue"


class NoSuchLabel(ValueError):
    """No label that is given today has this path; `near` are the most alike."""

    def __init__(self, near: Sequence[str]) -> None:
        super().__init__(f"no label of today has this path; near ones: {', '.join(near) or 'none'}")
        self.near = list(near)


class PathTaken(ValueError):
    """A label has this path already; of a retired one, too, the path stays its own."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A change as it was asked for. `to`: the new path, the new parent (None: the top), or what is merged into."""

    kind: str
    labels: tuple[str, ...]
    to: str | None = None
    into: tuple[str, ...] = ()
    texts: str = KEEP


@dataclass(frozen=True, slots=True)
class Tree:
    """All labels of a domain: the path of each by id, those that are given today, and the paths that never leave."""

    paths: Mapping[int, str]
    active: Collection[int]
    kept: Collection[str] = ()

    def leaf(self, path: str) -> int:
        """The id of the label that is given today and has this path.

        Raises:
            NoSuchLabel.
        """
        found = next((label_id for label_id in self.active if self.paths[label_id] == path), None)
        if found is None:
            raise NoSuchLabel(near_labels(path, [self.paths[label_id] for label_id in self.active]))
        return found

    def below(self, path: str) -> list[int]:
        """The ids of the labels of today at this path or below it.

        Raises:
            NoSuchLabel: there is none.
        """
        found = [
            label_id
            for label_id in self.active
            if self.paths[label_id] == path or self.paths[label_id].startswith(path + SEPARATOR)
        ]
        return found or [self.leaf(path)]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of the labels.

    `touched`: the labels whose texts and rules it is about, by id; `paths`: the new ones; `retired`: those that leave;
    `given`: paths that are labels afterwards, made or woken where they are not; `requeues`: the texts are asked again.
    `target`: the one of `given` that takes over the texts.
    """

    touched: tuple[int, ...]
    paths: Mapping[int, str]
    retired: tuple[int, ...] = ()
    given: tuple[str, ...] = ()
    target: str | None = None
    requeues: bool = False


def plan(tree: Tree, wanted: Wanted) -> Plan:
    """What this change makes of the labels.

    Raises:
        NoSuchLabel, PathTaken.
        TaxonomyInvalid: it asks for too little or too much, or the labels would be no taxonomy afterwards.
    """
    if not wanted.labels:
        raise TaxonomyInvalid("name the label to change")
    if len(wanted.labels) > MOST_NAMED or len(wanted.into) > MOST_NAMED:
        raise TaxonomyInvalid(f"one change names at most {MOST_NAMED} labels")
    to = _as_written(wanted.to) if wanted.to else None
    made = KINDS[wanted.kind](tree, replace(wanted, to=to, into=tuple(map(_as_written, wanted.into))))
    _refuse_taken(tree, made)
    if lasting := [tree.paths[one] for one in (*made.paths, *made.retired) if tree.paths[one] in tree.kept]:
        raise TaxonomyInvalid(f"{lasting[0]!r} never leaves the taxonomy and keeps its name")
    staying = [made.paths.get(label_id, tree.paths[label_id]) for label_id in tree.active]
    leaving = {tree.paths[label_id] for label_id in made.retired}
    # Levels, lengths, and that no label is an inner node of another, as for any taxonomy.
    parse_taxonomy(list(dict.fromkeys([*(path for path in staying if path not in leaving), *made.given])))
    return made


def _as_written(path: str) -> str:
    """The path as labels are written: each level normalised."""
    (spec,) = parse_taxonomy([path])
    return spec.path


def _refuse_taken(tree: Tree, made: Plan) -> None:
    known = set(tree.paths.values())
    new = list(made.paths.values())
    if taken := next((path for path in new if path in known or new.count(path) > 1), None):
        raise PathTaken(f"{taken!r} is the path of another label, given or retired: merge into that one instead")


def _rename(tree: Tree, wanted: Wanted) -> Plan:
    """Another name for a label, or for an inner node and so in all paths below it."""
    path = _one(wanted)
    if not wanted.to:
        raise TaxonomyInvalid("say what the label is renamed to: `to`")
    return _repathed(tree, path, wanted.to)


def _move(tree: Tree, wanted: Wanted) -> Plan:
    """Another parent for a label, or for an inner node with all that is below it."""
    path = _one(wanted)
    above = split(wanted.to) if wanted.to else ()
    return _repathed(tree, path, join((*above, split(path)[-1])))


def _repathed(tree: Tree, path: str, new: str) -> Plan:
    below = tree.below(path)
    if new == path:
        raise TaxonomyInvalid("this is its path already")
    if new.startswith(path + SEPARATOR):
        raise TaxonomyInvalid(f"{path!r} cannot come to lie below itself")
    paths = {label_id: new + tree.paths[label_id][len(path) :] for label_id in below}
    return Plan(tuple(below), paths)


def _merge(tree: Tree, wanted: Wanted) -> Plan:
    """One label instead of several; it may be one of them, another, or a new one."""
    if not wanted.to:
        raise TaxonomyInvalid("say what the labels are merged into: `to`")
    sources = tuple(dict.fromkeys(tree.leaf(path) for path in wanted.labels if path != wanted.to))
    if not sources:
        raise TaxonomyInvalid("name a label beside the one that it is merged into")
    return Plan(sources, {}, retired=sources, given=(wanted.to,), target=wanted.to)


def _retire(tree: Tree, wanted: Wanted) -> Plan:
    """Labels leave; their texts keep them, which are then trained no more, or are asked again."""
    if wanted.texts not in (KEEP, REQUEUE):
        raise TaxonomyInvalid(f"texts: {KEEP} or {REQUEUE}")
    leaving = tuple(dict.fromkeys(tree.leaf(path) for path in wanted.labels))
    return Plan(leaving, {}, retired=leaving, requeues=wanted.texts == REQUEUE)


def _split(tree: Tree, wanted: Wanted) -> Plan:
    """Several labels instead of one; which of them fits, people say for each of its texts."""
    path = _one(wanted)
    parts = tuple(dict.fromkeys(wanted.into))
    if len(parts) < LEAST_PARTS:
        raise TaxonomyInvalid("name at least two labels to split it into: `into`")
    if path in parts:
        raise TaxonomyInvalid("a label that is split is retired: give the part that stays another name")
    source = tree.leaf(path)
    return Plan((source,), {}, retired=(source,), given=parts, requeues=True)


def _one(wanted: Wanted) -> str:
    if len(wanted.labels) != 1:
        raise TaxonomyInvalid(f"{wanted.kind} takes one label, {len(wanted.labels)} were named")
    return wanted.labels[0]


KINDS: Mapping[str, Callable[[Tree, Wanted], Plan]] = {
    "rename": _rename,
    "move": _move,
    "merge": _merge,
    "retire": _retire,
    "split": _split,
}
