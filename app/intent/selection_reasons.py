"""Say in words why a text was selected, for the person who is asked about it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from app.intent.selection_mix import Chosen
from app.intent.taxonomy import SEPARATOR

LONGEST: Final = 255
_LONGEST_LABEL: Final = 60

Facts = Mapping[str, Any]
Labels = Sequence[str]


def reason(chosen: Chosen, labels: Labels, count: int) -> str:
    """One sentence without the words of any question. `labels`: the path of each column of the pool's probabilities."""
    told = _TOLD[chosen.strategy](chosen.facts, labels)
    asked = f"; asked {count} times" if count > 1 else ""
    return (told + asked)[:LONGEST]


def leaf(path: str) -> str:
    """The last level of a label, shortened: what a person knows it by."""
    return path.rsplit(SEPARATOR, 1)[-1][:_LONGEST_LABEL]


def _unsure(facts: Facts, labels: Labels) -> str:
    return f"unsure {_between(facts, labels)}"


def _between(facts: Facts, labels: Labels) -> str:
    named = [
        f"{leaf(labels[column])} {p:.2f}" for column, p in zip(facts["labels"], facts["probabilities"], strict=True)
    ]
    return f"between {' and '.join(named)}"


def _confused(facts: Facts, labels: Labels) -> str:
    return f"{_between(facts, labels)}, which are often confused"


def _typical(facts: Facts, _labels: Labels) -> str:
    size = facts.get("cluster_size")
    return f"typical of {size} questions that are alike" if size and size > 1 else "unlike the other questions"


def _representative(_facts: Facts, _labels: Labels) -> str:
    return "in the middle of a group of questions that are alike"


def _rare(facts: Facts, labels: Labels) -> str:
    count = facts["label_count"]
    examples = f"only {count} {'example' if count == 1 else 'examples'}" if count else "no example"
    return f"may be {leaf(labels[facts['label']])}, which has {examples}"


def _suspect(facts: Facts, labels: Labels) -> str:
    answer = facts["label"]
    model = f"the model {leaf(labels[answer])} ({facts['probability']:.2f})"
    if facts.get("disagreeing"):
        return f"the rules say something else than {model}"
    others = Counter(column for column in facts["neighbour_labels"] if column != answer)
    column = others.most_common(1)[0][0] if others else -1
    near = leaf(labels[column]) if column >= 0 else "a label that the model does not have"
    return f"its nearest labelled questions say {near}, {model}"


def _far(facts: Facts, labels: Labels) -> str:
    if facts["cosine"] is None:
        return "far from every labelled question: there is none yet"
    column = facts["nearest_label"]
    nearest = f": the nearest is {leaf(labels[column])}, {facts['cosine']:.2f} alike" if column >= 0 else ""
    return f"far from every labelled question{nearest}"


def _drawn(_facts: Facts, _labels: Labels) -> str:
    return "drawn at random from the questions that wait"


_TOLD: Final[Mapping[str, Callable[[Facts, Labels], str]]] = {
    "least_confidence": _unsure,
    "margin": _unsure,
    "entropy": _unsure,
    "cluster_margin": _unsure,
    "representative": _representative,
    "typical": _typical,
    "confusion": _confused,
    "rare": _rare,
    "suspect": _suspect,
    "far": _far,
    "random": _drawn,
}
